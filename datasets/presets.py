"""Train and eval pipelines by name: "sgmp_unet" and "datransnet" as published, and our "fast" and "contrast"."""

from dataclasses import dataclass

import numpy as np
import torch

from datasets.clips import Transform
from datasets.transforms import (
    contrast_input,
    crop_around,
    linear_weights,
    local_contrast,
    mask_tensor,
    nearest_indices,
    network_input,
    resample,
    resize,
    resize_crop,
    resize_mask,
    short_side_size,
    to_float,
)
from utils.errors import InputError

PRESETS = ("sgmp_unet", "datransnet", "fast", "contrast")

SIZE_MULTIPLE = 32  # of both networks' inputs
EVAL_LONG_SIDE = 576  # SGMP-UNet, for a short side of 320

FIRST_SHORT_SIDES = range(480, 801, 32)  # SGMP-UNet's training, in the order of its steps
FIRST_LONG_SIDE = 800
BRIGHTNESS = 32 / 255
CONTRAST = (0.5, 1.5)
SECOND_SHORT_SIDES = (500, 600, 700)
CROP_SIDES = (473, 750)

NATIVE_SCALE_SHARE = 0.5  # of the fast preset's crops
LARGEST_SCALE = 1.5
GAIN = (0.7, 1.4)
OFFSET = 0.1
TARGET_MARGIN = 8  # pixels that a target keeps from the edge of its crop, where the image allows


@dataclass(frozen=True)
class SgmpTrain:
    """SGMP-UNet's training: flip, resize, photometric distortion per frame, resize, crop, resize to `size` x `size`.

    The three resizes and the crop are one product of weights, applied once. Frames are grey in equal RGB channels,
    which saturation, hue and channel shuffle leave as they are; brightness and contrast are affine and so commute with
    resizing, up to the clipping at black and white, which happens here on the stored pixels.
    """

    size: int
    channels: int

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if random.random() < 0.5:
            frames, mask = frames[:, :, ::-1], mask[:, ::-1]
        first = short_side_size(*mask.shape, int(random.choice(FIRST_SHORT_SIDES)), FIRST_LONG_SIDE)
        clip = np.stack([_distort(frame, random) for frame in to_float(frames)])
        second = short_side_size(*first, int(random.choice(SECOND_SHORT_SIDES)))
        weights, indices = [], []
        for side, length, middle in zip(mask.shape, first, second, strict=True):
            crop = int(random.integers(CROP_SIDES[0], min(middle, CROP_SIDES[1]), endpoint=True))
            start = int(random.integers(0, middle - crop, endpoint=True))
            window = slice(start, start + crop)
            chain = linear_weights(length, middle)[window] @ linear_weights(side, length)
            weights.append(linear_weights(crop, self.size) @ chain)
            chain = nearest_indices(side, length)[nearest_indices(length, middle)[window]]
            indices.append(chain[nearest_indices(crop, self.size)])
        return network_input(resample(clip, *weights), self.channels), mask_tensor(mask[np.ix_(*indices)])


def _distort(frame: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Brightness with p 0.5, contrast with p 0.5, clipped to 0..1."""
    offset = random.uniform(-BRIGHTNESS, BRIGHTNESS) if random.random() < 0.5 else 0.0
    gain = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    return np.clip((frame + np.float32(offset)) * np.float32(gain), 0, 1)


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
class FastTrain:
    """A crop, at most one resize of it, flips and quarter turns, and brightness and contrast of the whole clip.

    The crop contains a target with probability `target_share` (where the frame has one), and otherwise lies anywhere.
    Half of the crops are taken at the image's own scale, the others enlarged by 1..1.5: targets never shrink, so none
    is lost. Contrast is stretched around the crop's mean, and nothing is clipped, so that no dark sky drowns.
    With `contrast`, frames become their local contrast before they are cropped, as in evaluation; brightness is no part
    of it.
    """

    size: int
    channels: int
    target_share: float = 0.75
    contrast: bool = False

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clip = local_contrast(to_float(frames)) if self.contrast else frames
        scale = 1.0 if random.random() < NATIVE_SCALE_SHARE else random.uniform(1, LARGEST_SCALE)
        side = min(round(self.size / scale), *mask.shape)
        around_target = random.random() < self.target_share
        top, left = crop_around(mask if around_target else None, mask.shape, side, TARGET_MARGIN, random)
        window = (slice(top, top + side), slice(left, left + side))
        clip = resize_crop(to_float(clip[(slice(None), *window)]), self.size)
        mask = resize_mask(mask[window], self.size, self.size)
        if random.random() < 0.5:
            clip, mask = clip[:, :, ::-1], mask[:, ::-1]
        turns = int(random.integers(4))
        clip, mask = np.rot90(clip, turns, axes=(1, 2)), np.rot90(mask, turns)
        gain, offset = np.float32(random.uniform(*GAIN)), np.float32(random.uniform(-OFFSET, OFFSET))
        if self.contrast:
            return contrast_input(clip * gain, self.channels), mask_tensor(mask)
        clip = clip * gain + ((1 - gain) * clip.mean() + offset)
        return network_input(clip, self.channels), mask_tensor(mask)


@dataclass(frozen=True)
class FastEval:
    """Every image at its own scale, as the fast training sees it.

    Sides that are no multiple of 32 are resized up to one. The mask keeps its size.
    """

    channels: int
    contrast: bool = False

    def __call__(
        self, frames: np.ndarray, mask: np.ndarray, random: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = (-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in frames.shape[1:])
        clip = resize(frames, height, width)
        if self.contrast:
            return contrast_input(local_contrast(clip), self.channels), mask_tensor(mask)
        return network_input(clip, self.channels), mask_tensor(mask)


def build_transform(
    preset: str, train: bool, size: int, channels: int, target_share: float = FastTrain.target_share
) -> Transform:
    """Pipeline of a preset: frames and mask -> clip [T, C, H, W] and mask [1, h, w] (in training, h x w is H x W).

    `channels` is the network's: 1 for grey in 0..1, 3 for replicated grey with ImageNet mean and std ("contrast":
    the local contrast in either). `size` is the side of a training crop, or in evaluation the short side ("sgmp_unet")
    or both sides ("datransnet"); evaluation of "fast" and "contrast" keeps each image's own scale and ignores it.
    `target_share` is the share of these two presets' training crops that contain a target for certain.
    """
    if channels not in (1, 3):
        raise InputError(f"{channels} channels; expected 1 (grey) or 3 (RGB)")
    if preset == "sgmp_unet":
        return SgmpTrain(size, channels) if train else SgmpEval(size, channels)
    if preset == "datransnet":
        return DatransnetTrain(size, channels) if train else DatransnetEval(size, channels)
    if preset in ("fast", "contrast"):
        contrast = preset == "contrast"
        return FastTrain(size, channels, target_share, contrast) if train else FastEval(channels, contrast)
    raise InputError(f"preset {preset!r} is unknown; expected one of {', '.join(PRESETS)}")


def _to_multiple(side: int) -> int:
    """The nearest multiple of 32, upwards from the middle; at least 32."""
    return max(1, (side + SIZE_MULTIPLE // 2) // SIZE_MULTIPLE) * SIZE_MULTIPLE
