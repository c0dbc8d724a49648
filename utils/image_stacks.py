"""Stacks: multi-page TIFF files and .npy arrays [N, H, W], whose pages are the frames of a sequence."""

import io
import os
import struct
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
# values of TIFF's tags "photometric interpretation" and "orientation"
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
OTHER_COLOURS = (WHITE_IS_ZERO, 3, 5, 6, 8, 9, 10)  # neither grey nor RGB: a palette, CMYK, YCbCr, forms of Lab
UPRIGHT = 1


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
    """A page of a stack, or the only image of a .npy file: as stored, [H, W] or [H, W, 3 or 4] in OpenCV's order.

    Booleans become 0 and 255.
    """
    file, page = (path.file, path.page) if isinstance(path, StackPage) else (Path(path), 0)
    if file.suffix.lower() != ".npy":
        return decode_tiff(file, str(path), page)
    return _bits_as_levels(np.array(_open_npy(file)[page]))


def decode_tiff(file: Path | io.BytesIO, name: str, number: int = 0) -> np.ndarray:
    """Decode page `number` of a TIFF file to an array as stored, [H, W] or [H, W, 3 or 4] in OpenCV's channel order.

    Bits become 0 and 255. The tag that turns an image does nothing, as in png and jpg files. Raises `InputError`, with
    `name`, if the page cannot be decoded.
    """
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages[number]
            try:
                return _decode_by_tifffile(page)
            except Exception:  # of many types: a compression that tifffile lacks, a damaged file
                if (image := _decode_by_opencv(file, page)) is None:
                    raise
                return image
    except Exception as error:
        raise InputError(f"cannot read image {name}: {error}; copy or convert it again") from error


def _decode_by_tifffile(page: tifffile.TiffPage) -> np.ndarray:
    if _colours(page) in OTHER_COLOURS or "Z" in page.axes:
        raise ValueError(f"it is neither grey nor RGB, but {page.photometric.name} {list(page.shape)}")
    image = _bits_as_levels(page.asarray(maxworkers=1))
    if not image.size:
        raise ValueError("it holds no pixels")
    if image.ndim == 2:
        return image
    planes = image if page.axes[0] == "S" else np.moveaxis(image, 2, 0)
    order = (0, 0, 0, 1) if len(planes) == 2 else (2, 1, 0, 3)[: len(planes)]  # two: grey and alpha
    return np.stack([planes[channel] for channel in order], axis=2)


def _decode_by_opencv(file: Path | io.BytesIO, page: tifffile.TiffPage) -> np.ndarray | None:
    """Decode other compressions and colours by OpenCV; None where it fails, or would return wrong levels."""
    deep = page.dtype is not None and page.dtype.itemsize > 1
    if "Z" in page.axes or (deep and page.axes[0] == "S"):
        return None
    data = np.memmap(file, np.uint8, "c") if isinstance(file, Path) else np.frombuffer(file.getbuffer(), np.uint8)
    order, (at, form) = page.parent.byteorder, (8, "Q") if page.parent.is_bigtiff else (4, "I")
    struct.pack_into(order + form, data, at, page.offset)  # OpenCV decodes the first page, and turns it
    if orientation := page.tags.get("Orientation"):
        struct.pack_into(f"{order}H", data, orientation.valueoffset, UPRIGHT)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None or (deep and image.dtype == np.uint8):
        return None
    return ~image if image.dtype == np.uint16 and _colours(page) == WHITE_IS_ZERO else image


def _colours(page: tifffile.TiffPage) -> int:
    return page.tags.valueof("PhotometricInterpretation", default=BLACK_IS_ZERO)


def _bits_as_levels(image: np.ndarray) -> np.ndarray:
    return image * np.uint8(255) if image.dtype == bool else image


def _open_npy(path: Path) -> np.ndarray:
    """Pages [N, H, W] (or [1, H, W, C]) of a .npy file, mapped into memory."""
    open_image(path).close()
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}; expected an array [N, H, W] saved by numpy.save") from error
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in COLOUR_CHANNELS):
        array = array[None]
    if array.ndim != 3 or array.dtype.kind not in "buif" or not array.size:
        contents = f"{array.dtype} {list(array.shape)}"
        raise InputError(f"{path} holds {contents}; expected numbers or booleans [N, H, W]")
    return array


def _count_tiff_pages(path: Path) -> int:
    if not path.is_file():  # a pipe would block
        return 1
    try:
        with tifffile.TiffFile(path) as tiff:
            return len(tiff.pages)
    except Exception:  # reading the image says what is wrong
        return 1
