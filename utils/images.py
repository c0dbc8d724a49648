"""Find, read and encode the grey frames and masks of infrared datasets, whatever their format and bit depth."""

import codecs
import io
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np

from istd.utils.errors import InputError
from istd.utils.grey_levels import to_unit
from istd.utils.image_headers import (
    DAMAGED_HEADER,
    TIFF_STARTS,
    check_pixels,
    incomplete_image,
    open_image,
    parse_size,
)
from istd.utils.image_scan import JPG_START, PNG_SIGNATURE
from istd.utils.image_stacks import StackPage, decode_tiff, read_array

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_TARGET_NUMBER = 32  # of a mask that numbers its targets; jpg and resizing leave higher levels
MASK_ENDING = "_pixels0"  # NUAA-SIRST is released with masks named NAME_pixels0.png


def numeric_key(name: str) -> tuple:
    """Sort key that orders names by the numbers in them: "1(2)" before "1(10)", "f9" before "f10".

    Spaces are ignored ("1 (3)" lies between "1(2)" and "1(4)"). Numbers come before letters.
    """
    parts = re.findall(r"[0-9]+|[^0-9\s]+", name)
    return (tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts), name)


def file_key(stem: str) -> str:
    """Key that matches images, masks and list entries: the name without spaces, so that "1 (3)" equals "1(3)"."""
    return "".join(stem.split())


def mask_key(path: Path) -> str:
    """`file_key` of a mask or a score map, which matches it with its image: without NUAA-SIRST's ending of masks."""
    return file_key(path.stem).removesuffix(MASK_ENDING)


def last_number(name: str) -> int | None:
    """The last number in a name, such as a frame's number; None if the name has no number."""
    return next((int(digits) for digits in reversed(re.findall("[0-9]+", name))), None)


def image_files(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, key: Callable[[Path], str] = attrgetter("stem")
) -> dict[str, Path]:
    """Files of `folder` with one of `suffixes`, by `key`, ordered by the numbers in their names; hidden ones excluded.

    Empty where there is no such folder. Raises `InputError` for two files with the same key.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir() if folder.is_dir() else (), key=lambda path: numeric_key(path.name)):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if not path.is_file() and not path.is_symlink():  # a dangling link stays, and reading it says so
            continue
        if (other := files.setdefault(key(path), path)) is not path:
            raise InputError(f"{other} and {path} have the same name; expected one file per frame; remove one of them")
    return files


def read_list(path: Path) -> list[str]:
    """Entries of a list file, without blank lines, carriage returns, image suffixes, and slashes at either end.

    UTF-8, or UTF-16, as PowerShell writes it, also without a byte order mark.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    if 0 in data[:2]:  # half of an ASCII character in UTF-16
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    lines = data.decode(encoding, errors="surrogateescape").splitlines()
    entries = (line.strip().replace("\\", "/").removeprefix("./").strip("/") for line in lines)
    without_suffix = (entry.rsplit(".", 1)[0] if entry.lower().endswith(IMAGE_SUFFIXES) else entry for entry in entries)
    return [entry for entry in without_suffix if entry]


