"""Commands that run networks over datasets, images and videos, and measure the results."""

import os

# Let threads that wait for the others of a pass sleep: on cores that other programs use too, spinning makes two threads
# many times slower than one. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
