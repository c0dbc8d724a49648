"""Frames from a pipe: PNG and JPEG images one after the other, as ffmpeg's image2pipe writes them."""

from collections.abc import Iterator
from typing import BinaryIO

from istd.utils.errors import InputError
from istd.utils.image_scan import PNG_SIGNATURE, SIGNATURES, ImageScan

CHUNK = 1 << 16  # bytes read at a time, at most
MAX_IMAGE = 1 << 28  # bytes; more without an end means that the stream is damaged
EXPECTED = "expected PNG or JPEG images one after the other, as `ffmpeg -f image2pipe -c:v png -` writes them"


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of each image, as soon as its last byte has arrived.

    Damaged data come as they are, up to the start of the next image, for the decoder to refuse. Raises `InputError`
    where the stream does not begin with a PNG or JPEG image, or has no image in `MAX_IMAGE` bytes.
    """
    data, scan, first = bytearray(), ImageScan(), True
    while chunk := stream.read1(CHUNK):
        data += chunk
        if first and len(data) >= len(PNG_SIGNATURE):
            if not SIGNATURES.match(data):
                raise InputError(f"the input begins with the bytes {bytes(data[:8])!r}; {EXPECTED}")
            first = False
        while end := scan.end(data) or (len(data) > MAX_IMAGE and scan.give_up(data)):
            yield bytes(data[:end])
            del data[:end]
            scan = ImageScan()
        if len(data) > MAX_IMAGE:
            raise InputError(f"the input has no image in {MAX_IMAGE >> 20} MiB; the stream is damaged")
    while data:
        end = scan.end(data) or scan.give_up(data) or len(data)
        yield bytes(data[:end])
        del data[:end]
        scan = ImageScan()
