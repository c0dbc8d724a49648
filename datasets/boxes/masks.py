"""Masks from boxes: the target around the strongest pixel of a box, the filled box, or its ellipse."""

import numpy as np

from istd.datasets.boxes.readers import Box
from istd.utils.metrics.regions import find_regions

MASKS = ("contrast", "box", "disc")
MARGIN = 1  # px by which a box, which may be tight, is enlarged to search the target
SURROUNDINGS = 6  # px around the enlarged box whose median is the background
HALF = 0.5  # of the contrast: pixels above it belong to the target
MIN_CONTRAST = 3  # times the noise of a pixel
NORMAL_QUARTILE = 0.6745  # the median of |n|, n normal with deviation 1


def clip_box(box: Box, height: int, width: int) -> tuple[Box | None, str | None]:
    """The part of a box inside the image, None if there is none, and what is odd about the box.

    Odd boxes are "degenerate" (no width or height, or not finite), "outside", or "clipped"; None for other boxes.
    """
    if not (np.isfinite(box[:4]).all() and box.width > 0 and box.height > 0):
        return None, "degenerate"
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, float(width)), min(box.y + box.height, float(height))
    if right <= left or bottom <= top:
        return None, "outside"
    inside = Box(left, top, right - left, bottom - top, box.crowd)
    return (inside, "clipped") if (left, top, right, bottom) != _edges(box) else (box, None)


def box_pixels(kind: str, pixels: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, int [n], of the mask of a box inside the image `pixels` [H, W]; none without contrast.

    kind "contrast": `contrast_region`. "box" and "disc": the pixels whose centres lie in the box, or in the ellipse
    that it encloses, and at least the pixel at the centre of the box.
    """
    if kind == "contrast":
        return contrast_region(pixels, box)
    height, width = pixels.shape
    left, top, right, bottom = _edges(box)
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    if kind == "box":
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    else:
        across, down = (2 * x - left - right) / box.width, (2 * y - top - bottom) / box.height
        inside = across**2 + down**2 <= 1
    if not inside.any():
        inside[min(int((top + bottom) / 2), height - 1), min(int((left + right) / 2), width - 1)] = True
    return np.nonzero(inside)


def contrast_region(pixels: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the 8-connected region around the strongest pixel of a box, brighter or darker.

    Its pixels, in the box or a pixel around it, have at least half of the strongest pixel's contrast to the median of
    the surroundings. The region is empty if that contrast is below 3 times the pixels' noise (from the differences of
    neighbours; at least a level of integer images).
    """
    height, width = pixels.shape
    left, top, right, bottom = _edges(box)
    top, left = max(0, int(top) - MARGIN), max(0, int(left) - MARGIN)
    bottom, right = min(height, int(np.ceil(bottom)) + MARGIN), min(width, int(np.ceil(right)) + MARGIN)
    rows = slice(max(0, top - SURROUNDINGS), bottom + SURROUNDINGS)
    columns = slice(max(0, left - SURROUNDINGS), right + SURROUNDINGS)
    window = pixels[rows, columns].astype(np.float64)
    around = np.ones(window.shape, bool)
    around[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = False
    background = np.median(window[around] if around.any() else window)
    contrast = pixels[top:bottom, left:right] - background
    if contrast.max() < -contrast.min():
        contrast = -contrast
    differences = np.abs(np.diff(window, axis=1))
    noise = np.median(differences) / (NORMAL_QUARTILE * np.sqrt(2)) if differences.size else 0.0
    level = 1.0 if pixels.dtype.kind in "iu" else np.finfo(np.float32).tiny
    if not MIN_CONTRAST * max(level, noise) <= contrast.max() < np.inf:  # nor is it NaN
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    regions = find_regions(contrast >= HALF * contrast.max())
    owner = regions.owners[np.searchsorted(regions.pixels, contrast.argmax())]
    rows, columns = regions.coordinates(contrast.shape[1])[owner]
    return rows + top, columns + left


def _edges(box: Box) -> tuple[float, float, float, float]:
    return box.x, box.y, box.x + box.width, box.y + box.height
