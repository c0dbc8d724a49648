"""A convolution and its batch norm: in eval mode, one convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
