"""Train and eval pipelines by name: "sgmp_unet" and "datransnet" as published, and "fast"."""

from dataclasses import dataclass

import numpy as np
import torch

from datasets.clips import Transform
from datasets.transforms import (
    mask_tensor,
    network_input,
    resize,
    resize_mask,
    short_side_size,
)
from utils.errors import InputError

SIZE_MULTIPLE = 32  # of both networks' inputs
EVAL_LONG_SIDE = 576  # SGMP-UNet, for a short side of 320


@dataclass(frozen=True)
class SgmpEval:
    """SGMP-UNet's evaluation: short side to `size`, long side at most 1.8 times that, both rounded to multiples of 32.

    The mask keeps its size.
    """

    size: int
    channels: int

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        long_limit = round(self.size * EVAL_LONG_SIDE / 320)
        sides = short_side_size(*frames.shape[1:], self.size, long_limit)
        clip = resize(frames, *(_to_multiple(side) for side in sides))
        return network_input(clip, self.channels), mask_tensor(mask)


@dataclass(frozen=True)
class DatransnetTrain:
    """DATransNet's training: no augmentation; image and mask at `size` x `size`, resized only where they are not."""

    size: int
    channels: int

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clip = resize(frames, self.size, self.size)
        return network_input(clip, self.channels), mask_tensor(resize_mask(mask, self.size, self.size))


@dataclass(frozen=True)
class DatransnetEval:
    """DATransNet's evaluation: the image at `size` x `size`; the mask keeps its size."""

    size: int
    channels: int

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return network_input(resize(frames, self.size, self.size), self.channels), mask_tensor(mask)


@dataclass(frozen=True)
class FastEval:
    """Every image at its own scale, as the fast training sees it.

    Sides that are no multiple of 32 are resized up to one. The mask keeps its size.
    """

    channels: int

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = (-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in frames.shape[1:])
        return network_input(resize(frames, height, width), self.channels), mask_tensor(mask)


def build_transform(preset: str, train: bool, size: int, channels: int) -> Transform:
    """Pipeline of a preset: frames and mask -> clip [T, C, H, W] and mask [1, h, w] (in training, h x w is H x W).

    `channels` is the network's: 1 for grey in 0..1, 3 for replicated grey with ImageNet mean and std. `size` is the
    side of a training crop, or in evaluation the short side ("sgmp_unet") or both sides ("datransnet"); evaluation of
    "fast" keeps each image's own scale and ignores it.
    """
    pipelines = {
        "sgmp_unet": (DatransnetTrain, SgmpEval),
        "datransnet": (DatransnetTrain, DatransnetEval),
        "fast": (DatransnetTrain, FastEval),
    }
    if preset not in pipelines:
        raise InputError(f"preset {preset!r} is unknown; expected one of {', '.join(pipelines)}")
    if channels not in (1, 3):
        raise InputError(f"{channels} channels; expected 1 (grey) or 3 (RGB)")
    if preset == "fast" and not train:
        return FastEval(channels)
    return pipelines[preset][0 if train else 1](size, channels)


def _to_multiple(side: int) -> int:
    """The nearest multiple of 32, upwards from the middle; at least 32."""
    return max(1, (side + SIZE_MULTIPLE // 2) // SIZE_MULTIPLE) * SIZE_MULTIPLE
