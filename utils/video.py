"""Opening video files with OpenCV at their stored depth."""

from pathlib import Path

import cv2

from istd.utils.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".wmv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".flv")
GREY_16_BIT = int.from_bytes(b"Y1\x00\x10", "little")  # FFmpeg's tag of gray16le


def open_video(path: Path) -> cv2.VideoCapture:
    """Open a video file, of which grey frames of 16 bits come as such; `InputError` if OpenCV cannot decode it."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(f"cannot open video {path}: damaged, or a format that OpenCV cannot decode; convert it to mp4")
    keep_depth(capture)
    return capture


def keep_depth(capture: cv2.VideoCapture) -> None:
    """Let a capture give grey frames of 16 bits as they are, instead of 8 bits."""
    if int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT) or 0) & 0xFFFFFFFF == GREY_16_BIT:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
