"""Batch norm folded into the convolution before it, and layer norm over a few channels with a fast gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 8  # channels up to which the form here is the faster one


class _NarrowNorm(torch.autograd.Function):
    """Layer norm of tokens [N, C]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        out, mean, factor = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, mean, factor)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, mean, factor = ctx.saved_tensors
        normed = (x - mean).mul_(factor)
        grad_weight = (grad * normed).sum(0)
        scaled = grad * weight
        # the mean over the channels, in each of them, as a product: much faster than a reduction of rows this short
        average = torch.full((len(weight), len(weight)), 1 / len(weight), dtype=x.dtype, device=x.device)
        grad_x = scaled - scaled @ average
        grad_x -= normed * ((scaled * normed) @ average)
        return grad_x.mul_(factor), grad_weight, grad.sum(0), None


class NarrowLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last side, with a faster gradient on a processor where that has few channels."""

    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        if plain or x.shape[-1] > NARROW or not torch.is_grad_enabled():
            return super().forward(x)
        return _NarrowNorm.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias, self.eps).view_as(x)


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
