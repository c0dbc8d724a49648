"""Three detectors without learning, the floor that papers on small targets compare with: top-hat, MPCM, and IPI.

A detector takes grey levels, float [H, W], and returns responses of the same size, float32, 0 or above. Bright targets
respond; to MPCM dark ones do, too. A threshold is up to the user: it is common to scale the responses of an image to
0..1 and to take those above 0.5 (`evaluate --normalize`).
"""

import cv2
import numpy as np

TOP_HAT_SIDE = 9  # px of the structuring element; wider targets are taken for background
MPCM_SIDES = (3, 5, 7, 9)  # px of the patches, as published
IPI_PATCH = 50  # px, as published
IPI_STEP = 10
TOLERANCE = 1e-7  # of the low-rank and sparse parts' sum, relative
MAX_ITERATIONS = 500
FIRST_PENALTY = 1.25  # over the largest singular value
PENALTY_GROWTH = 1.5


def top_hat(grey: np.ndarray) -> np.ndarray:
    """White top-hat: structures that are brighter than their surroundings and narrower than 9 px.

    Rivest and Fortin, Detection of dim targets in digital infrared imagery by morphological image processing,
    Optical Engineering 35(7), 1996.
    """
    square = np.ones((TOP_HAT_SIDE, TOP_HAT_SIDE), np.uint8)
    return cv2.morphologyEx(grey.astype(np.float32), cv2.MORPH_TOPHAT, square)


def mpcm(grey: np.ndarray) -> np.ndarray:
    """Multiscale patch-based contrast: how a patch differs from the patches on both sides of it, in four directions.

    For patches of 3, 5, 7 and 9 px: the minimum over the directions of the product of the differences to two opposite
    neighbours; then the maximum over the sizes. Negative values are set to 0.

    Wei, You and Li, Multiscale patch-based contrast measure for small infrared target detection, Pattern Recognition
    58, 2016.
    """
    best = np.zeros(grey.shape, np.float64)
    height, width = grey.shape
    for side in MPCM_SIDES:
        padded = np.pad(grey.astype(np.float64), side + side // 2, mode="edge")
        means = cv2.blur(padded, (side, side))[side // 2 : -(side // 2), side // 2 : -(side // 2)]

        def difference(down: int, right: int, means: np.ndarray = means, side: int = side) -> np.ndarray:
            top, left = side * (1 + down), side * (1 + right)
            centre = means[side : side + height, side : side + width]
            return centre - means[top : top + height, left : left + width]

        directions = ((0, 1), (1, 1), (1, 0), (1, -1))
        products = [difference(*step) * difference(-step[0], -step[1]) for step in directions]
        np.maximum(best, np.min(products, axis=0), out=best)
    return best.astype(np.float32)


def ipi(grey: np.ndarray, patch: int = IPI_PATCH, step: int = IPI_STEP) -> np.ndarray:
    """Infrared patch-image model: the sparse part of the matrix whose columns are the overlapping patches of the image.

    Patches of 50 x 50 px every 10 px; the sparse part weighs 1 / sqrt(the longer side of the matrix); a pixel is the
    median over its patches. Negative values, of dark targets, are set to 0.

    Gao et al., Infrared patch-image model for small target detection in a single image, IEEE Transactions on Image
    Processing 22(12), 2013.
    """
    patch_height, patch_width = min(patch, grey.shape[0]), min(patch, grey.shape[1])
    rows, columns = _starts(grey.shape[0], patch_height, step), _starts(grey.shape[1], patch_width, step)
    corners = [(row, column) for row in rows for column in columns]
    patches = [grey[r : r + patch_height, c : c + patch_width].ravel() for r, c in corners]
    matrix = np.stack(patches, axis=1).astype(np.float64)
    _, sparse = low_rank_and_sparse(matrix, 1 / np.sqrt(max(matrix.shape)))
    return np.maximum(_median_of_patches(sparse, corners, (patch_height, patch_width), grey.shape), 0)


def low_rank_and_sparse(matrix: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Split a matrix into L + S with the least ||L||_* + weight ||S||_1 (robust principal component analysis).

    The inexact augmented Lagrange multiplier method: Lin, Chen and Ma, arXiv 1009.5055.
    """
    norm, largest = np.linalg.norm(matrix), np.sqrt(np.linalg.eigvalsh(_small_gram(matrix))[-1])
    low, sparse = np.zeros_like(matrix), np.zeros_like(matrix)
    if norm == 0:
        return low, sparse
    multiplier = matrix / max(largest, np.abs(matrix).max() / weight)
    penalty = FIRST_PENALTY / largest
    for _ in range(MAX_ITERATIONS):
        residual = matrix - low + multiplier / penalty
        sparse = np.sign(residual) * np.maximum(np.abs(residual) - weight / penalty, 0)
        low = shrink_singular_values(matrix - sparse + multiplier / penalty, 1 / penalty)
        error = matrix - low - sparse
        multiplier += penalty * error
        penalty *= PENALTY_GROWTH
        if np.linalg.norm(error) <= TOLERANCE * norm:
            break
    return low, sparse


def shrink_singular_values(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """The matrix with its singular values lowered by `threshold`, but not below 0.

    From the eigenvectors of the smaller Gram matrix, several times as fast as a singular value decomposition.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return shrink_singular_values(matrix.T, threshold).T
    squares, vectors = np.linalg.eigh(_small_gram(matrix))
    values = np.sqrt(np.maximum(squares, 0))
    kept = values > threshold
    factors = 1 - threshold / values[kept]
    return (matrix @ (vectors[:, kept] * factors)) @ vectors[:, kept].T


def _small_gram(matrix: np.ndarray) -> np.ndarray:
    """The smaller of M^T M and M M^T, whose eigenvalues are the squares of the singular values."""
    return matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T


def _starts(length: int, patch: int, step: int) -> list[int]:
    """First pixels of the patches along a side; the last patch ends at the border."""
    return [*range(0, length - patch, step), length - patch]


def _median_of_patches(
    matrix: np.ndarray, corners: list[tuple[int, int]], patch: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """An image [H, W] whose pixels are the medians over the patches, columns of `matrix`, that hold them."""
    places = [np.add.outer(np.arange(r, r + patch[0]) * shape[1], np.arange(c, c + patch[1])) for r, c in corners]
    pixels = np.concatenate([place.ravel() for place in places])
    values = matrix.ravel(order="F").astype(np.float32)
    order = np.lexsort((values, pixels))
    values, counts = values[order], np.bincount(pixels, minlength=shape[0] * shape[1])
    first = np.cumsum(counts) - counts
    middle = (values[first + (counts - 1) // 2] + values[first + counts // 2]) / 2
    return middle.reshape(shape)


DETECTORS = {"tophat": top_hat, "mpcm": mpcm, "ipi": ipi}
