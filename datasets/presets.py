"""Preprocessing by name: "sgmp_unet" and "datransnet" as published, and our "grey" and "local_contrast".

Every function here maps frames [T, H, W] (uint8, or float32 in 0..1) and a mask bool [H, W] to a clip [T, C, H', W']
and a mask [1, h, w]. `size`, in pixels, is the side of a training sample, or the size for evaluation; `channels` is the
network's: 1 for grey in 0..1, 3 for replicated grey with ImageNet mean and std (for "local_contrast", the local
contrast in each channel). In training h x w is H' x W'; in evaluation the mask keeps its size, and the predictor pads
clips to the network's multiple.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from istd.datasets import transforms as T
from istd.datasets.clips import Transform
from istd.datasets.transforms import Sample
from istd.utils.checkpoint import current_preset
from istd.utils.errors import InputError

SGMP_SIZE = 320  # short side in evaluation, and side of a training sample
SGMP_LONG_SIDE = 576  # of evaluated frames with a short side of 320
SGMP_MULTIPLE = 32  # that sides of evaluated frames are rounded to
DATRANSNET_SIZE = 256  # on NUDT-SIRST; datasets/catalog.py has the sizes for other datasets

FIRST_SHORT_SIDES = range(480, 801, 32)  # SGMP-UNet's training, in the order of its steps
FIRST_LONG_SIDE = 800
BRIGHTNESS = 32 / 255
CONTRAST = (0.5, 1.5)
SECOND_SHORT_SIDES = (500, 600, 700)
CROP_SIDES = (473, 750)

ENLARGE_SHARE = 0.5  # of the crops
MAX_SCALE = 1.5
GAIN = (0.7, 1.4)
OFFSET = 0.1
TARGET_SHARE = 0.75  # of the crops contain a target for certain, if the frame has any
TARGET_MARGIN = 8  # pixels that a target keeps from the edge of its crop, where the image allows


def sgmp_train(frames: np.ndarray, mask: np.ndarray, random: Generator, size: int, channels: int) -> Sample:
    """SGMP-UNet's training: flip, resize, photometric distortion per frame, resize, crop, resize to `size` x `size`.

    The three resizes and the crop are one product of weights, applied once. Frames are grey in equal RGB channels,
    which saturation, hue and channel shuffle leave as they are; brightness and contrast are affine and so commute with
    resizing, up to the clipping at black and white, which happens here on the stored pixels.
    """
    if random.random() < 0.5:
        frames, mask = frames[:, :, ::-1], mask[:, ::-1]
    first = T.short_side_size(*mask.shape, int(random.choice(FIRST_SHORT_SIDES)), FIRST_LONG_SIDE)
    clip = np.stack([_distort(frame, random) for frame in T.to_float(frames)])
    second = T.short_side_size(*first, int(random.choice(SECOND_SHORT_SIDES)))
    weights, indices = [], []
    for side, length, middle in zip(mask.shape, first, second, strict=True):
        crop = int(random.integers(CROP_SIDES[0], min(middle, CROP_SIDES[1]), endpoint=True))
        start = int(random.integers(0, middle - crop, endpoint=True))
        window = slice(start, start + crop)
        chain = T.linear_weights(length, middle)[window] @ T.linear_weights(side, length)
        weights.append(T.linear_weights(crop, size) @ chain)
        chain = T.nearest_indices(side, length)[T.nearest_indices(length, middle)[window]]
        indices.append(chain[T.nearest_indices(crop, size)])
    return T.network_sample(T.resample(clip, *weights), mask[np.ix_(*indices)], channels)


def _distort(frame: np.ndarray, random: Generator) -> np.ndarray:
    """Brightness with p 0.5, contrast with p 0.5, clipped to 0..1."""
    offset = random.uniform(-BRIGHTNESS, BRIGHTNESS) if random.random() < 0.5 else 0.0
    gain = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    return np.clip((frame + np.float32(offset)) * np.float32(gain), 0, 1)


def sgmp_evaluate(frames: np.ndarray, mask: np.ndarray, random: Generator, size: int | None, channels: int) -> Sample:
    """SGMP-UNet's evaluation: short side to `size`, long side at most 1.8 times that, both rounded to multiples of 32.

    Without a size (for tiles), frames keep their size.
    """
    if size is None:
        return keep_size(frames, mask, random, size, channels)
    sides = T.short_side_size(*frames.shape[1:], size, round(size * SGMP_LONG_SIDE / SGMP_SIZE))
    # to the nearest multiple, upwards from the middle
    height, width = (max(1, (side + SGMP_MULTIPLE // 2) // SGMP_MULTIPLE) * SGMP_MULTIPLE for side in sides)
    return T.network_sample(T.resize(frames, height, width), mask, channels)


def datransnet_train(frames: np.ndarray, mask: np.ndarray, random: Generator, size: int, channels: int) -> Sample:
    """DATransNet's training: no augmentation; image and mask at `size` x `size`, resized only where they are not."""
    return T.network_sample(T.resize(frames, size, size), T.resize_mask(mask, size, size), channels)


