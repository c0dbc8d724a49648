"""The contact sheet of a sequence: frames spread evenly over it, with enlarged crops around their detections."""

from collections.abc import Sequence

import cv2
import numpy as np

from istd.test_script.predictor.detections import Detection
from istd.utils.drawing import PREDICTED, SHEET_GREY, contact_sheet, enlarge, grey_to_rgb, outline, stretch_contrast
from istd.utils.images import window_around
from istd.utils.items import spread

SHEET_TILES = 24
SHEET_COLUMNS = 4
FRAME_SIDE = 240  # px of the longer side of a frame in its tile
CROPS_SIDE = 192  # px of the square beside it, which holds a crop, or four small ones
CROP_MARGIN = 12  # px of the frame around a detection, at least
MIN_CROP = 32  # px of the frame
MAX_CROPS = 4
BOX_MARGIN = 5  # px between a detection and its box in the small frame
GAP = 2


class Thumbnails:
    """Tiles spread evenly over a stream of unknown length; holds fewer than `2 * SHEET_TILES`."""

    def __init__(self) -> None:
        self._count, self._stride = 0, 1
        self._kept: list[tuple[str, np.ndarray]] = []

    def add(self, name: str, grey: np.ndarray, mask: np.ndarray, detections: Sequence[Detection]) -> None:
        """Add the next frame, float [H, W] in 0..1, with its mask bool [H, W]; it is kept or skipped."""
        if self._count % self._stride == 0:
            self._kept.append((tile_label(name, detections), draw_tile(grey, mask, detections)))
            if len(self._kept) >= 2 * SHEET_TILES:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._count += 1

    def sheet(self) -> np.ndarray:
        """The contact sheet, RGB uint8."""
        tiles = spread(self._kept, SHEET_TILES)
        return contact_sheet([picture for _, picture in tiles], [label for label, _ in tiles], SHEET_COLUMNS)


def tile_label(name: str, detections: Sequence[Detection]) -> str:
    """The name of a frame, the number of its detections, and the highest of their scores."""
    if not detections:
        return f"{name}: no detection"
    score = f"score {max(detection.peak_score for detection in detections):.2f}"
    return f"{name}: {score}" if len(detections) == 1 else f"{name}: {len(detections)} detections, highest {score}"


def draw_tile(grey: np.ndarray, mask: np.ndarray, detections: Sequence[Detection]) -> np.ndarray:
    """A frame at `FRAME_SIDE` with a box around every detection, and beside it crops around the best of them.

    A single detection fills the square; of several, up to `MAX_CROPS` with the highest scores are shown.
    """
    scale = FRAME_SIDE / max(grey.shape)
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    tile = np.full((max(height, CROPS_SIDE), width + GAP + CROPS_SIDE, 3), SHEET_GREY, np.uint8)
    small = cv2.resize(stretch_contrast(grey).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    frame = grey_to_rgb(small)
    for detection in detections:
        start = [round(place * scale) - BOX_MARGIN for place in (detection.left, detection.top)]
        end = (detection.left + detection.width, detection.top + detection.height)
        cv2.rectangle(frame, start, [round(place * scale) + BOX_MARGIN for place in end], PREDICTED, 1)
    tile[:height, :width] = frame
    best = sorted(detections, key=lambda detection: -detection.peak_score)[:MAX_CROPS]
    side = CROPS_SIDE if len(best) == 1 else (CROPS_SIDE - GAP) // 2
    for number, detection in enumerate(best):
        top, left = (place * (side + GAP) for place in divmod(number, 2))
        left += width + GAP
        tile[top : top + side, left : left + side] = draw_crop(grey, mask, detection, side)
    return tile


def draw_crop(grey: np.ndarray, mask: np.ndarray, detection: Detection, side: int) -> np.ndarray:
    """The part of a frame around a detection at full contrast, with outlines, RGB uint8 [side, side, 3]."""
    size = max(MIN_CROP, max(detection.width, detection.height) + 2 * CROP_MARGIN)
    centre = (detection.top + detection.height // 2, detection.left + detection.width // 2)
    window = window_around(centre, grey.shape, size)
    levels = grey[window]
    levels = (levels - levels.min()) / max(float(np.ptp(levels)), 1e-6)
    factor = max(1, side // size)
    picture = outline(enlarge(grey_to_rgb(levels), factor), enlarge(mask[window], factor), PREDICTED)
    scale = side / max(picture.shape[:2])
    sides = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    crop = np.full((side, side, 3), SHEET_GREY, np.uint8)
    interpolation = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    crop[: sides[1], : sides[0]] = cv2.resize(picture, sides, interpolation=interpolation)
    return crop
