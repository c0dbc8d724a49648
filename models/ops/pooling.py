"""Mean and maximum of a map, differentiated together."""

import torch
from torch import Tensor


class MeanAndMax(torch.autograd.Function):
    """Mean and maximum over some sides, which stay with length 1. Equal maxima share their gradient equally."""

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
