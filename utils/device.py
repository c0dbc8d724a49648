"""The device of a command, its mixed precision, and the precision of float32."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from istd.utils.amp_names import AMP_NAMES
from istd.utils.errors import InputError
from istd.utils.names import counted

KINDS = ("cpu", "cuda", "mps")  # of devices
AMP_DTYPES = dict(zip(AMP_NAMES[1:], (None, torch.bfloat16, torch.float16), strict=True))  # without "auto"


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is any, and under torchrun the GPU of `local_rank`.

    Raises `InputError` for a device that does not exist, and for one GPU for all processes.
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
                f"device {name!r} is a single GPU, but each process of torchrun takes another; use --device cuda, and "
                "choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        index = local_rank if device.index is None else device.index
        if (index or 0) >= torch.cuda.device_count():
            asked = f"device {name!r} (GPU {index or 0}) asked for"
            seen = f"torch sees {counted(torch.cuda.device_count(), 'GPU')}"
            raise InputError(f"{asked}, but {seen}; use --device cpu, or fewer processes")
        return device if index is None else torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' asked for, but this machine has none; use --device cpu")
    return device


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision by its name in `AMP_NAMES`, None for float32; `InputError` for other names.

    "auto" is bf16 on GPUs from Ampere on (older GPUs emulate it slowly) and on processors with AMX, else none.
    """
    if name not in AMP_NAMES:
        raise InputError(f"amp is {name!r}, expected one of {', '.join(AMP_NAMES)}")
    if name == "auto":
        ampere = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        fast = ampere or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
        name = "bf16" if fast else "none"
    return AMP_DTYPES[name]


def amp_name(dtype: torch.dtype | None) -> str:
    """The name of a dtype returned by `choose_amp`."""
    return next(name for name, known in AMP_DTYPES.items() if known == dtype)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision in `dtype` (see `choose_amp`), without autocast's cache of converted weights.

    A CUDA graph would keep the weights of its capture, and hardly any weight is used twice in a pass.
    """
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype, cache_enabled=False)


@contextmanager
def float32_precision(tf32: bool, benchmark: bool = False) -> Iterator[None]:
    """On a GPU, compute float32 products in full precision, or with operands rounded to TF32, which is faster.

    PyTorch's default is TF32 in convolutions only. With the shipped weights that changes logits by up to 0.1, true
    float32 by 2e-5. `benchmark`: let cuDNN try its algorithms for each new shape, which pays where shapes are few.
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
