"""Augmentations that a recipe names (`augment: [copy_paste, sensor]`); they act before the steps of the preset.

An augmentation maps frames [N, H, W] (uint8, or float32 in 0..1) and the mask bool [H, W] of the middle frame to new
frames and a new mask. It takes a random generator, `other()`, which reads frames and mask of a random training sample,
and options, which the recipe sets by `augment_options: {copy_paste.share: 0.3}`. N is odd; the clip is cut out of the
frames afterwards. An augmentation must not write to its inputs.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from istd.datasets.sensor import FAULT_SHARE, record_clip
from istd.datasets.transforms import to_float
from istd.utils.config import convert, nearest
from istd.utils.errors import InputError

RawSample = tuple[np.ndarray, np.ndarray]  # frames and mask
Augmentation = Callable[[np.ndarray, np.ndarray, Generator, Callable[[], RawSample]], RawSample]

PATCH_MARGIN = 3  # pixels around a target from which its background is taken
HALO = 1  # pixels around a target that are pasted with it
TRIES = 10  # at finding a sample with a target, and a place without
MAX_SPEED = 1.0  # of a pasted target along either side, px a frame


def reverse_time(
    frames: np.ndarray, mask: np.ndarray, random: Generator, other: Callable[[], RawSample], share: float = 0.5
) -> RawSample:
    """A share of the clips backwards; the target frame stays."""
    return (np.ascontiguousarray(frames[::-1]), mask) if random.random() < share else (frames, mask)


def copy_paste(
    frames: np.ndarray, mask: np.ndarray, random: Generator, other: Callable[[], RawSample], share: float = 0.5
) -> RawSample:
    """Into a share of the clips, a target of another sample, at a random place without a target.

    Its contrast to its surroundings is pasted, so that the background stays. Over the frames it moves at a random
    constant speed. Frames in which it would lie partly outside stay as they are.
    """
    if random.random() >= share:
        return frames, mask
    for _ in range(TRIES):
        donor_frames, donor_mask = other()
        if donor_mask.any():
            break
    else:
        return frames, mask
    count, labels = cv2.connectedComponents(donor_mask.astype(np.uint8), connectivity=8)  # with the background
    region = labels == random.integers(1, count)
    contrast, target = cut_target(to_float(donor_frames[len(donor_frames) // 2]), region)
    room = np.subtract(mask.shape, target.shape)
    if room.min() < 0:
        return frames, mask
    for _ in range(TRIES):
        place = random.integers(0, room + 1)
        window = tuple(slice(start, start + side) for start, side in zip(place, target.shape, strict=True))
        if not mask[window].any():
            break
    else:
        return frames, mask
    pasted, speed = frames.copy(), random.uniform(-MAX_SPEED, MAX_SPEED, 2)
    for number, frame in enumerate(pasted):
        start = place + np.round(speed * (number - len(frames) // 2)).astype(int)
        if (start >= 0).all() and (start <= room).all():
            add_contrast(frame[start[0] : start[0] + target.shape[0], start[1] : start[1] + target.shape[1]], contrast)
    new_mask = mask.copy()
    new_mask[window] |= target
    return pasted, new_mask


def cut_target(frame: np.ndarray, region: np.ndarray) -> RawSample:
    """The patch around a region of a frame float32 [H, W]: its contrast to the surroundings [h, w], and its mask there.

    The surroundings' level is their median; outside the target and its halo the contrast is 0.
    """
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    window = tuple(slice(max(0, side[0] - PATCH_MARGIN), side[-1] + PATCH_MARGIN + 1) for side in (rows, columns))
    patch, target = frame[window], region[window]
    halo = cv2.dilate(target.astype(np.uint8), np.ones((2 * HALO + 1, 2 * HALO + 1), np.uint8)) > 0
    around = patch[~halo] if not halo.all() else patch
    return np.where(halo, patch - np.median(around), 0).astype(np.float32), target


def add_contrast(window: np.ndarray, contrast: np.ndarray) -> None:
    """Add a contrast in 0..1 to a window of a frame, in place, clipped to black and white."""
    if window.dtype == np.uint8:
        window[:] = np.clip(np.round(window + 255 * contrast), 0, 255)
    else:
        window[:] = np.clip(window + contrast, 0, 1)


def sensor(
    frames: np.ndarray, mask: np.ndarray, random: Generator, other: Callable[[], RawSample],
    share: float = 0.5, fault_share: float = FAULT_SHARE,
) -> RawSample:  # fmt: skip
    """A share of the clips as a worse camera would have recorded them; the mask stays as it is.

    Every kind of fault (`FAULTS` of `datasets.sensor`) occurs in these clips with probability `fault_share`. Its
    strength is drawn log-uniformly from a range in which targets remain visible.
    """
    if random.random() >= share:
        return frames, mask
    clip = record_clip(to_float(frames), mask, random, fault_share)
    return (np.rint(255 * clip).astype(np.uint8) if frames.dtype == np.uint8 else clip), mask


AUGMENTATIONS: dict[str, Callable[..., RawSample]] = {
    "copy_paste": copy_paste,
    "reverse_time": reverse_time,
    "sensor": sensor,
}


def build_augmentations(names: Sequence[str], options: dict[str, Any]) -> tuple[Augmentation, ...]:
    """The augmentations called `names`, in this order, with `options` NAME.OPTION -> value, which may be text.

    Raises `InputError` for a name or an option that does not exist, or a value of another type.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        if name not in AUGMENTATIONS:
            unknown = f"augmentation {name!r} is unknown{nearest(name, AUGMENTATIONS)}"
            raise InputError(f"{unknown}; expected {', '.join(AUGMENTATIONS)}")
        chosen[name] = {}
    for key, value in options.items():
        name, _, option = key.partition(".")
        parameters = inspect.signature(AUGMENTATIONS[name], eval_str=True).parameters if name in chosen else {}
        known = {key: parameter for key, parameter in parameters.items() if parameter.default is not parameter.empty}
        if option not in known:
            listing = ", ".join(f"{name}.{option}" for option in known) or ", ".join(f"{name}.share" for name in chosen)
            raise InputError(f"augment_options has {key!r}; expected options of augment: {listing or 'there are none'}")
        chosen[name][option] = convert(f"augment_options {key}", value, known[option].annotation)
    return tuple(partial(AUGMENTATIONS[name], **values) for name, values in chosen.items())