def window_around(centre: Iterable[float], shape: tuple[int, int], side: int) -> tuple[slice, slice]:
    """The window of `side` x `side` px around `centre` (row, column), moved, or cut, to lie in an image of `shape`."""

    def along(middle: float, length: int) -> slice:
        start = max(0, min(round(float(middle)) - side // 2, length - side))
        return slice(start, min(start + side, length))

    return tuple(map(along, centre, shape))


def size_text(image: np.ndarray) -> str:
    """Size of an image [H, W] as "W x H"."""
    return f"{image.shape[1]} x {image.shape[0]}"


def read_pixels(path: str | Path) -> np.ndarray:
    """Decode an image file to one channel at its stored depth: uint8, uint16 or float, [H, W].

    Colour becomes luma (0.299 R + 0.587 G + 0.114 B; exactly the channel itself where all three are equal), an alpha
    channel is ignored. Raises `InputError` if the file is missing, truncated or not an image.
    """
    return one_channel(_read(path))


def one_channel(image: np.ndarray) -> np.ndarray:
    """An image [H, W], or [H, W, 3 or 4] in OpenCV's channel order, as one channel [H, W]; see `read_pixels`."""
    if image.ndim == 2:
        return image
    if image.dtype not in (np.uint8, np.uint16):  # cvtColor supports these and 32-bit floats only
        image = image.astype(np.float32)
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY)


def read_grey(path: str | Path) -> np.ndarray:
    """Read a frame as float32 [H, W] in 0..1; beyond 8 bits, by the range of this frame alone."""
    return to_unit(read_pixels(path))


def decode_pixels(data: bytes, name: str) -> np.ndarray:
    """`read_pixels` of the bytes of an image file; `name` is for errors."""
    return one_channel(_decode(data, name))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask as bool [H, W]; see `mask_of`."""
    return mask_of(_read(path))


def mask_of(image: np.ndarray) -> np.ndarray:
    """The mask bool [H, W] that an image [H, W] or [H, W, 3 or 4] shows.

    Two levels are background (the lower) and target, whatever they are: 0/1, 0/255, a palette's colours. Of more
    levels (jpg, resized masks), those above half of the maximum are target; but the small integers 0, 1, 2, ... number
    the targets. A single level is target unless it is 0.
    """
    levels = mask_levels(image)
    low, high = levels.min(), levels.max()
    if low == high:
        return np.full(levels.shape, bool(low))
    if is_two_valued(levels):
        return levels == high
    return levels > (0 if numbers_targets(levels) else high / 2)


def mask_levels(image: np.ndarray) -> np.ndarray:
    """The levels [H, W] that show a mask: the maximum over the colour channels, or alpha if colour is constant."""
    if image.ndim == 2:
        return image
    colour = image[..., :3].max(axis=2)
    if image.shape[2] == 4 and colour.min() == colour.max() and image[..., 3].min() < image[..., 3].max():
        return image[..., 3]
    return colour


def is_two_valued(levels: np.ndarray) -> bool:
    """Whether [H, W] holds at most two levels."""
    return bool(((levels == levels.min()) | (levels == levels.max())).all())


def numbers_targets(levels: np.ndarray) -> bool:
    """Whether the levels of a mask [H, W] are 0 for the background and the numbers of its targets."""
    return levels.dtype.kind in "iu" and levels.min() == 0 and levels.max() <= MAX_TARGET_NUMBER


def inspect_mask(path: str | Path) -> tuple[np.ndarray, str]:
    """Read a mask, bool [H, W], and describe which levels are target if there are more than two ("" otherwise)."""
    image = _read(path)
    levels = mask_levels(image)
    if is_two_valued(levels):
        return mask_of(image), ""
    rule = "all above 0 is target" if numbers_targets(levels) else "above half of the maximum is target"
    return mask_of(image), f"{len(np.unique(levels))} levels, {rule}"


def encode_png(image: np.ndarray, options: tuple[int, ...] = ()) -> bytes:
    """The bytes of a png file: grey uint8 or uint16 [H, W], or RGB uint8 [H, W, 3]; `options` as for `cv2.imencode`."""
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image, options)[1].tobytes()


def _read(path: str | Path) -> np.ndarray:
    """Read an image file or a page of a stack as stored; see `_decode`."""
    if isinstance(path, StackPage) or str(path).lower().endswith(".npy"):
        return read_array(path)
    with open_image(path) as file:
        return _decode(file.read(), str(path))


def _decode(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a file to an array as stored, [H, W] or [H, W, 3 or 4] in OpenCV's channel order."""
    try:
        size = parse_size(io.BytesIO(data))
    except DAMAGED_HEADER:
        size = None
    if size:
        check_pixels(size, name)
    image = None
    if size and data.startswith(TIFF_STARTS):
        image = decode_tiff(io.BytesIO(data), name)
    elif size or not data.startswith((PNG_SIGNATURE, JPG_START)):  # OpenCV would decode what is left of a cut-off file
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise incomplete_image(name, len(data))
    if image.dtype.kind == "f" and not np.isfinite(image).any():
        raise InputError(f"image {name} holds no finite value; expected grey levels; convert it again")
    return image
