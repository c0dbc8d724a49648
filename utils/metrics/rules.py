"""The rules that make up protocols: thresholds, the terms of IoU and Pd, and false alarms.

Each docstring is what `evaluate --list_protocols` prints. The rules of matching are in `utils.metrics.matching`.
"""

import math
from collections.abc import Iterable

import cv2
import numpy as np

from istd.utils.metrics.matching import Matching
from istd.utils.metrics.regions import ImagePair

SHOOTING_FREE_RADIUS = 4  # px: a 9 x 9 box

Term = tuple[float, float]  # numerator and denominator of a metric that is a ratio of sums over images


# Thresholds, in the float type of the map, as in the published codes.


def above_half(score: np.ndarray) -> np.ndarray:
    """{score} > 0.5"""
    return score > 0.5


def at_least_half(score: np.ndarray) -> np.ndarray:
    """{score} >= 0.5"""
    return score >= 0.5


def above_half_of_maximum(score: np.ndarray) -> np.ndarray:
    """{score} / max({score}) > 0.5"""
    highest = score.max()
    # where it is 0 the published code divides by zero and compares NaN, which is never above
    return score / highest > 0.5 if highest > 0 else np.zeros(score.shape, bool)


# IoU and probability of detection: what an image adds to the numerator and the denominator over all images.


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator; NaN for 0 / 0."""
    return numerator / denominator if denominator else math.nan


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; the sum is rounded once, so that their order has no effect."""
    values = [value for value in values if not math.isnan(value)]
    return ratio(math.fsum(values), len(values))


def image_iou(row, empty: float) -> float:
    """IoU of an image; `empty` if neither the map nor the mask has a pixel."""
    return row.intersection / row.union if row.union else empty


def set_iou(row) -> Term:
    """sum of intersections / sum of unions"""
    return row.intersection, row.union


def mean_iou_empty_one(row) -> Term:
    """mean of image IoU, an image empty in both counting 1"""
    return image_iou(row, empty=1.0), 1


def mean_iou_empty_zero(row) -> Term:
    """mean of image IoU, an image empty in both counting 0"""
    return image_iou(row, empty=0.0), 1


def matched_share(row) -> Term:
    """matched targets / targets"""
    return row.matched, row.targets


def padded_matched_share(row) -> Term:
    """matched targets / (targets + images without targets)"""
    return row.matched, row.targets or 1


# False-alarm pixels of an image.


def region_pixels(pair: ImagePair, matching: Matching) -> int:
    """pixels of unmatched predicted regions"""
    areas = pair.regions.areas
    return int(areas.sum() - areas[matching.used].sum())


def area_value_pixels(pair: ImagePair, matching: Matching) -> int:
    """areas of all regions, less every area that equals a matched region's area"""
    areas = pair.regions.areas
    return int(areas[~np.isin(areas, areas[matching.used])].sum())


def shooting_pixels(pair: ImagePair, matching: Matching) -> int:
    """predicted pixels outside the 9 x 9 boxes of all mask pixels (boxes that start above 0 only)"""
    radius, side = SHOOTING_FREE_RADIUS, 2 * SHOOTING_FREE_RADIUS + 1
    # DTUM slices from coordinate - 4 on; nearer to the first row or column that start is negative and the slice empty.
    sources = np.zeros_like(pair.mask, dtype=np.uint8)
    sources[radius:, radius:] = pair.mask[radius:, radius:]
    free = cv2.dilate(sources, np.ones((side, side), np.uint8)).astype(bool)
    return int(np.count_nonzero(pair.binary & ~free))
