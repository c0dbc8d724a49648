"""Size and contrast of the targets of a frame, measured."""

from typing import NamedTuple

import cv2
import numpy as np

SURROUNDINGS = 10  # pixels around a target's box that its background is measured in
GUARD = 2  # pixels around every target that belong to no background


class TargetStatistics(NamedTuple):
    """`area` in pixels; `contrast` = target mean - background mean (grey levels 0..1); `scr` = |contrast| / background
    standard deviation (signal-to-clutter ratio), None where the background is constant or absent."""

    area: int
    contrast: float | None
    scr: float | None


def measure_targets(grey: np.ndarray, mask: np.ndarray) -> list[TargetStatistics]:
    """Statistics of each 8-connected region of `mask` bool [H, W] in `grey` float [H, W].

    The background is what lies within 10 px of the target's box, without all targets and 2 px around them.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    free = cv2.dilate(mask.astype(np.uint8), np.ones((2 * GUARD + 1,) * 2, np.uint8)) == 0
    targets = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in boxes[label])
        window = (
            slice(max(y - SURROUNDINGS, 0), y + height + SURROUNDINGS),
            slice(max(x - SURROUNDINGS, 0), x + width + SURROUNDINGS),
        )
        background = grey[window][free[window]]
        contrast = scr = None
        if background.size:
            contrast = float(grey[window][labels[window] == label].mean() - background.mean())
            deviation = float(background.std())
            scr = abs(contrast) / deviation if deviation > 0 else None
        targets.append(TargetStatistics(area, contrast, scr))
    return targets
