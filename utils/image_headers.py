"""Read the size of an image from the header of its file, and check that the file is complete."""

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from istd.utils.errors import InputError
from istd.utils.image_scan import ImageScan

MAX_PIXELS = 1 << 28  # of one image; more is a damaged header, or an attack
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
DAMAGED_HEADER = (struct.error, ValueError, KeyError, OverflowError, OSError)  # the last two: impossible offsets
BMP_FORM = 40  # bytes of the usual header
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags
TIFF_FORMS = {3: "H", 4: "I", 16: "Q"}  # of integers of 16, 32 and 64 bits, by their type


def open_image(path: str | Path) -> BinaryIO:
    """Open a regular file to read; raises `InputError` for anything else, such as a pipe, which would block."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"cannot read image {path}: it is no regular file; remove it, or copy the image there")
        return open(path, "rb")
    except OSError as error:
        reason = error.strerror or error
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"it is a link to {os.readlink(path)}, which does not exist"
        raise InputError(f"cannot read image {path}: {reason}; check the path") from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels by the header of a png, jpg, bmp or tiff file.

    Raises `InputError` where there is no header, or a png, jpg or bmp is not complete.
    """
    with open_image(path) as file:
        try:
            size = parse_size(file)
        except DAMAGED_HEADER as error:
            raise InputError(f"cannot read image {path}: its header is damaged ({error}); copy it again") from error
    if size is None:
        raise incomplete_image(path, os.path.getsize(path))
    check_pixels(size, path)
    return size


def parse_size(file: BinaryIO) -> tuple[int, int] | None:
    """`read_size` of an open file; None for other data, and for a png, jpg or bmp without its end.

    Raises one of the errors in `DAMAGED_HEADER` where the header ends early or makes no sense.
    """
    start = file.read(4)
    file.seek(0)
    if start in TIFF_STARTS:
        return _tiff_size(file, "<" if start[:2] == b"II" else ">", start[2:] in (b"+\0", b"\0+"))
    data = file.read()
    if start[:2] == b"BM":
        return _bmp_size(data)
    scan = ImageScan()
    scan.end(data)
    return scan.size if scan.is_complete else None


def incomplete_image(name: str | Path, size: int) -> InputError:
    """The error for `size` bytes that cannot be decoded."""
    expected = "not a complete png, jpg, bmp or tiff image; copy or convert it again"
    return InputError(f"cannot read image {name}: its {size} bytes are {expected}")


def check_pixels(size: tuple[int, int], name: str | Path) -> None:
    """Raise `InputError` for an image whose width and height claim more than MAX_PIXELS, or none."""
    if not 0 < size[0] * size[1] <= MAX_PIXELS:
        limit = f"more than 0 and at most {MAX_PIXELS} pixels"
        claim = f"image {name} claims to be {size[0]} x {size[1]}"
        raise InputError(f"{claim}; expected {limit}; copy or convert it again")


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels; None for old forms of the header, and for data shorter than the pixels."""
    pixels_at, form, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, 10)
    row_bytes = (width * bits + 31) // 32 * 4
    if form < BMP_FORM or (not compression and pixels_at + row_bytes * abs(height) > len(data)):
        return None
    return width, abs(height)


def _tiff_size(file: BinaryIO, order: str, big: bool) -> tuple[int, int]:
    """Width and height in the first directory; order: of the bytes; big: whether the file is a BigTIFF."""
    file.seek(8 if big else 4)
    (at,) = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    file.seek(at)
    count_form, entry_form = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    (count,) = struct.unpack(order + count_form, file.read(8 if big else 2))
    values, entry_size = {}, struct.calcsize(order + entry_form)
    for _ in range(count):
        tag, kind, _, value = struct.unpack(order + entry_form, file.read(entry_size))
        if tag in (TIFF_WIDTH, TIFF_HEIGHT):
            values[tag] = struct.unpack_from(order + TIFF_FORMS[kind], value)[0]
    return values[TIFF_WIDTH], values[TIFF_HEIGHT]
