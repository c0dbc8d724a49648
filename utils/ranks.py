"""The rank of this process among the processes that torchrun started, and its share of the cores.

Nothing here imports PyTorch, which takes more than a second: a process that has not imported it works alone.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_alone: ContextVar[bool] = ContextVar("alone", default=False)  # of a thread


def rank() -> int:
    """This process's number, 0 if it is alone."""
    return sys.modules["torch.distributed"].get_rank() if world_size() > 1 else 0


def world_size() -> int:
    """How many processes work together."""
    dist = sys.modules.get("torch.distributed")
    grouped = dist and dist.is_available() and dist.is_initialized() and not _alone.get()
    return dist.get_world_size() if grouped else 1


@contextmanager
def alone() -> Iterator[None]:
    """Within, this thread computes as if there were no other processes, and waits for none."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def cores_of_process() -> int:
    """This process's share of the cores that it may use on its machine, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_main() -> bool:
    """True in the process that writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        sys.modules["torch.distributed"].barrier()
