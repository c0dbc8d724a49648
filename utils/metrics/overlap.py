"""IoU over many images, from each image's whole-number intersection and union."""

import math
from collections.abc import Iterable


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator, NaN for 0 / 0: no data, no figure."""
    return numerator / denominator if denominator else math.nan


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; exactly rounded sum, so the order of the values never matters."""
    values = [value for value in values if not math.isnan(value)]
    return ratio(math.fsum(values), len(values))


def image_iou(row, empty: float) -> float:
    """IoU of one image, `empty` where neither the map nor the mask has a pixel."""
    return row.intersection / row.union if row.union else empty


def set_iou(rows) -> float:
    """sum of intersections / sum of unions"""
    return ratio(sum(row.intersection for row in rows), sum(row.union for row in rows))


def mean_iou_empty_one(rows) -> float:
    """mean of image IoU, an image empty in both counting 1"""
    return mean(image_iou(row, empty=1.0) for row in rows)


def mean_iou_empty_zero(rows) -> float:
    """mean of image IoU, an image empty in both counting 0"""
    return mean(image_iou(row, empty=0.0) for row in rows)
