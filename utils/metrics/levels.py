"""Scores as threshold numbers, so that every threshold's map follows from one array of small whole numbers."""

import numpy as np


def threshold_values(steps: int, dtype) -> np.ndarray:
    """The thresholds 0, 1/steps, ..., 1 in the score map's own float type, as `score > k / steps` compares them."""
    return (np.arange(steps + 1) / steps).astype(dtype)


def threshold_levels(score: np.ndarray, steps: int) -> np.ndarray:
    """How many thresholds lie below each score (0..1, [H, W]): `levels > k` equals `score > k / steps`, exactly.

    Returns uint8 or uint16 [H, W] with values 0..steps + 1.
    """
    thresholds = np.append(threshold_values(steps, score.dtype), score.dtype.type(np.inf))
    # A score above the float nearest to k / steps is at least k / steps itself, so its product is k or more; a score
    # not above that float gives k at most. The whole part is therefore the level, or one less.
    levels = (score * score.dtype.type(steps)).astype(np.intp)
    levels += score > thresholds[levels]
    return levels.astype(np.uint8 if steps < 255 else np.uint16)
