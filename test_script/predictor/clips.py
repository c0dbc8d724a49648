"""Frames of any kind as grey frames, and streams of frames as clips."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.errors import InputError
from utils.images import to_unit

T = TypeVar("T")


def as_grey_frames(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Convert frames as `Predictor` takes them to grey frames, float32 [H, W] in 0..1.

    Raises `InputError` for other shapes, types and values.
    """
    if isinstance(frames, np.ndarray) and frames.ndim == 2:
        frames = frames[None]
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.ndim == 3 and frame.shape[2] == 3:
            frame = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        if frame.ndim != 2 or not frame.size:
            raise InputError(f"frame {index} has shape {frame.shape}; expected [H, W] or [H, W, 3]")
        if frame.dtype in (np.uint8, np.uint16):
            yield to_unit(frame)
            continue
        if frame.dtype.kind != "f" or not (frame.min() >= 0 and frame.max() <= 1):
            raise InputError(
                f"frame {index} is {frame.dtype}, {frame.min()} to {frame.max()}; "
                "expected uint8, uint16 or float in 0..1: scale it"
            )
        yield frame.astype(np.float32)


def sliding_clips(frames: Iterable[T], num_frames: int) -> Iterator[tuple[T, list[T]]]:
    """Yield (target frame, its clip of `num_frames` frames) for every frame, in order.

    The target is frame `num_frames // 2` of the clip. The first and the last frame are repeated where a clip reaches
    beyond them. Holds `num_frames` frames at a time.
    """
    before = num_frames // 2
    window: deque[T] = deque(maxlen=num_frames)
    for frame in frames:
        if not window:
            window.extend([frame] * before)
        window.append(frame)
        if len(window) == num_frames:
            yield window[before], list(window)
    for _ in range(num_frames - 1 - before if window else 0):
        window.append(window[-1])
        if len(window) == num_frames:
            yield window[before], list(window)


def stack_clip(frames: list[Tensor]) -> Tensor:
    """Stack frames [C, H, W] to a clip [T, C, H, W]; raises `InputError` if they differ in size."""
    shapes = {tuple(frame.shape[-2:]) for frame in frames}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width} x {height}" for height, width in sorted(shapes))
        raise InputError(
            f"frames of {sizes} in one clip; a multi-frame network needs frames of one size: crop or resize them"
        )
    return torch.stack(frames)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` consecutive items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
