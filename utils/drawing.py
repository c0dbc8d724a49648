"""Drawing frames, outlined regions and contact sheets. Pictures are RGB, uint8, [H, W, 3]."""

from collections.abc import Sequence

import cv2
import numpy as np
from skimage.util import montage

from istd.utils.names import drawn

TRUTH = (47, 212, 240)  # cyan: the true mask, in every picture and in the report
PREDICTED = (255, 84, 54)  # red: the prediction
DISPLAY_PERCENTILES = (0.5, 99.9)  # of the grey levels, shown as black and white

LABEL_HEIGHT = 14
GAP = 4
SHEET_GREY = 24  # level between the tiles
TEXT_COLOR = (220, 220, 220)


def grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    """Convert grey levels, float [H, W] in 0..1 (clipped), to RGB uint8 [H, W, 3]."""
    levels = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def stretch_contrast(grey: np.ndarray) -> np.ndarray:
    """Map the 0.5th to the 99.9th percentile of float [H, W] to 0..1, so that dim frames are legible."""
    low, high = np.percentile(grey, DISPLAY_PERCENTILES)
    return (grey - low) / max(float(high - low), 1e-6)


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel of an image [H, W, ...] `factor` times along both sides."""
    return np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))


def outline(rgb: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Copy of `rgb` uint8 [H, W, 3] with a one-pixel line in `color` around every region of `mask` bool [H, W].

    The line runs just outside the region, so that a target of a single pixel stays visible inside it.
    """
    region = mask.astype(np.uint8)
    ring = cv2.dilate(region, np.ones((3, 3), np.uint8)) > region
    result = rgb.copy()
    result[ring] = color
    return result


def contact_sheet(tiles: Sequence[np.ndarray], labels: Sequence[str], columns: int) -> np.ndarray:
    """Arrange `tiles` (RGB uint8, sizes may differ) in rows of `columns`, each above its label; returns RGB uint8."""
    columns = min(columns, len(tiles))
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    cells = np.full((len(tiles), height + LABEL_HEIGHT, width, 3), SHEET_GREY, np.uint8)
    for cell, tile, label in zip(cells, tiles, labels, strict=True):
        cell[: tile.shape[0], : tile.shape[1]] = tile
        place = (1, LABEL_HEIGHT - 4)
        cv2.putText(cell[height:], drawn(label), place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, TEXT_COLOR, 1, cv2.LINE_AA)
    grid = (-(-len(tiles) // columns), columns)
    return montage(cells, fill=[SHEET_GREY] * 3, grid_shape=grid, padding_width=GAP, channel_axis=-1)
