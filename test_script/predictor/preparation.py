"""From decoded frames to a network's input, as the network was trained; the same for training's validation, inference
and prediction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets import ClipDataset, Sequence
from datasets.clips import Transform
from datasets.presets import PRESETS, build_transform, find_preset
from utils.checkpoint import Checkpoint

DEFAULT_PRESET = "fast"  # of a network without a preset of its own: frames as they are


def recipe_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """The settings a network of ours was trained with; those of a published file have other names and meanings."""
    return checkpoint.settings if checkpoint.kind == "ours" else {}


def preset_of(model: nn.Module, settings: dict[str, Any]) -> str:
    """The preset a network was trained with; without one in its `settings`, that of its paper."""
    own = model.name if model.name in PRESETS else DEFAULT_PRESET
    return settings.get("preset") or own


def eval_transform(model: nn.Module, settings: dict[str, Any], tiled: bool = False) -> Transform:
    """The evaluation of the preset in the `settings` of a network's training, at the `val_size` of its validation.

    A network that works in tiles sees frames at their own size.
    """
    preset = preset_of(model, settings)
    size = None if tiled else settings.get("val_size") or find_preset(preset).size
    return build_transform(preset, False, size, model.in_channels)


def eval_dataset(
    sequences: list[Sequence], model: nn.Module, settings: dict[str, Any], name: str, tiled: bool = False
) -> ClipDataset:
    """The clips and masks on which a network is evaluated; arguments as in `eval_transform`, `name` for messages."""
    border = find_preset(preset_of(model, settings)).border
    return ClipDataset(sequences, model.num_frames, eval_transform(model, settings, tiled), border, name)


def frame_preparation(transform: Transform) -> Callable[[np.ndarray], torch.Tensor]:
    """The transform for one grey frame [H, W] at a time: float32 in 0..1 -> [C, h, w]."""
    random = np.random.default_rng(0)  # evaluation draws nothing from it

    def prepare(frame: np.ndarray) -> torch.Tensor:
        clip, _ = transform(frame[None], np.zeros(frame.shape, bool), random)
        return clip[0]

    return prepare
