"""Fast forms of the networks' layers, each equal to a plain form by the tests."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_exporting() -> bool:
    """Whether `torch.export` traces the network; never before torch 2.7, which cannot export ours."""
    return hasattr(torch.compiler, "is_exporting") and torch.compiler.is_exporting()


def on_cpu(tensor: Tensor) -> bool:
    """Whether a layer takes the form made for a CPU's caches; tests patch it to run here what runs on GPUs."""
    return tensor.device.type == "cpu"


def in_pieces(tensor: Tensor) -> bool:
    """Whether a layer goes through its input in pieces that fit a cache: on a CPU, unless compiled."""
    return on_cpu(tensor) and not torch.compiler.is_compiling()


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """`norm(conv(x))`; in eval mode as one convolution, whose weights are scaled on the fly (gradients stay exact)."""
    if norm.training:
        return norm(conv(x))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
