"""From a binary map to a list of detections."""

from typing import NamedTuple

import cv2
import numpy as np


class Detection(NamedTuple):
    """One 8-connected region of a prediction. Lengths are in pixels; pixel (0, 0) has its centre at x = 0, y = 0."""

    id: int  # 1, 2, ... in raster order of the regions' first pixels, anew in each frame
    x: float  # centroid, column
    y: float  # centroid, row
    left: int  # bounding box: first column, first row, columns, rows
    top: int
    width: int
    height: int
    area: int  # pixels
    mean_score: float  # of the probability over the region
    peak_score: float


def find_detections(mask: np.ndarray, probability: np.ndarray) -> list[Detection]:
    """The regions of `mask` bool [H, W], with their scores in `probability` float [H, W]."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return []
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1][rows, columns]
    _, first_pixel, region = np.unique(labels, return_index=True, return_inverse=True)
    raster_order = np.argsort(np.argsort(first_pixel))
    region = raster_order[region]
    order = np.argsort(region, kind="stable")
    rows, columns, scores = rows[order], columns[order], probability[rows, columns][order].astype(np.float64)
    area = np.bincount(region)
    start = np.cumsum(area) - area  # each region's pixels now stand together

    left, right = np.minimum.reduceat(columns, start), np.maximum.reduceat(columns, start)
    top, bottom = np.minimum.reduceat(rows, start), np.maximum.reduceat(rows, start)
    table = zip(
        range(1, len(area) + 1),
        (np.add.reduceat(columns, start) / area).tolist(),
        (np.add.reduceat(rows, start) / area).tolist(),
        left.tolist(),
        top.tolist(),
        (right - left + 1).tolist(),
        (bottom - top + 1).tolist(),
        area.tolist(),
        (np.add.reduceat(scores, start) / area).tolist(),
        np.maximum.reduceat(scores, start).tolist(),
        strict=True,
    )
    return [Detection(*row) for row in table]
