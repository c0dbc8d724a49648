"""Matched targets and the areas of their regions at every threshold, without labelling the whole map every time.

Two exact identities make it fast:
* False-alarm pixels are all pixels of the thresholded map, which a histogram counts, less the areas of matched regions.
  Only regions whose centroid lies near a target have to be known; a map without targets needs no labelling at all.
* Regions only split and shrink as the threshold rises. A region whose bounding box, enlarged by 3 px, contains no
  target's centroid can be dropped with everything it will split into. The search starts with the whole map at the
  lowest threshold and soon narrows to crops of a few pixels around the targets, of which many thresholds are labelled
  at once.
A noisy map of thousands of regions narrows once its largest region falls apart (at about 0.6 for white noise).
"""

from typing import NamedTuple

import cv2
import numpy as np
import scipy

from istd.utils.metrics.matching import MATCH_DISTANCE, best_pairs, close_pairs
from istd.utils.metrics.regions import Regions

MARGIN = 1e-3  # px; more than rounding can move a centroid
STACK_PIXELS = 1 << 15  # px labelled at once: as many thresholds of a crop as fit
FEW_PAIRS = 20_000  # of regions and targets, which are compared faster than a tree of them is built
SAMPLE_STEP = 8  # px; every 8th row and column votes for the largest region (affects speed only)


class Crop(NamedTuple):
    """A part of a map: levels uint8 or uint16 [h, w], zero outside the regions of interest."""

    levels: np.ndarray
    top: int
    left: int
    threshold: int  # the next threshold to label
    centroids: np.ndarray  # float64 [t, 2], (row, column) in the map of the targets that the crop may lead to


class CropRegions(NamedTuple):
    """All n regions at t successive thresholds of a crop; rows and columns count from the crop's corner.

    layer: int64 [n], index of the threshold; area: int64 [n], px; sums, low, high: int64 [n, 2], sum, minimum and
    maximum of the pixels' (row, column). labels: int32 [t, >= h, w], i + 1 in region i.
    """

    layer: np.ndarray
    area: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    labels: np.ndarray


class NearRegions(NamedTuple):
    """Regions near targets at any thresholds, int64 [n]; `first`: the flat index of a region's first pixel."""

    threshold: np.ndarray
    area: np.ndarray
    row_sum: np.ndarray
    column_sum: np.ndarray
    first: np.ndarray


