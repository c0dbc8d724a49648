"""The signal-to-noise ratio of a target: |peak - local mean| / local standard deviation.

A detector sees the peak of a target of a few pixels; a mean over the mask depends on how generously the mask was drawn.
The guard keeps light that optics spread beyond the mask out of the surroundings.
"""

import math

import cv2
import numpy as np

SNR_RADIUS = 10  # local mean and deviation are computed in a window of 21 x 21 pixels ...
SNR_GUARD = 4  # ... without its inner 9 x 9 pixels, around the target
MASK_MARGIN = 2  # pixels around every target that do not count as a target's surroundings


def local_statistics(
    frame: np.ndarray, place: tuple[int, int], guard: int = SNR_GUARD, free: np.ndarray | None = None
) -> tuple[float, float]:
    """Mean and standard deviation of the surroundings of a target at `place` (row, column) in a frame [H, W].

    With the default `guard` of 4 pixels, the surroundings are a window of 21 x 21 without the inner 9 x 9; larger
    targets need a larger guard, with which the window grows. `free` bool [H, W]: pixels that may count. NaN if none do.
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


def surrounding_pixels(mask: np.ndarray) -> np.ndarray:
    """Pixels, bool [H, W], that may count as surroundings: all but the targets of `mask` and 2 px around them."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * MASK_MARGIN + 1,) * 2, np.uint8)) == 0


def target_guard(rows: np.ndarray, columns: np.ndarray) -> int:
    """The guard for a target of these pixels: the default, or what covers the target and 2 px around it."""
    return max(SNR_GUARD, max(int(np.ptp(places)) + 1 for places in (rows, columns)) // 2 + MASK_MARGIN)
