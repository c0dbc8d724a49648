"""Collectives of the processes that torchrun started, by gloo on CPUs and nccl on GPUs; no-ops in a single process."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from istd.utils.device import choose_device
from istd.utils.ranks import world_size

T = TypeVar("T")
# In torch 2.6 the end of a gloo group holds Python's lock while it waits for its threads, which may need that lock to
# release the last collective's tensors: a deadlock, unless they have had the time to release them.
SETTLING_SECONDS = 0.1
# Processes wait while the main process writes a report or checks a dataset; nccl's default of ten minutes would end
# sound runs. torchrun notices at once when a process has ended.
MAX_WAIT = timedelta(hours=12)


@contextmanager
def process_group(device: str = "auto") -> Iterator[torch.device]:
    """Join the process group if torchrun started this process, yield its device, and leave the group at the end.

    `device` is auto, cpu, cuda, cuda:N or mps; under torchrun each process takes the GPU of its local rank.
    """
    launched = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    chosen = choose_device(device, int(os.environ["LOCAL_RANK"]) if launched else None)
    gpu = chosen if chosen.type == "cuda" and chosen.index is not None else None
    if gpu:
        torch.cuda.set_device(gpu)
    if launched:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=MAX_WAIT, device_id=gpu)
    failed = True
    try:
        yield chosen
        failed = False
    finally:
        # After an error nccl would wait for processes that wait for this process; torchrun ends them.
        if launched and not (failed and gpu):
            time.sleep(SETTLING_SECONDS)
            dist.destroy_process_group()


def gather_objects(item: T) -> list[T]:
    """Every process's `item` (picklable), in the order of ranks, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes. Each process's output depends on every input, so the backward pass sums the gradients.

    `torch.distributed.nn.functional.all_reduce` does the same, but is deprecated, and refuses to be compiled.
    """

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all processes, with its gradient.

    A loss of such sums is the same number L on every process. In the backward pass of a process a parameter's gradient
    is the world size times the process's share of dL; their mean, which the training loop takes, is exactly dL.
    """
    return tensor if world_size() == 1 else _AllReduceSum.apply(tensor)


def all_reduce_max(number: int, device: torch.device) -> int:
    """The maximum of all processes' numbers, on every rank."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)
