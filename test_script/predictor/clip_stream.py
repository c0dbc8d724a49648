"""Clips of a stream of frames, each frame taken once."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def sliding_clips(frames: Iterable[T], num_frames: int) -> Iterator[tuple[T, list[T]]]:
    """Yield (target frame, its clip of `num_frames` frames) for every frame, in order.

    The target is the clip's frame `num_frames // 2`. Before the first and after the last frame the edge frame is
    repeated: a stream does not know its other end. Holds `num_frames` frames at a time.
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
