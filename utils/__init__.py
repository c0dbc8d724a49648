"""Metrics, checkpoints, images, configuration and errors, which know nothing of the other packages."""

import ctypes
import os
import sys

# Let threads that wait for the others of an operation sleep: on cores that other programs use too, spinning makes two
# threads many times slower than one. OpenMP reads this once, when torch is imported; therefore the commands' packages
# import this one first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Let glibc keep freed memory for the next layer. By default the pages of every large tensor go back to the system and
# are mapped and zeroed anew, which took a fifth of a training step on a CPU. (Numbers: M_MMAP_THRESHOLD and
# M_TRIM_THRESHOLD of malloc.h; other C libraries have no mallopt.)
if sys.platform == "linux" and hasattr(_libc := ctypes.CDLL(None), "mallopt"):
    _libc.mallopt(-3, 1 << 30)
    _libc.mallopt(-1, (1 << 31) - 1)
