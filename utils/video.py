"""Opening video files with OpenCV at their stored depth."""

from pathlib import Path

import cv2

from istd.utils.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".wmv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".flv")
GREY_16_BIT = b"Y1\x00\x10"  # FFmpeg's tag of gray16le, the only deep format that OpenCV gives as it is
DEEP_START = b"Y"  # of the tags of raw formats, which end in the bits of a value


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file, of which grey frames of 16 bits come as such; `InputError` if OpenCV cannot decode it."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(f"cannot open video {path}: damaged, or a format that OpenCV cannot decode; convert it to mp4")
    keep_depth(capture)
    return capture


def keep_depth(capture: cv2.VideoCapture) -> None:
    """Let a capture give grey frames of 16 bits as they are, instead of 8 bits."""
    if _pixel_format(capture) == GREY_16_BIT:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)


def depth_note(capture: cv2.VideoCapture, name: str) -> str | None:
    """What is to be said of a video deeper than 8 bits that OpenCV reads at 8 bits; None for any other."""
    tag = _pixel_format(capture)
    if not tag.startswith(DEEP_START) or tag == GREY_16_BIT or not 8 < tag[-1] < 32:
        return None
    advice = "to keep its levels, convert it: ffmpeg -i VIDEO -c:v ffv1 -pix_fmt gray16le OUT.mkv"
    return f"note: {name} has {tag[-1]} bits and is read at 8 bits; {advice}"


def _pixel_format(capture: cv2.VideoCapture) -> bytes:
    """FFmpeg's tag of the decoded pixels, 4 bytes."""
    return (int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT) or 0) & 0xFFFFFFFF).to_bytes(4, "little")