def crop_train(
    frames: np.ndarray, mask: np.ndarray, random: Generator, size: int, channels: int,
    contrast: bool = False, target_share: float = TARGET_SHARE, enlarge_share: float = ENLARGE_SHARE,
) -> Sample:  # fmt: skip
    """A crop, at most one resize of it, flips and quarter turns, and brightness and contrast of the whole clip.

    The crop contains a target with probability `target_share` (where the frame has any), and otherwise lies anywhere.
    A share of `enlarge_share` of the crops is enlarged by 1..1.5: targets never shrink, so none is lost. Enlarging
    blurs outlines, which costs IoU; with 0 every crop shows pixels of the image. Images smaller than the crop are
    continued by reflection. Contrast is stretched around the crop's mean, and nothing is clipped, so that no dark sky
    drowns. With `contrast`, frames become their local contrast before they are cropped, as in evaluation; brightness is
    no part of it.
    """
    clip = T.local_contrast(T.to_float(frames)) if contrast else frames
    scale = 1.0 if random.random() < 1 - enlarge_share else random.uniform(1, MAX_SCALE)
    side = round(size / scale)
    clip, mask = T.pad_to(clip, side), T.pad_to(mask, side)
    around_target = random.random() < target_share
    top, left = T.crop_around(mask if around_target else None, mask.shape, side, TARGET_MARGIN, random)
    window = (slice(top, top + side), slice(left, left + side))
    clip = T.resize_crop(T.to_float(clip[(slice(None), *window)]), size)
    mask = T.resize_mask(mask[window], size, size)
    if random.random() < 0.5:
        clip, mask = clip[:, :, ::-1], mask[:, ::-1]
    turns = int(random.integers(4))
    clip, mask = np.rot90(clip, turns, axes=(1, 2)), np.rot90(mask, turns)
    gain, offset = np.float32(random.uniform(*GAIN)), np.float32(random.uniform(-OFFSET, OFFSET))
    clip = clip * gain if contrast else clip * gain + ((1 - gain) * clip.mean() + offset)
    return T.network_sample(clip, mask, channels, normalise=not contrast)


def keep_size(
    frames: np.ndarray, mask: np.ndarray, random: Generator, size: int | None, channels: int, contrast: bool = False
) -> Sample:
    """Evaluation of frames, or with `contrast` of their local contrast, at their own size, whatever `size` is."""
    clip = T.local_contrast(T.to_float(frames)) if contrast else T.to_float(frames)
    return T.network_sample(clip, mask, channels, normalise=not contrast)


class Preset(NamedTuple):
    """How samples are made for training and evaluation, and how clips continue at the ends of a sequence.

    `border`: see `ClipDataset`. `size`: of published training and evaluation, None for our presets.
    """

    train: Callable[..., Sample]
    evaluate: Callable[..., Sample]
    border: str = "clamp"
    size: int | None = None


PRESETS = {
    "sgmp_unet": Preset(sgmp_train, sgmp_evaluate, "wrap", SGMP_SIZE),
    "datransnet": Preset(datransnet_train, keep_size, size=DATRANSNET_SIZE),
    "grey": Preset(crop_train, keep_size),
    "local_contrast": Preset(partial(crop_train, contrast=True), partial(keep_size, contrast=True)),
}


def find_preset(name: str) -> Preset:
    """The row of a preset, also by its former name; raises `InputError` for an unknown name."""
    name = current_preset(name)
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def build_transform(preset: str, train: bool, size: int | None, channels: int) -> Transform:
    """The training or evaluation function of a preset as a `Transform`, with `size` and `channels` filled in.

    Raises `InputError` for an unknown preset, and for numbers of channels other than 1 and 3.
    """
    row = find_preset(preset)
    if channels not in (1, 3):
        raise InputError(f"{channels} channels; expected 1 (grey) or 3 (RGB)")
    return partial(row.train if train else row.evaluate, size=size, channels=channels)
