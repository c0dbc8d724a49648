"""Average precision and AUC from the numbers of pixels at each level of score.

Both are array operations over any number of image sets, such as the resamples of a bootstrap, for which the counts of
each image are pooled and stored sparsely.
"""

from typing import NamedTuple

import numpy as np

POOL = 4  # successive levels that are pooled into a single level


class PooledLevels(NamedTuple):
    """Pooled counts of an image or a sequence as a sparse row: its nonzero columns and their pixels, int [n].

    The row, int [2 P] with P = ceil(L / `POOL`), has the target pixels at each pooled level, then the other pixels.
    With 4098 levels, an image takes about 1 kB (NUAA-SIRST: 140 columns of 6 bytes) and at most 13 kB (2050 columns).
    """

    name: str | None
    columns: np.ndarray
    pixels: np.ndarray


def pool_levels(name: str | None, target_levels: np.ndarray, other_levels: np.ndarray) -> PooledLevels:
    """Pool the numbers of target and other pixels at each level, int64 [L]."""
    starts = np.arange(0, len(target_levels), POOL)
    row = np.concatenate([np.add.reduceat(levels, starts) for levels in (target_levels, other_levels)])
    columns = np.flatnonzero(row)
    return PooledLevels(name, columns.astype(np.uint16), row[columns].astype(np.min_scalar_type(row.max())))


def curve_areas(target_levels: np.ndarray, other_levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AUC, float64 [...], from the numbers of target and other pixels at each level, [..., L], lowest first.

    Equal levels are ties. AP is the mean over target pixels of the precision of all pixels of at least their level; AUC
    is the share of pairs (target pixel, other pixel) in the right order, where ties count a half. NaN for 0 / 0.
    """
    targets, others = (levels[..., ::-1].astype(np.float64) for levels in (target_levels, other_levels))
    hits, misses = np.cumsum(targets, axis=-1), np.cumsum(others, axis=-1)  # integers, so that sums are exact
    precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=targets > 0)
    below = misses[..., -1:] - misses
    with np.errstate(invalid="ignore"):
        ap = (targets * precision).sum(axis=-1) / hits[..., -1]
        auc = (targets * (below + others / 2)).sum(axis=-1) / (hits[..., -1] * misses[..., -1])
    return ap, auc
