"""The same networks in forms that ONNX can hold: no work per sample, no size of the batch taken for a constant."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models import gradient_transformer, window_attention


@contextmanager
def exportable_forms() -> Iterator[None]:
    """Within the block, the networks run in exportable forms; results differ by rounding at most."""
    kept = gradient_transformer._convolve_each, window_attention._join
    gradient_transformer._convolve_each = convolve_each
    window_attention._join = join
    try:
        yield
    finally:
        gradient_transformer._convolve_each, window_attention._join = kept


def convolve_each(padded: Tensor, kernels: list[Tensor], shifts: tuple[int, ...]) -> Tensor:
    """`models.gradient_transformer._convolve_each` as a matrix product over the nine taps.

    ONNX has no convolution with a kernel per sample. padded: [B, C, H + 2m, W + 2m]; kernels: [B, O, C, 3, 3] each.
    """
    margin = max(shifts)
    height, width = padded.shape[2] - 2 * margin, padded.shape[3] - 2 * margin
    windows, taps = [], []
    for shift, kernel in zip(shifts, kernels, strict=True):
        for row in range(3):
            for column in range(3):
                top, left = margin + (row - 1) * shift, margin + (column - 1) * shift
                windows.append(padded[:, :, top : top + height, left : left + width])
        taps.append(kernel.flatten(3).transpose(2, 3).flatten(2))  # [B, O, 9 C], tap outer
    product = torch.cat(taps, dim=2) @ torch.cat(windows, dim=1).flatten(2)
    return product.unflatten(2, (height, width))


def join(x: Tensor, window: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """`models.window_attention._join` with the batch as a symbol: `len(x)` would fix it."""
    counts = [side // extent for side, extent in zip(size, window, strict=True)]
    x = x.reshape(x.shape[0], *counts, *window, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape[0], *size, x.shape[-1])
