"""Metrics, checkpoints, images, configuration and errors, which know nothing of the other packages."""

import os

# Let threads that wait for the others of an operation sleep: on cores that other programs use too, spinning makes two
# threads many times slower than one. OpenMP reads this once, when torch is imported; therefore the commands' packages
# import this one first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
