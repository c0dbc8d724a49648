"""Size and depth of an image from the first bytes of its file, and whether the file is complete."""

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.image_scan import JPG_END, JPG_START, PNG_END, PNG_SIGNATURE, ImageScan

MAX_PIXELS = 1 << 28  # of one image; more is a damaged header, or an attack
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
DAMAGED_HEADER = (struct.error, ValueError, LookupError)  # that `parse_header` raises
BMP_FORM = 40  # bytes of the usual header
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS = 256, 257, 258


class Header(NamedTuple):
    """Width and height in pixels, and bits of a channel."""

    width: int
    height: int
    bits: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def size_text(self) -> str:
        return f"{self.width} x {self.height}"


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


def read_header(path: str | Path) -> Header:
    """The header of a png, jpg, bmp, tiff or npy file; raises `InputError` where it or the image is not complete."""
    with open_image(path) as file:
        try:
            header = parse_header(file)
        except DAMAGED_HEADER as error:
            raise InputError(f"cannot read image {path}: its header is damaged ({error}); copy it again") from error
    if header is None:
        raise incomplete_image(path, os.path.getsize(path))
    check_pixels(header, path)
    return header


def parse_header(file: BinaryIO) -> Header | None:
    """The header of an image of any of these formats; None for other data, and a png, jpg or bmp without its end.

    Raises one of `DAMAGED_HEADER` where it ends early, or cannot be.
    """
    start = file.read(26)
    if start.startswith(PNG_SIGNATURE):
        width, height, bits = struct.unpack(">IIB", start[16:25])
        return Header(width, height, bits) if _has_png_end(file) else None
    if start.startswith(JPG_START):
        file.seek(0)
        return _jpg_header(file.read())
    if start.startswith(b"BM"):
        return _bmp_header(file)
    if start.startswith(TIFF_STARTS):
        return _tiff_header(file, "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+"))
    if start.startswith(np.lib.format.MAGIC_PREFIX):
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return Header(shape[-1], shape[-2], 8 * dtype.itemsize)
    return None


def incomplete_image(name: str | Path, size: int) -> InputError:
    """The error for `size` bytes that cannot be decoded."""
    expected = "not a complete png, jpg, bmp or tiff image; copy or convert it again"
    return InputError(f"cannot read image {name}: its {size} bytes are {expected}")


def check_pixels(header: Header, name: str | Path) -> None:
    """Raise `InputError` for an image that claims more than MAX_PIXELS, or none."""
    if not 0 < header.width * header.height <= MAX_PIXELS:
        limit = f"more than 0 and at most {MAX_PIXELS} pixels"
        raise InputError(f"image {name} claims to be {header.size_text}; expected {limit}; copy or convert it again")


def _bmp_header(file: BinaryIO) -> Header | None:
    """None for old forms of the header, and where the file is shorter than its pixels."""
    file.seek(10)
    pixels_at, form, width, height, _, bits, compression = struct.unpack("<IIiiHHI", file.read(24))
    if form < BMP_FORM:
        return None
    row_bytes = (width * bits + 31) // 32 * 4
    if not compression and pixels_at + row_bytes * abs(height) > file.seek(0, os.SEEK_END):
        return None
    return Header(width, abs(height), 8)


def _has_png_end(file: BinaryIO) -> bool:
    """Whether the chunks of a png go on to its end marker; what cameras append after it does not count."""
    file.seek(len(PNG_SIGNATURE))
    while len(chunk := file.read(8)) == 8:
        if chunk[4:] == PNG_END:
            return True
        file.seek(int.from_bytes(chunk[:4], "big") + 4, os.SEEK_CUR)
    return False


def _jpg_header(data: bytes) -> Header | None:
    """The header of a jpg in memory; None if its end marker is missing. What follows that marker does not count."""
    scan = ImageScan()
    end = scan.end(data)
    if scan.jpg_frame is None or data[max(0, end - 2) : end] != JPG_END:
        return None
    bits, height, width = scan.jpg_frame
    return Header(width, height, bits)


def _tiff_header(file: BinaryIO, order: str, big: bool) -> Header | None:
    """The size in the first directory."""
    file.seek(8 if big else 4)
    (at,) = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    file.seek(at)
    count_form, entry_form = ("Q", "HHQ8s") if big else ("H", "HHI4s")
    (count,) = struct.unpack(order + count_form, file.read(8 if big else 2))
    values = {TIFF_BITS: 1}
    size = struct.calcsize(order + entry_form)
    for _ in range(count):
        tag, kind, number, value = struct.unpack(order + entry_form, file.read(size))
        if tag in (TIFF_WIDTH, TIFF_HEIGHT) or (tag == TIFF_BITS and 2 * number <= len(value)):
            values[tag] = struct.unpack(order + ("H" if kind == 3 else "I"), value[: 2 if kind == 3 else 4])[0]
    return Header(values[TIFF_WIDTH], values[TIFF_HEIGHT], values[TIFF_BITS]) if TIFF_WIDTH in values else None
