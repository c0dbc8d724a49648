"""Detections: the connected regions of a predicted mask, with their positions and scores, and as rows of files.

The score of log-odds x = ln(p / (1 - p)), which for a single pass of a network are its logits, is
1/2 + x / (2 (1 + |x|)). It is 0.5 where the probability is 0.5, 0.75 at p = 0.73, 0.91 at p = 0.99, and approaches 1
slowly enough to rank: probabilities do not, since most peaks of a confident network round to 1.
"""

from typing import NamedTuple

import numpy as np

from istd.utils.metrics.regions import find_regions


class Detection(NamedTuple):
    """An 8-connected region of a predicted mask. Lengths are in pixels; pixel (0, 0) has its centre at x = y = 0."""

    id: int  # 1, 2, ... in raster order of the regions' first pixels, counted anew in each frame
    x: float  # centroid, column
    y: float  # centroid, row
    left: int  # bounding box: first column, first row, width, height
    top: int
    width: int
    height: int
    area: int  # pixels
    mean_score: float  # of the mean log-odds over the region, in 0..1: see above
    peak_score: float  # of the highest log-odds

    def __repr__(self) -> str:
        box = f"{self.width} x {self.height} px, area {self.area}"
        return f"Detection(x {self.x:.1f}, y {self.y:.1f}, {box}, peak score {self.peak_score:.3f})"


DETECTION_COLUMNS = ("sequence", "frame", *Detection._fields)


def find_detections(mask: np.ndarray, log_odds: np.ndarray) -> list[Detection]:
    """The regions of `mask` bool [H, W], scored by `log_odds` float [H, W], the logits of the probabilities."""
    regions = find_regions(np.ascontiguousarray(mask))
    rows, columns = regions.centroids.T
    scores = ranking_scores(regions.means(log_odds)), ranking_scores(regions.maxima(log_odds))
    numbers = np.arange(1, len(regions.areas) + 1)
    table = (numbers, columns, rows, *regions.boxes(mask.shape[1]).T, regions.areas, *scores)
    return [Detection(*values) for values in zip(*(column.tolist() for column in table), strict=True)]


def ranking_scores(log_odds: np.ndarray) -> np.ndarray:
    """1/2 + x / (2 (1 + |x|)): from 0 to 1, 0.5 at log-odds of 0, and in the order of the log-odds."""
    bounded = np.clip(log_odds, -1e30, 1e30)  # saved probabilities of 0 and 1 have infinite log-odds
    return 0.5 + bounded / (2 * (1 + np.abs(bounded)))


def detection_row(sequence: str, frame: str, detection: Detection) -> list:
    """A row of detections.csv: positions to 1/1000 px, scores to six digits."""
    values = detection._asdict()
    for name, digits in (("x", 3), ("y", 3), ("mean_score", 6), ("peak_score", 6)):
        values[name] = round(values[name], digits)
    return [sequence, frame, *values.values()]
