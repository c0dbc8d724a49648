"""The same networks in forms that ONNX can hold: no work per sample, no size of the batch taken for a constant."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models import gradient_transformer
from models.ops.window_attention import FastWindowAttention3d, FastWindowAttentionV2


@contextmanager
def exportable_forms(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` runs in an exportable form; its results differ by rounding at most."""
    attentions = [part for part in model.modules() if type(part) in (FastWindowAttention3d, FastWindowAttentionV2)]
    kept = [type(part) for part in attentions]
    convolve = gradient_transformer.convolve_each
    gradient_transformer.convolve_each = convolve_each
    for part in attentions:
        part.__class__ = type(part).__base__  # torchvision's, which has the same weights
    try:
        yield
    finally:
        gradient_transformer.convolve_each = convolve
        for part, fast in zip(attentions, kept, strict=True):
            part.__class__ = fast


def convolve_each(padded: Tensor, kernels: list[Tensor], shifts: tuple[int, ...]) -> Tensor:
    """`models.ops.gradient_attention.convolve_each` as a matrix product over the nine taps.

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
