"""Convolutions with batch norm: one convolution in eval mode; in training on a CPU, with a faster weight gradient.

oneDNN computes the weight gradient of wide 3x3 convolutions at half the rate of its other convolutions on processors
without AVX-512. Nine matrix products, one a tap, are faster. Into a 1x1 convolution of an image's few channels the norm
is folded in training, too: the statistics of its output follow from the mean and covariance of its input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.models import ops

MIN_CHANNELS = 64  # on either side; below, matrix products are too narrow to be fast
MAX_INPUTS = 4  # channels that count as few
BAND_PIXELS = 8192  # multiplied at once, so that they stay in the cache for all nine products


class _Conv3x3(torch.autograd.Function):
    """x [B, C, H, W], weight [O, C, 3, 3], bias [O] or None, stride 1, padding 1 -> [B, O, H, W]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, padding=1)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad, x)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient [O, C, 3, 3] from that of the output [B, O, H, W] and the input [B, C, H, W].

    Both are padded to H + 2 rows of W + 2 pixels, and laid out pixel by pixel: each of the nine taps is then a fixed
    distance between a pixel of the output and its pixel of the input. In memory the gradient is channels-last, as the
    weights of these layers are: autograd then keeps it without a copy.
    """
    width = x.shape[3] + 2
    pixels = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    grads = F.pad(grad, (0, 2, 0, 2)).permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    end = len(pixels) - 2 * width - 2
    taps = x.new_zeros(grad.shape[1], 3, 3, x.shape[1])
    for first in range(0, end, BAND_PIXELS):
        last = min(first + BAND_PIXELS, end)
        band = grads[first:last].t()
        for row in range(3):
            for column in range(3):
                shift = row * width + column
                taps[:, row, column].addmm_(band, pixels[first + shift : last + shift])
    return taps.permute(0, 3, 1, 2)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """`norm(conv(x))`; in eval mode as one convolution, whose weights are scaled on the fly (gradients stay exact)."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        if not _can_fold(x, conv, norm):
            return norm(_convolve(x, conv))
        mean, variance = _output_statistics(x, conv, norm)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    bias = norm.bias - mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _can_fold(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether the norm of a training batch can be folded into the convolution; not where processes share statistics."""
    pointwise = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    usual = type(norm) is nn.BatchNorm2d and norm.momentum is not None and x[:, 0].numel() > 1
    usual = usual and x.dtype == norm.weight.dtype and not torch.is_autocast_enabled("cpu")
    return pointwise and conv.in_channels <= MAX_INPUTS and usual and ops.in_pieces(x)


def _output_statistics(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance [O] of `conv(x)`, of a 1x1 convolution; also updates the running ones."""
    pixels = x.movedim(1, -1).flatten(0, -2).double()  # the product over all pixels adds them one by one
    weight, mean = conv.weight.flatten(1), pixels.mean(dim=0)
    centred = pixels - mean
    covariance = (centred.T @ centred / len(pixels)).to(x.dtype)
    variance = (weight @ covariance * weight).sum(dim=1).clamp(min=0)
    mean = F.linear(mean.to(x.dtype), weight, conv.bias)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * len(pixels) / (len(pixels) - 1), norm.momentum)
    return mean, variance


def _convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """`conv(x)`."""
    fits = conv.kernel_size == (3, 3) and conv.stride == conv.padding == conv.dilation == (1, 1) and conv.groups == 1
    wide = min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    if fits and wide and ops.in_pieces(x) and not torch.is_autocast_enabled("cpu"):
        return _Conv3x3.apply(x, conv.weight, conv.bias)
    return conv(x)
