"""Metrics, checkpoints, images, configuration and errors, which know nothing of the other packages."""

import ctypes
import os
import sys
from collections.abc import MutableMapping


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait for the others of an operation soon sleep, unless the environment says how they wait.

    On cores that other programs use too, spinning makes two threads many times slower than one. With GNU's OpenMP they
    spin for tens of microseconds first, which spares most of them waking up.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"
        environment.setdefault("GOMP_SPINCOUNT", "1000")


# OpenMP reads this once, when torch is imported; therefore the commands' packages import this one first.
limit_spinning(os.environ)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory(libc: ctypes.CDLL) -> None:
    """Let glibc keep freed memory for the next layer; other C libraries have no mallopt.

    By default the pages of every large tensor go back to the system and are mapped and zeroed anew, which took a fifth
    of a training step on a CPU.
    """
    if hasattr(libc, "mallopt"):
        # glibc before 2.35 refuses more than half of a heap of 64 MB
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


if sys.platform == "linux":
    keep_freed_memory(ctypes.CDLL(None))
