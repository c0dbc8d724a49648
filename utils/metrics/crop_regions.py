"""Regions of a part of a map at one threshold or at many, labelled as cheaply as its size allows."""

from typing import NamedTuple

import cv2
import numpy as np

STACK_PIXELS = 1 << 15  # px; as many thresholds of a crop as fit are labelled at once
SAMPLE_STEP = 8  # px; every 8th row and column tells which region is the largest (a guess that only speed rests on)


class Crop(NamedTuple):
    """A part of a map: levels uint8 or uint16 [h, w], zero outside the regions that it is about."""

    levels: np.ndarray
    top: int
    left: int
    threshold: int  # the first one to label


class CropRegions(NamedTuple):
    """All n regions of t successive thresholds of a crop; rows and columns count from the crop's own corner.

    layer: int64 [n], which of the thresholds; area: int64 [n], px; sums, low, high: int64 [n, 2], sum, least and
    greatest of the pixels' (row, column). labels: int32 [t, >= h, w], where region i is i + 1.
    """

    layer: np.ndarray
    area: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    labels: np.ndarray


def label_crop(crop: Crop) -> CropRegions:
    """Label the next thresholds of a crop, at least one: a crop must reach above its threshold somewhere."""
    thresholds = int(crop.levels.max()) - crop.threshold  # at its highest level a crop is empty
    count = min(thresholds, STACK_PIXELS // crop.levels.size)
    return _label_stack(crop, count) if count > 1 else _label_once(crop)


def _label_stack(crop: Crop, count: int) -> CropRegions:
    """Several thresholds by one call: their maps stand above each other in one tall image, a blank row apart."""
    height, width = crop.levels.shape
    stack = np.zeros((count, height + 1, width), np.uint8)
    thresholds = np.arange(crop.threshold, crop.threshold + count, dtype=crop.levels.dtype)
    np.greater(crop.levels, thresholds[:, None, None], out=stack[:, :height].view(bool))
    _, labels, stats, middles = cv2.connectedComponentsWithStats(stack.reshape(-1, width), connectivity=8)
    left, top, columns, rows, area = stats[1:].astype(np.int64).T
    layer = top // (height + 1)
    down = layer * (height + 1)
    # OpenCV divides whole sums by the area; multiplying and rounding gives them back
    column_sums, row_sums = np.rint(middles[1:].T * area).astype(np.int64)
    low = np.stack([top - down, left], axis=1)
    high = low + np.stack([rows, columns], axis=1) - 1
    sums = np.stack([row_sums - down * area, column_sums], axis=1)
    return CropRegions(layer, area, sums, low, high, labels.reshape(count, height + 1, width))


def _label_once(crop: Crop) -> CropRegions:
    """One threshold of a large crop.

    Such a map is mostly one giant region. Its measures follow from its projections on the two axes; only the pixels of
    the others are looked at one by one. That costs a fraction of OpenCV's statistics, which visit every pixel.
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
    # bincount adds in float64, which holds these whole numbers exactly
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
