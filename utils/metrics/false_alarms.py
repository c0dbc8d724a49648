"""How false alarms are counted: the rules that protocols take their Fa from, in pixels of one image."""

import cv2
import numpy as np

from utils.metrics.matching import Matching
from utils.metrics.regions import Scene

SHOOTING_FREE_RADIUS = 4  # px: a 9 x 9 box


def region_pixels(scene: Scene, matching: Matching) -> int:
    """pixels of unmatched predicted regions"""
    areas = scene.regions.areas
    return int(areas.sum() - areas[matching.used].sum())


def area_value_pixels(scene: Scene, matching: Matching) -> int:
    """areas of all regions, less every area equal to that of some matched region"""
    areas = scene.regions.areas
    return int(areas[~np.isin(areas, areas[matching.used])].sum())


def shooting_pixels(scene: Scene, matching: Matching) -> int:
    """predicted pixels outside the 9 x 9 boxes of all mask pixels (boxes that start above 0 only)"""
    radius, side = SHOOTING_FREE_RADIUS, 2 * SHOOTING_FREE_RADIUS + 1
    # DTUM slices from coordinate - 4 on; nearer to the first row or column that start is negative and the slice empty.
    sources = np.zeros_like(scene.mask, dtype=np.uint8)
    sources[radius:, radius:] = scene.mask[radius:, radius:]
    free = cv2.dilate(sources, np.ones((side, side), np.uint8)).astype(bool)
    return int(np.count_nonzero(scene.binary & ~free))
