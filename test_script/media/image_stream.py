"""Frames from a pipe: PNG and JPEG images one after the other, as ffmpeg's image2pipe writes them."""

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from istd.utils.errors import InputError
from istd.utils.images import JPG_END, JPG_SCAN, JPG_START, PNG_END

CHUNK = 1 << 16  # bytes read at a time, at most
MAX_IMAGE = 1 << 28  # bytes; more without an end means that the stream is damaged
MAX_PNG_CHUNK = 1 << 26  # bytes of one chunk of a png; a longer one is damage
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIGNATURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff")
PNG_FRAME = 12  # bytes of length, name and checksum of each chunk
JPG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends a scan: no stuffed byte, restart or fill byte
JPG_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # second bytes of the markers that have no segment
EXPECTED = "expected PNG or JPEG images one after the other, as `ffmpeg -f image2pipe -c:v png -` writes them"


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of each image, as soon as its last one has arrived.

    What is damaged comes as it is, up to the start of the next image, for the decoder to refuse. Raises `InputError`
    where the stream does not begin with a PNG or JPEG image, or has none in `MAX_IMAGE` bytes.
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


class ImageScan:
    """Looks for the end of the image at the start of a growing buffer; no byte is looked at again when more arrive."""

    def __init__(self) -> None:
        self._at = 0  # the next byte to look at
        self._step: Callable[[bytearray], int] = self._start
        self._within_scan = False  # of a JPEG: its coded data

    def end(self, data: bytearray) -> int:
        """The length of the image at the start of `data`, or of what is damaged; 0 while its end has not arrived."""
        return self._step(data)

    def give_up(self, data: bytearray) -> int:
        """Where the next image starts, if the one at the start is taken as damaged; 0 if there is none."""
        self._step, self._at = self._next_start, 1
        return self._step(data)

    def _start(self, data: bytearray) -> int:
        if len(data) < len(PNG_SIGNATURE):
            return 0
        if data.startswith(PNG_SIGNATURE):
            self._step, self._at = self._png, len(PNG_SIGNATURE)
        elif data.startswith(JPG_START):
            self._step, self._at = self._jpg, len(JPG_START)
        else:
            return self.give_up(data)
        return self._step(data)

    def _next_start(self, data: bytearray) -> int:
        if found := SIGNATURES.search(data, self._at):
            return found.start()
        self._at = max(self._at, len(data) - len(PNG_SIGNATURE) + 1)
        return 0

    def _png(self, data: bytearray) -> int:
        while self._at + 8 <= len(data):
            length, name = int.from_bytes(data[self._at : self._at + 4], "big"), data[self._at + 4 : self._at + 8]
            if length > MAX_PNG_CHUNK or not name.isalpha():  # of ASCII letters, as bytes have it
                return self.give_up(data)
            if name == PNG_END:
                end = self._at + PNG_FRAME + length
                return end if end <= len(data) else 0
            self._at += PNG_FRAME + length
        return 0

    def _jpg(self, data: bytearray) -> int:
        """Segments are skipped by their lengths, since a thumbnail in one of them has markers of its own."""
        while True:
            if self._within_scan:
                following = JPG_MARKER.search(data, self._at)
                if following is None:
                    self._at = max(self._at, len(data) - 1)
                    return 0
                self._at, self._within_scan = following.start(), False
            if self._at + 4 > len(data) and data[self._at : self._at + 2] != JPG_END:
                return 0
            marker = bytes(data[self._at : self._at + 2])
            if marker == JPG_END:
                return self._at + 2
            if marker == JPG_START:  # of the next image: this one was cut off
                return self._at
            length = int.from_bytes(data[self._at + 2 : self._at + 4], "big")
            if marker[0] != 0xFF or marker[1] == 0:
                return self.give_up(data)
            if marker[1] == 0xFF:  # a fill byte
                self._at += 1
            elif marker[1] in JPG_ALONE:
                self._at += 2
            elif length < 2:
                return self.give_up(data)
            else:
                self._at += 2 + length
                self._within_scan = marker == JPG_SCAN
