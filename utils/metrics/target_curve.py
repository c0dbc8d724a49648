"""Targets found and false-alarm pixels at every threshold, without labelling every threshold's whole map.

What makes it fast, all of it exact:
* False-alarm pixels are the map's pixels, which a histogram counts, less the areas of matched regions. Only regions
  whose centroid lies near a target have to be known; a map without targets needs no labelling at all.
* Regions only split and shrink as the threshold rises. One whose bounding box, 3 px wider, holds no target's centroid
  can be dropped with everything it will split into. So the search starts with the whole map at the lowest threshold and
  soon narrows to crops of a few pixels around the targets, of which many thresholds are labelled at once.
A noisy map of thousands of regions narrows as soon as its one giant region falls apart (at about 0.6 for white noise).
"""

from typing import NamedTuple

import numpy as np

from utils.metrics.crop_regions import Crop, CropRegions, label_crop
from utils.metrics.matching import MATCH_DISTANCE, best_pairs, close_pairs
from utils.metrics.regions import Regions

MARGIN = 1e-3  # px; more than rounding can move a centroid


class Found(NamedTuple):
    """Regions near targets, of any thresholds: int64 [n] each; first is the flat index of the first pixel."""

    threshold: np.ndarray
    area: np.ndarray
    row_sum: np.ndarray
    column_sum: np.ndarray
    first: np.ndarray


def target_curve(levels: np.ndarray, targets: Regions, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Per threshold k of 0..steps: matched targets, and pixels of the regions they are matched with, int64 [steps + 1].

    levels: `threshold_levels` of the score map; targets: `find_regions` of the mask. Matching is the standard one.
    """
    found = _find_near(levels, targets.centroids) if len(targets.areas) else []
    matched = np.zeros(steps + 1, np.int64)
    areas = np.zeros(steps + 1, np.int64)
    if not found:
        return matched, areas
    near = Found(*map(np.concatenate, zip(*found, strict=True)))
    order = np.lexsort((near.first, near.threshold))  # regions of a threshold in raster order, as matching wants them
    near = Found(*(column[order] for column in near))
    none = np.zeros(0, np.int64)
    rows, columns, distances = close_pairs(targets, Regions(near.area, near.row_sum, near.column_sum, none, none))
    # A target at one threshold and the same target at another are two to the assignment.
    chosen = columns[best_pairs(near.threshold[columns] * len(targets.areas) + rows, columns, distances)]
    np.add.at(matched, near.threshold[chosen], 1)
    np.add.at(areas, near.threshold[chosen], near.area[chosen])
    return matched, areas


def _find_near(levels: np.ndarray, centroids: np.ndarray) -> list[Found]:
    """All regions of all thresholds whose centroids lie near one of the targets' (float64 [targets, 2])."""
    found = []
    waiting = [Crop(levels, 0, 0, 0)]
    while waiting:
        crop = waiting.pop()
        if crop.levels.max() > crop.threshold:
            regions = label_crop(crop)
            local = centroids - (crop.top, crop.left)
            found.append(_near_targets(crop, regions, local, levels.shape[1]))
            waiting.extend(_next_crops(crop, regions, local))
    return found


def _near_targets(crop: Crop, regions: CropRegions, centroids: np.ndarray, width: int) -> Found:
    distances = np.abs((regions.sums / regions.area[:, None])[:, None] - centroids).max(axis=2)
    near = np.flatnonzero((distances < MATCH_DISTANCE + MARGIN).any(axis=1))
    layer, area, top = regions.layer[near], regions.area[near], regions.low[near, 0]
    row_sums, column_sums = regions.sums[near].T
    first_columns = np.argmax(regions.labels[layer, top] == near[:, None] + 1, axis=1)
    return Found(
        crop.threshold + layer,
        area,
        row_sums + crop.top * area,
        column_sums + crop.left * area,
        (crop.top + top) * width + crop.left + first_columns,
    )


def _next_crops(crop: Crop, regions: CropRegions, centroids: np.ndarray) -> list[Crop]:
    """The regions of the last labelled threshold that may still lead to a target, each in a crop of its own."""
    last = len(regions.labels) - 1
    inside = (regions.low[:, None] - MATCH_DISTANCE <= centroids) & (
        centroids <= regions.high[:, None] + MATCH_DISTANCE
    )
    crops = []
    for index in np.flatnonzero(inside.all(axis=2).any(axis=1) & (regions.layer == last)):
        (top, left), (bottom, right) = regions.low[index].tolist(), (regions.high[index] + 1).tolist()
        own = regions.labels[last, top:bottom, left:right] == index + 1
        levels = crop.levels[top:bottom, left:right] * own
        crops.append(Crop(levels, crop.top + top, crop.left + left, crop.threshold + last + 1))
    return crops
