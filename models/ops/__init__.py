"""Fast forms of the networks' layers, which the tests compare with plain forms."""

import torch
from torch import Tensor


def is_exporting() -> bool:
    """Whether `torch.export` traces the network; never before torch 2.7, which cannot export ours."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def on_cpu(tensor: Tensor) -> bool:
    """Whether a layer takes the form made for a CPU's caches; tests patch it to run here what runs on GPUs."""
    return tensor.device.type == "cpu"


def is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph captures the layer, which then may neither read a cache nor leave anything in it: a tensor
    from before could be freed while the graph still reads it, and a new tensor has no values before the graph runs."""
    return tensor.is_cuda and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing()


def in_pieces(tensor: Tensor) -> bool:
    """Whether a layer goes through its input in pieces that fit a cache: on a CPU, unless compiled."""
    return on_cpu(tensor) and not torch.compiler.is_compiling()
