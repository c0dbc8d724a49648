"""Connected regions of a binary map, with integer measurements. Only `target_curve` labels regions elsewhere."""

from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np


class Regions(NamedTuple):
    """The n 8-connected regions of a map in raster order of their first pixels, as scikit-image labels them.

    areas, row_sums, column_sums: int64 [n], the number of pixels and the sums of their coordinates, so that centroids
    are exact ratios. pixels: int64 [m], flat indices of the map's pixels, ascending; owners: int64 [m], their regions.
    """

    areas: np.ndarray
    row_sums: np.ndarray
    column_sums: np.ndarray
    pixels: np.ndarray
    owners: np.ndarray

    @property
    def centroids(self) -> np.ndarray:
        """Centroids (row, column) in px, float64 [n, 2], rounded once, as those of scikit-image."""
        return np.stack([self.row_sums, self.column_sums], axis=1) / self.areas[:, None]

    def coordinates(self, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows and columns of the pixels of each region, in raster order, in a map `width` px wide."""
        order = np.argsort(self.owners, kind="stable")
        parts = np.split(self.pixels[order], np.cumsum(self.areas)[:-1]) if len(self.areas) else []
        return [np.divmod(part, width) for part in parts]

    def boxes(self, width: int) -> np.ndarray:
        """Bounding boxes (x, y, width, height) in px, int64 [n, 4], in a map `width` px wide."""
        places = np.stack(np.divmod(self.pixels, width)[::-1], axis=1)
        low = np.full((len(self.areas), 2), np.iinfo(np.int64).max)
        high = np.full((len(self.areas), 2), -1)
        np.minimum.at(low, self.owners, places)
        np.maximum.at(high, self.owners, places)
        return np.concatenate([low, high - low + 1], axis=1)

    def means(self, values: np.ndarray) -> np.ndarray:
        """The mean of a map [H, W] over each region, float64 [n]."""
        return np.bincount(self.owners, values.ravel()[self.pixels], len(self.areas)) / self.areas

    def maxima(self, values: np.ndarray) -> np.ndarray:
        """The maximum of a map [H, W] over each region, float64 [n]."""
        result = np.full(len(self.areas), -np.inf)
        np.maximum.at(result, self.owners, values.ravel()[self.pixels])
        return result


def find_regions(binary: np.ndarray) -> Regions:
    """Label and measure a bool map [H, W]."""
    pixels = np.flatnonzero(binary)
    if len(pixels) == 0:
        return Regions(*[np.zeros(0, np.int64)] * 5)
    count, labels = cv2.connectedComponents(binary.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    owners = labels.ravel()[pixels].astype(np.int64) - 1
    count -= 1
    # OpenCV scans blocks of 2 x 2, so its labels are not in raster order: renumber by the regions' first pixels
    first = np.empty(count, np.int64)
    first[owners[::-1]] = pixels[::-1]
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(count)
    owners = rank[owners]
    rows, columns = np.divmod(pixels, binary.shape[1])
    # bincount adds in float64, exact for integers below 2 ** 53: any image with sides below 2 ** 26 pixels
    sums = (np.bincount(owners, weights=places, minlength=count).astype(np.int64) for places in (rows, columns))
    return Regions(np.bincount(owners, minlength=count), *sums, pixels, owners)


class ImagePair:
    """The thresholded map of an image and its mask with the targets; regions are labelled when a rule needs them."""

    def __init__(self, binary: np.ndarray, mask: np.ndarray, targets: Regions):
        self.binary, self.mask, self.targets = binary, mask, targets

    @cached_property
    def regions(self) -> Regions:
        return find_regions(self.binary)