def target_curve(levels: np.ndarray, targets: Regions, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Per threshold k of 0..steps: matched targets, and pixels of the regions they are matched with, int64 [steps + 1].

    levels: how many of the steps + 1 thresholds lie below each score, [H, W] of 0..steps + 1; targets: `find_regions`
    of the mask. Matching follows the standard protocol.
    """
    if not len(targets.areas):
        return np.zeros(steps + 1, np.int64), np.zeros(steps + 1, np.int64)
    # thresholds between two levels that occur give the same map: only the first threshold is labelled
    below = np.cumsum(np.bincount(levels.ravel(), minlength=steps + 1)[: steps + 1] > 0)  # [k]: levels up to k
    ranks = (np.append(0, below) + 1).astype(np.uint8 if steps < 254 else np.uint16)[levels]
    near = NearRegions(*map(np.concatenate, zip(*_find_near(ranks, targets.centroids), strict=True)))
    order = np.lexsort((near.first, near.threshold))  # raster order within a threshold, as matching expects
    near = NearRegions(*(column[order] for column in near))
    none = np.zeros(0, np.int64)
    rows, columns, distances = close_pairs(targets, Regions(near.area, near.row_sum, near.column_sum, none, none))
    # for the assignment, a target is another target at every threshold
    chosen = columns[best_pairs(near.threshold[columns] * len(targets.areas) + rows, columns, distances)]
    matched, areas = np.zeros((2, int(below[-1]) + 1), np.int64)
    np.add.at(matched, near.threshold[chosen], 1)
    np.add.at(areas, near.threshold[chosen], near.area[chosen])
    return matched[below], areas[below]


def _find_near(levels: np.ndarray, centroids: np.ndarray) -> list[NearRegions]:
    """All regions of all thresholds whose centroids lie near the `centroids` of targets, float64 [targets, 2]."""
    near = [NearRegions(*[np.zeros(0, np.int64)] * len(NearRegions._fields))]
    waiting = [Crop(levels, 0, 0, 0, centroids)]
    while waiting:
        crop = waiting.pop()
        thresholds = int(crop.levels.max()) - crop.threshold  # at its highest level a crop is empty
        if thresholds > 0:
            count = min(thresholds, STACK_PIXELS // crop.levels.size)
            regions = _label_stack(crop, count) if count > 1 else _label_once(crop)
            near.append(_near_targets(crop, regions, levels.shape[1]))
            waiting.extend(_next_crops(crop, regions))
    return near


def _near_targets(crop: Crop, regions: CropRegions, width: int) -> NearRegions:
    places = regions.sums / regions.area[:, None] + (crop.top, crop.left)
    if len(places) * len(crop.centroids) <= FEW_PAIRS:
        distances = np.abs(places[:, None] - crop.centroids).max(axis=2).min(axis=1)
    else:
        distances = scipy.spatial.cKDTree(crop.centroids).query(
            places, p=np.inf, distance_upper_bound=2 * MATCH_DISTANCE
        )[0]
    near = np.flatnonzero(distances < MATCH_DISTANCE + MARGIN)
    layer, area, top = regions.layer[near], regions.area[near], regions.low[near, 0]
    row_sums, column_sums = regions.sums[near].T + np.outer((crop.top, crop.left), area)
    first_columns = np.argmax(regions.labels[layer, top] == near[:, None] + 1, axis=1)
    first = (crop.top + top) * width + crop.left + first_columns
    return NearRegions(crop.threshold + layer, area, row_sums, column_sums, first)


def _next_crops(crop: Crop, regions: CropRegions) -> list[Crop]:
    """Crops of the regions of the last labelled threshold that may still lead to a target."""
    last = len(regions.labels) - 1
    candidates = np.flatnonzero(regions.layer == last)
    corner = np.array([crop.top, crop.left])
    low, high = regions.low[candidates] + corner - MATCH_DISTANCE, regions.high[candidates] + corner + MATCH_DISTANCE
    by_row = crop.centroids[np.argsort(crop.centroids[:, 0], kind="stable")]
    starts = np.searchsorted(by_row[:, 0], low[:, 0], side="left")
    ends = np.searchsorted(by_row[:, 0], high[:, 0], side="right")
    crops = []
    for number in np.flatnonzero(ends > starts):
        inside = by_row[starts[number] : ends[number]]
        inside = inside[(low[number, 1] <= inside[:, 1]) & (inside[:, 1] <= high[number, 1])]
        if not len(inside):
            continue
        index = candidates[number]
        (top, left), (bottom, right) = regions.low[index].tolist(), (regions.high[index] + 1).tolist()
        region = regions.labels[last, top:bottom, left:right] == index + 1
        levels = crop.levels[top:bottom, left:right] * region
        crops.append(Crop(levels, crop.top + top, crop.left + left, crop.threshold + last + 1, inside))
    return crops


def _label_stack(crop: Crop, count: int) -> CropRegions:
    """Label several thresholds in one call: their maps are stacked in one tall image, separated by blank rows."""
    height, width = crop.levels.shape
    stack = np.zeros((count, height + 1, width), np.uint8)
    thresholds = np.arange(crop.threshold, crop.threshold + count, dtype=crop.levels.dtype)
    np.greater(crop.levels, thresholds[:, None, None], out=stack[:, :height].view(bool))
    _, labels, stats, middles = cv2.connectedComponentsWithStats(stack.reshape(-1, width), connectivity=8)
    left, top, columns, rows, area = stats[1:].astype(np.int64).T
    layer = top // (height + 1)
    down = layer * (height + 1)
    # OpenCV divides integer sums by the area; multiplying and rounding recovers them
    column_sums, row_sums = np.rint(middles[1:].T * area).astype(np.int64)
    low = np.stack([top - down, left], axis=1)
    high = low + np.stack([rows, columns], axis=1) - 1
    sums = np.stack([row_sums - down * area, column_sums], axis=1)
    return CropRegions(layer, area, sums, low, high, labels.reshape(count, height + 1, width))


def _label_once(crop: Crop) -> CropRegions:
    """Label one threshold of a large crop.

    Such a map is mostly a giant region. It is measured by its projections onto the two axes; only the pixels of the
    other regions are visited singly. That costs a fraction of OpenCV's statistics, which visit every pixel.
    """
    height, width = crop.levels.shape
    binary = crop.levels > crop.threshold
    count, labels = cv2.connectedComponents(binary.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    if count == 2:
        giant, giant_map, others = 1, binary, np.zeros(0, np.int64)
    else:
        sample = np.bincount(labels[::SAMPLE_STEP, ::SAMPLE_STEP].ravel(), minlength=count)
        giant = 1 + int(np.argmax(sample[1:]))
        giant_map = labels == giant
        others = np.flatnonzero(binary ^ giant_map)
    owners = labels.ravel()[others]
    places = np.divmod(others, width)
    area = np.bincount(owners, minlength=count)
    # bincount adds in float64, which is exact for these integers
    sums = np.stack([np.bincount(owners, weights=place, minlength=count) for place in places], axis=1).astype(np.int64)
    low = np.full((count, 2), max(height, width), np.int64)
    high = np.full((count, 2), -1, np.int64)
    for axis, place in enumerate(places):
        np.minimum.at(low[:, axis], owners, place)
        np.maximum.at(high[:, axis], owners, place)
        profile = cv2.reduce(giant_map.view(np.uint8), 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
        reached = np.flatnonzero(profile)
        low[giant, axis], high[giant, axis] = reached[0], reached[-1]
        sums[giant, axis] = profile.astype(np.int64) @ np.arange(len(profile))
        area[giant] = profile.sum()
    return CropRegions(np.zeros(count - 1, np.int64), area[1:], sums[1:], low[1:], high[1:], labels[None])
