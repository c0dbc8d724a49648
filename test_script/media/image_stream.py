"""Frames from a pipe: PNG and JPEG images one after the other, as ffmpeg's image2pipe writes them."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from istd.utils.errors import InputError
from istd.utils.images import JPG_END, JPG_SCAN, JPG_START, PNG_END, PNG_START

CHUNK = 1 << 16  # bytes read at a time, at most
LARGEST_IMAGE = 1 << 28  # bytes; more without an end means that the stream is damaged
PNG_HEADER, PNG_FRAME = 8, 12  # bytes before the first chunk; of length, name and checksum of each chunk
JPG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends a scan: no stuffed byte, restart or fill byte


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of each image, as soon as its last one has arrived; an incomplete image at the end comes last.

    Raises `InputError` for anything else than PNG and JPEG images.
    """
    data = b""
    while chunk := stream.read1(CHUNK):
        data += chunk
        while end := image_end(data):
            yield data[:end]
            data = data[end:]
        if len(data) > LARGEST_IMAGE:
            raise InputError(f"the input has an image of more than {LARGEST_IMAGE >> 20} MiB; the stream is damaged")
    if data:
        yield data


def image_end(data: bytes) -> int:
    """The length of the image at the start of `data`, 0 while it is incomplete; `InputError` if there is no image."""
    if data.startswith(PNG_START):
        return _png_end(data)
    if data.startswith(JPG_START):
        return _jpg_end(data)
    if not any(start.startswith(data) for start in (PNG_START, JPG_START)):
        expected = "expected PNG or JPEG images one after the other, as `ffmpeg -f image2pipe -c:v png -` writes them"
        raise InputError(f"the input goes on with the bytes {data[:8]!r}; {expected}")
    return 0


def _png_end(data: bytes) -> int:
    at = PNG_HEADER
    while at + PNG_FRAME <= len(data):
        name = data[at + 4 : at + 8]
        at += PNG_FRAME + int.from_bytes(data[at : at + 4], "big")
        if name == PNG_END:
            return at if at <= len(data) else 0
    return 0


def _jpg_end(data: bytes) -> int:
    """Segments are skipped by their lengths, since a thumbnail in one of them has an end marker of its own."""
    at = len(JPG_START)
    while at + 2 <= len(data):
        marker = data[at : at + 2]
        if marker == JPG_END:
            return at + 2
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == JPG_SCAN:
            following = JPG_MARKER.search(data, at)
            if following is None:
                return 0
            at = following.start()
    return 0
