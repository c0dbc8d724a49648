"""Detections: the connected regions of a predicted mask, with their positions and scores, and as rows of files."""

from typing import NamedTuple

import numpy as np
from skimage.measure import label, regionprops_table


class Detection(NamedTuple):
    """One 8-connected region of a predicted mask. Lengths are in pixels; pixel (0, 0) has its centre at x = y = 0."""

    id: int  # 1, 2, ... in raster order of the regions' first pixels, counted anew in each frame
    x: float  # centroid, column
    y: float  # centroid, row
    left: int  # bounding box: first column, first row, width, height
    top: int
    width: int
    height: int
    area: int  # pixels
    mean_score: float  # of the probability over the region
    peak_score: float


DETECTION_COLUMNS = ("sequence", "frame", *Detection._fields)


def find_detections(mask: np.ndarray, probability: np.ndarray) -> list[Detection]:
    """The regions of `mask` bool [H, W], with their scores in `probability` float [H, W]."""
    if not mask.any():
        return []
    properties = ("label", "centroid", "bbox", "area", "intensity_mean", "intensity_max")
    regions = regionprops_table(label(mask, connectivity=2), probability.astype(np.float64), properties)
    top, left, bottom, right = (regions[f"bbox-{side}"] for side in range(4))
    sizes = (left, top, right - left, bottom - top, regions["area"].astype(int))
    scores = (regions["intensity_mean"], regions["intensity_max"])
    columns = (regions["label"], regions["centroid-1"], regions["centroid-0"], *sizes, *scores)
    return [Detection(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def detection_row(sequence: str, frame: str, detection: Detection) -> list:
    """A row of detections.csv: positions to 1/1000 px, scores to six digits."""
    values = detection._asdict()
    for name, digits in (("x", 3), ("y", 3), ("mean_score", 6), ("peak_score", 6)):
        values[name] = round(values[name], digits)
    return [sequence, frame, *values.values()]
