"""The signal-to-noise ratio of a target: |peak - local mean| / local standard deviation.

The peak is what a detector sees of a target of a few pixels; a mean over the mask depends on how generously the mask
was drawn. The guard keeps what optics spread beyond the mask out of the surroundings.
"""

import math

import numpy as np

SNR_RADIUS = 10  # the local mean and deviation are those of a window of 21 x 21 pixels ...
SNR_GUARD = 4  # ... without the 9 x 9 around the target


def local_statistics(
    frame: np.ndarray, place: tuple[int, int], guard: int = SNR_GUARD, free: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of [H, W] around `place` (row, column) without those of the target.

    With the default `guard` of 4 pixels these are a window of 21 x 21 without the inner 9 x 9; larger targets need a
    larger guard, and the window grows with it. `free` bool [H, W]: the only pixels that count. NaN where none does.
    """
    radius = guard + SNR_RADIUS - SNR_GUARD
    top, left = (max(at - radius, 0) for at in place)
    window = (slice(top, place[0] + radius + 1), slice(left, place[1] + radius + 1))
    height, width = frame[window].shape
    rows = np.abs(np.arange(top, top + height) - place[0]) > guard
    columns = np.abs(np.arange(left, left + width) - place[1]) > guard
    counted = rows[:, None] | columns
    around = frame[window][counted if free is None else counted & free[window]]
    return (float(around.mean()), float(around.std())) if around.size else (math.nan, math.nan)
