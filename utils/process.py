"""Settings of a command's process: how it allocates memory and how its threads wait. Importing changes nothing.

A program that uses the packages gets the same settings by calling `set_up_process()` before it imports torch.
"""

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MAX_TRIM_THRESHOLD = (1 << 31) - 1


def set_up_command(package: str) -> None:
    """`set_up_process()` if Python was started as `python -m PACKAGE.MODULE`.

    For a package's `__init__.py`, which Python then runs before the command and its import of torch.
    """
    # while Python imports the package, `sys.argv` begins with "-m" in place of the module's name
    if sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith(f"{package}."):
        set_up_process()


def set_up_process() -> None:
    """Set how this process and its children allocate memory and how threads wait; call it before importing torch.

    Until `run_main` takes over, Ctrl-C ends the process at once, without a traceback from the imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_spinning(os.environ)
    if sys.platform == "linux":
        keep_freed_memory(ctypes.CDLL(None), os.environ)


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait for each other go to sleep soon, unless the environment says how they wait.

    On cores that other programs use too, spinning makes two threads many times slower than a single thread. With GNU's
    OpenMP they spin for tens of microseconds first, which avoids most wake-ups. Importing torch reads the environment.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "passive"
        environment.setdefault("GOMP_SPINCOUNT", "1000")


def keep_freed_memory(libc: ctypes.CDLL, environment: MutableMapping[str, str]) -> None:
    """Let glibc keep freed memory for the next layer; other C libraries have no mallopt.

    By default the pages of every large tensor go back to the system and are mapped and zeroed anew, which took a fifth
    of a training step on a CPU. Processes started from here read the environment.
    """
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(M_TRIM_THRESHOLD, MAX_TRIM_THRESHOLD)
    environment["MALLOC_TRIM_THRESHOLD_"] = str(MAX_TRIM_THRESHOLD)
    for threshold in (1 << 30, 1 << 25):  # glibc before 2.35 refuses more than half of a heap of 64 MB
        if libc.mallopt(M_MMAP_THRESHOLD, threshold):
            environment["MALLOC_MMAP_THRESHOLD_"] = str(threshold)
            break
