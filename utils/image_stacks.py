"""Stacks: multi-page TIFF files and .npy arrays [N, H, W], whose pages are the frames of a sequence."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from istd.utils.errors import InputError
from istd.utils.image_headers import open_image

TIFF_SUFFIXES = (".tif", ".tiff")
STACK_SUFFIXES = (*TIFF_SUFFIXES, ".npy")
COLOUR_CHANNELS = (3, 4)  # of a single image [H, W, C] in a .npy file


@dataclass(frozen=True)
class StackPage(os.PathLike):
    """A page of a stack, used like the path of an image file; its name is its number from 000000."""

    file: Path
    page: int

    def __fspath__(self) -> str:
        return str(self.file)

    def __str__(self) -> str:
        return f"{self.file}, page {self.page}"

    @property
    def stem(self) -> str:
        """The name of the frame."""
        return f"{self.page:06d}"

    def stat(self) -> os.stat_result:
        """The state of the file."""
        return self.file.stat()


def stack_pages(path: Path) -> list[StackPage]:
    """The pages of a stack; [] for a file with a single image or of another kind. Raises `InputError` if damaged."""
    suffix = path.suffix.lower()
    if suffix not in STACK_SUFFIXES or not path.is_file():
        return []
    count = len(_open_npy(path)) if suffix == ".npy" else _count_tiff_pages(path)
    return [StackPage(path, page) for page in range(count)] if count > 1 else []


def read_array(path: Path | StackPage) -> np.ndarray:
    """A page of a stack, or the only image of a .npy file: as stored, [H, W] or [H, W, 3 or 4] in OpenCV's order."""
    file, page = (path.file, path.page) if isinstance(path, StackPage) else (Path(path), 0)
    if file.suffix.lower() == ".npy":
        return np.array(_open_npy(file)[page])
    try:
        return in_opencv_order(tifffile.imread(file, key=page))
    except Exception as error:  # tifffile raises errors of many types: a compression that it lacks, a damaged file
        good, images = cv2.imreadmulti(str(file), [], page, 1, cv2.IMREAD_UNCHANGED)
        if not good or not images:
            raise InputError(f"cannot read image {path}: {error}; convert it again") from error
        return images[0]


def in_opencv_order(image: np.ndarray) -> np.ndarray:
    """An image [H, W] or [H, W, RGB or RGBA] with its channels in OpenCV's order."""
    if image.ndim == 3 and image.shape[2] in COLOUR_CHANNELS:
        return np.ascontiguousarray(np.dstack([image[..., 2::-1], image[..., 3:]]))
    return image.squeeze()


def _open_npy(path: Path) -> np.ndarray:
    """Pages [N, H, W] (or [1, H, W, C]) of a .npy file, mapped into memory."""
    open_image(path).close()
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}; expected an array [N, H, W] saved by numpy.save") from error
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in COLOUR_CHANNELS):
        array = array[None]
    if array.ndim != 3 or array.dtype.kind not in "uif" or not array.size:
        contents = f"{array.dtype} {list(array.shape)}"
        raise InputError(f"{path} holds {contents}; expected whole or floating-point numbers [N, H, W]")
    return array


def _count_tiff_pages(path: Path) -> int:
    open_image(path).close()
    try:
        with tifffile.TiffFile(path) as tiff:
            return len(tiff.pages)
    except Exception:  # reading the image says what is wrong
        return 1
