"""Mean and maximum of a map, differentiated together."""

import torch
from torch import Tensor


class _MeanAndMax(torch.autograd.Function):
    """Mean and maximum; equal maxima share their gradient equally, as in `amax`."""

    @staticmethod
    def forward(ctx, x: Tensor, sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        largest = x.amax(dim=sides, keepdim=True)
        ctx.save_for_backward(x, largest)
        ctx.sides = sides
        return x.mean(dim=sides, keepdim=True), largest

    @staticmethod
    def backward(ctx, grad_mean: Tensor, grad_largest: Tensor):
        x, largest = ctx.saved_tensors
        grad_mean = grad_mean * (largest.numel() / x.numel())
        chosen = x == largest
        count = chosen.sum(dim=ctx.sides, keepdim=True, dtype=x.dtype)
        return torch.where(chosen, grad_largest / count + grad_mean, grad_mean), None


def mean_and_max(x: Tensor, sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`x.mean(sides, keepdim=True)` and `x.amax(sides, keepdim=True)`, with their gradients in one pass."""
    return _MeanAndMax.apply(x, sides)
