"""From decoded frames to a network's input, as the network was trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.clips import Transform
from datasets.presets import build_transform
from datasets.transforms import contrast_input, local_contrast, mask_tensor, network_input, to_float
from utils.checkpoint import Checkpoint

SGMP_PRESET = "sgmp_unet"
SGMP_SHORT_SIDE = 320


@dataclass(frozen=True)
class NativeSize:
    """Frames at their own size, of any size: the predictor pads them. The mask keeps its size too."""

    channels: int
    contrast: bool = False

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clip = to_float(frames)
        if self.contrast:
            return contrast_input(local_contrast(clip), self.channels), mask_tensor(mask)
        return network_input(clip, self.channels), mask_tensor(mask)


def recipe_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings a network of ours was trained with; a published file's say nothing here."""
    return checkpoint.settings if checkpoint.kind == "ours" else {}


def eval_transform(model: nn.Module, settings: dict[str, Any], tiled: bool = False) -> Transform:
    """What to do with a clip before `model` sees it; `settings` are those its checkpoint holds.

    A network trained with the SGMP-UNet preset sees frames with their short side at 320 (or the `val_size` it was
    validated with); every other one, and every one that works in tiles, sees them at their own size.
    """
    preset = preset_of(model, settings)
    if preset == SGMP_PRESET and not tiled:
        size = settings.get("val_size") or SGMP_SHORT_SIDE
        return build_transform(SGMP_PRESET, train=False, size=size, channels=model.in_channels)
    return NativeSize(model.in_channels, contrast=preset == "contrast")


def preset_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """The preprocessing a network was trained with; a published checkpoint's is that of its paper."""
    return settings.get("preset") or model.name


def frame_preparation(transform: Transform) -> Callable[[np.ndarray], torch.Tensor]:
    """The transform for one grey frame [H, W] at a time: float32 in 0..1 -> [C, h, w]."""
    random = np.random.default_rng(0)  # evaluation draws nothing from it

    def prepare(frame: np.ndarray) -> torch.Tensor:
        clip, _ = transform(frame[None], np.zeros(frame.shape, bool), random)
        return clip[0]

    return prepare
