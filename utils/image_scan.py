"""Where a PNG or JPEG image ends, in a growing buffer of bytes."""

import re
import struct
from collections.abc import Callable

MAX_PNG_CHUNK = 1 << 28  # bytes of a chunk of a png; a longer chunk is damage
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
PNG_FRAME = 12  # bytes of length, name and checksum of each chunk
JPG_START, JPG_SCAN, JPG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
SIGNATURES = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff")
JPG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends a scan: no stuffed byte, restart or fill byte
JPG_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # second bytes of the markers that have no segment
JPG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # second bytes of the markers of the image's size


class ImageScan:
    """Looks for the end of the image at the start of a growing buffer; no byte is looked at again when more arrive."""

    def __init__(self) -> None:
        self._at = 0  # the next byte to look at
        self._step: Callable[[bytes | bytearray], int] = self._start
        self._within_scan = False  # of a JPEG: its coded data
        self.size: tuple[int, int] | None = None  # width and height, once they were reached
        self.is_complete = False  # whether the end of the image was reached

    def end(self, data: bytes | bytearray) -> int:
        """The length of the image, or of the damaged data, at the start of `data`; 0 while its end is missing."""
        return self._step(data)

    def give_up(self, data: bytes | bytearray) -> int:
        """Take the image at the start as damaged, and return where the next image starts; 0 if there is none."""
        self._step, self._at = self._next_start, 1
        return self._step(data)

    def _start(self, data: bytes | bytearray) -> int:
        if len(data) < len(PNG_SIGNATURE):
            return 0
        if data.startswith(PNG_SIGNATURE):
            self._step, self._at = self._png, len(PNG_SIGNATURE)
        elif data.startswith(JPG_START):
            self._step, self._at = self._jpg, len(JPG_START)
        else:
            return self.give_up(data)
        return self._step(data)

    def _next_start(self, data: bytes | bytearray) -> int:
        if match := SIGNATURES.search(data, self._at):
            return match.start()
        self._at = max(self._at, len(data) - len(PNG_SIGNATURE) + 1)
        return 0

    def _png(self, data: bytes | bytearray) -> int:
        while self._at + 8 <= len(data):
            length, name = int.from_bytes(data[self._at : self._at + 4], "big"), data[self._at + 4 : self._at + 8]
            if length > MAX_PNG_CHUNK or not name.isalpha():  # of ASCII letters, as bytes have it
                return self.give_up(data)
            if name == PNG_END:
                end = self._at + PNG_FRAME + length
                self.is_complete = end <= len(data)
                self.size = struct.unpack_from(">II", data, 16) if len(data) >= 24 else None  # IEND may come first
                return end if self.is_complete else 0
            self._at += PNG_FRAME + length
        return 0

    def _jpg(self, data: bytes | bytearray) -> int:
        """Skip segments by their lengths, since a thumbnail inside a segment has markers, too."""
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
                self.is_complete = True
                return self._at + 2
            if marker == JPG_START:  # of the next image: this image was cut off
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
                if marker[1] in JPG_FRAMES and self._at + 9 <= len(data):
                    self.size = struct.unpack_from(">HH", data, self._at + 5)[::-1]
                self._at += 2 + length
                self._within_scan = marker == JPG_SCAN
