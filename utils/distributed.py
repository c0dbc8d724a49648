"""Where and how a command computes: its device, its mixed precision, and the processes that torchrun started.

Several processes work as one over gloo on CPUs and nccl on GPUs. Alone, the collectives here are no-ops.
"""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from istd.utils.errors import InputError

T = TypeVar("T")
KINDS = ("cpu", "cuda", "mps")  # of devices
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AMP_NAMES = ("auto", *AMP_DTYPES)
AMP_HELP = "mixed precision: none (float32), bf16, fp16, or auto (bf16 where the hardware supports it natively)"
# In torch 2.6 the end of a gloo group holds Python's lock while it waits for its threads, and one of them may need that
# lock to let go of the last collective's tensors: a deadlock, unless it has had the time to do so.
SETTLING_SECONDS = 0.1
# Processes wait for each other while one of them writes a report or checks a dataset. One that has ended is noticed by
# torchrun at once; the default of nccl, ten minutes, ends runs that are fine.
MAX_WAIT = timedelta(hours=12)


@contextmanager
def process_group(device: str = "auto") -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and yield this process's device; at the end, leave them.

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
        # After an error nccl would wait for processes that wait for this one; torchrun ends them.
        if launched and not (failed and gpu):
            time.sleep(SETTLING_SECONDS)
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device called `name`; auto is a GPU where there is one, that of `local_rank` for a process of torchrun.

    Raises `InputError` for a device that is not there, or for one GPU for all processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in KINDS:
        raise InputError(f"device {name!r} is unknown; give auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        if local_rank is not None and device.index is not None:
            raise InputError(
                f"device {name!r} is one GPU, but each process of torchrun takes its own; use --device cuda, and "
                "choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        index = local_rank if device.index is None else device.index
        if (index is not None and index >= torch.cuda.device_count()) or not torch.cuda.is_available():
            asked = f"device {name!r} (GPU {index or 0}) asked for"
            seen = f"torch sees {torch.cuda.device_count()} GPUs"
            raise InputError(f"{asked}, but {seen}; use --device cpu, or fewer processes")
        return device if index is None else torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' asked for, but this machine has none; use --device cpu")
    return device


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The number format of mixed precision by its name in `AMP_NAMES`, None for float32; `InputError` for another.

    auto is bf16 on GPUs from Ampere on, which older ones emulate slowly, and on processors with AMX; elsewhere none.
    """
    if name not in AMP_NAMES:
        raise InputError(f"amp is {name!r}, expected one of {', '.join(AMP_NAMES)}")
    if name == "auto":
        ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        fast = ampere or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
        name = "bf16" if fast else "none"
    return AMP_DTYPES[name]


def amp_name(dtype: torch.dtype | None) -> str:
    """The name of a number format that `choose_amp` gave."""
    return next(name for name, known in AMP_DTYPES.items() if known == dtype)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision in `dtype`, as `choose_amp` gives it.

    Without a cache of converted weights: a CUDA graph would keep those of its capture, and hardly any is used twice.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype, cache_enabled=False)


@contextmanager
def float32_precision(tf32: bool, benchmark: bool = False) -> Iterator[None]:
    """On a GPU, compute float32 in float32, or with operands rounded to TF32, which is faster.

    PyTorch's default is TF32 in convolutions only. With the shipped weights that changes logits by up to 0.1, true
    float32 by 2e-5. `benchmark`: try out cuDNN's algorithms for each new shape; pays where shapes are few.
    """
    cudnn, products = torch.backends.cudnn, torch.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before
        torch.set_float32_matmul_precision(products)


def rank() -> int:
    """This process's number, 0 if it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def cores_of_process() -> int:
    """This process's share of the cores that it may use on its machine, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


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

    A loss built from such sums is the same number L on every process, and each runs its own backward pass, so a
    parameter's gradient is the world size times its process's share of dL; the average that
    `DistributedDataParallel` takes over processes is then exactly dL.
    """
    return tensor if world_size() == 1 else _AllReduceSum.apply(tensor)


def all_reduce_max(number: int, device: torch.device) -> int:
    """The maximum of all processes' numbers, on every rank."""
    if world_size() == 1:
        return number
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()
