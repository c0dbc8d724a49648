"""`GreyNetwork`: a network with its preset's preprocessing and padding as one module, for export."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.datasets.transforms import (
    CONTRAST_WINDOW,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MIN_CONTRAST,
    linear_weights,
)
from istd.test_script.predictor.tiling import reflected_index

CONTRAST = "local_contrast"


class GreyNetwork(nn.Module):
    """Grey frames [B, T, H, W] in 0..1 to the target frame's probability [B, 1, H, W], as `Predictor` computes it.

    Args:
        model: a network of `models`.
        preset: the name of the preset whose evaluation prepares frames.
        sizes: of the frames, and what the preset resizes them to; None where frames keep their size, which may vary.
    """

    def __init__(self, model: nn.Module, preset: str, sizes: tuple[tuple[int, int], tuple[int, int]] | None = None):
        super().__init__()
        self.model, self.preset = model, preset
        self.resizes = sizes is not None and sizes[0] != sizes[1]
        if self.resizes:
            for name, length, new_length in zip(("rows", "columns"), *sizes, strict=True):
                weights = linear_weights(length, new_length).toarray().astype(np.float32)
                self.register_buffer(name, torch.from_numpy(weights), persistent=False)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (1 / std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Grey frames [B, T, H, W] in 0..1, of any H and W, to a probability [B, 1, H, W]."""
        size = frames.shape[-2:]
        x = frames
        if self.preset == CONTRAST:
            x = local_contrast(x)
        elif self.resizes:
            x = self.rows @ x @ self.columns.T
        height, width = x.shape[-2:]
        x = x[:, :, None]  # [B, T, 1, H, W]
        if self.model.in_channels == 3:
            x = x.expand(-1, -1, 3, -1, -1) if self.preset == CONTRAST else x * self.scale + self.shift
        for axis, side in ((-2, height), (-1, width)):
            multiple = self.model.size_multiple
            padded = (side + multiple - 1) // multiple * multiple  # ONNX divides negative numbers towards 0
            x = x.index_select(axis, reflected_index(side, 0, padded - side, x.device))
        logits = self.model(x)[..., :height, :width]
        if self.resizes:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits.sigmoid()


def local_contrast(frames: Tensor) -> Tensor:
    """`datasets.transforms.local_contrast` of frames [B, T, H, W]."""
    reach = CONTRAST_WINDOW // 2
    around = frames
    for axis, window in ((-2, (CONTRAST_WINDOW, 1)), (-1, (1, CONTRAST_WINDOW))):
        around = around.index_select(axis, reflected_index(frames.shape[axis], reach, reach, frames.device))
        around = F.avg_pool2d(around, window, stride=1)
    difference = frames - around
    deviation = difference.var(dim=(-2, -1), correction=0, keepdim=True).sqrt()
    return difference / deviation.clamp(min=MIN_CONTRAST)
