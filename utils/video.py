"""Video files as grey frames at their stored depth, read by PyAV."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from istd.utils.errors import InputError
from istd.utils.grey_levels import RANGE_FRAMES, range_frames
from istd.utils.images import one_channel
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".wmv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".flv")
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
LIMITED_TO_FULL = np.clip((np.arange(256) - 16) * 255 // 219, 0, 255).astype(np.uint8)  # ITU-R BT.601: 16 is black
MAX_THREADS = 8
END_TOLERANCE, END_FRAMES = 0.01, 2  # share of its duration, and frames, by which a video may end early

OnBad = Callable[[int, str], None]  # is told the number of a frame that cannot be read, and why


def open_video(path: Path) -> av.container.InputContainer:
    """Open a video file, which a `with` block closes; raises `InputError` if PyAV cannot decode it."""
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")  # a colon in a name is no protocol
    except av.FFmpegError as error:
        reason = f"{error.strerror}; check the path, copy the file again, or convert it to mp4"
        raise InputError(f"cannot open video {path}: {reason}") from error
    video = container.streams.best("video")
    if video is None or video.codec_context is None:
        raise InputError(f"cannot open video {path}: it holds no video that PyAV can decode; convert it to mp4")
    return container


def video_facts(path: Path) -> tuple[int | None, float]:
    """The number of frames and the frames per second that a video file states, None and 0 where it does not.

    Where it states a duration only, the number follows from that, and is wrong if the frame rate varies.
    """
    with open_video(path) as container:
        stream = container.streams.best("video")
        fps = _frame_rate(stream)
        frames = stream.frames or round((_duration(container) or 0) * fps)
        return frames if frames > 0 else None, fps


def count_frames(path: Path) -> int:
    """The number of frames of a video file that are shown, counted by its packets; none is decoded.

    The number that a trimmed file states includes frames that it hides.
    """
    count = 0
    with open_video(path) as container, suppress(av.FFmpegError):  # a file that is cut off ends there
        for packet in container.demux(container.streams.best("video")):
            count += packet.size > 0 and not packet.is_discard
    return count


def read_frames(path: Path, on_bad: OnBad) -> Iterator[tuple[int, np.ndarray]]:
    """Stream a video file as frame numbers, from 0, and grey frames (see `grey_levels`).

    A frame that is damaged or cannot be decoded is skipped and reported to `on_bad` before the next frame comes. So is,
    in the end, a video that is shorter than the file states. Raises `InputError` where no frame can be decoded.
    """
    following = 0
    try:
        for number, levels in _decode(path, on_bad, exact=False):
            yield number, levels
            following = number + 1
    except _Damaged:
        yield from (frame for frame in _decode(path, on_bad, exact=True) if frame[0] >= following)


class _Damaged(Exception):
    """Raised where several threads decode a damaged video: they lose sound frames beside the damaged ones."""


def _decode(path: Path, on_bad: OnBad, exact: bool) -> Iterator[tuple[int, np.ndarray]]:
    """`read_frames`; `exact`: in a single thread, else in several, which raise `_Damaged` at the first bad frame."""
    number, failed, end = 0, False, 0
    due: list[int] = []  # a heap of the time stamps of frames that the decoder has not given yet

    def lose(state: str) -> None:
        nonlocal number
        if not exact:
            raise _Damaged
        on_bad(number, f"frame {number} of video {path} {state}")
        number += 1

    with open_video(path) as container:
        stream = container.streams.best("video")
        stream.thread_type, stream.thread_count = "SLICE" if exact else "AUTO", min(MAX_THREADS, cores_of_process())
        packets = container.demux(stream)
        while True:
            try:
                if (packet := next(packets, None)) is None:
                    break
                if packet.size and packet.pts is not None and not packet.is_discard:
                    heappush(due, packet.pts)
                    end = max(end, packet.pts + (packet.duration or 0))
                frames = packet.decode()
            except av.FFmpegError:
                failed = True
                continue
            for frame in frames:
                while due and frame.pts is not None and due[0] <= frame.pts:
                    if heappop(due) < frame.pts and failed:  # without a failure, the packet shows nothing
                        lose("cannot be decoded")
                if frame.is_corrupt:
                    lose("is damaged")
                else:
                    yield number, grey_levels(frame)
                    number += 1
        if not exact and (due or not number):
            raise _Damaged
        if not number:
            raise InputError(f"no frame of video {path} can be decoded; copy it again, or convert it to mp4")
        seconds, duration = float(end * stream.time_base), _duration(container) or 0
        if duration - seconds > max(END_TOLERANCE * duration, END_FRAMES / (_frame_rate(stream) or 1)):
            times = f"{seconds:.2f} of {duration:.2f} s"
            reason = f"video {path} ends after {counted(number, 'frame')}, {times}; its end is missing or damaged"
            on_bad(number, reason)
        else:
            for _ in due if failed else ():
                lose("cannot be decoded")


def sample_frames(path: Path) -> Iterator[np.ndarray]:
    """Up to RANGE_FRAMES grey frames spread over a video file, or its first frames where PyAV cannot seek in it."""
    samples = 0
    with open_video(path) as container:
        stream = container.streams.best("video")
        for stamp in range_frames(_time_stamps(container)):
            with suppress(av.FFmpegError, StopIteration):
                container.seek(stamp, stream=stream)  # to the key frame before
                yield grey_levels(next(f for f in container.decode(stream) if (f.pts or 0) >= stamp))
                samples += 1
    if not samples:  # as in short transport streams, whose key frames are not indexed
        yield from (levels for _, levels in islice(read_frames(path, lambda *_: None), RANGE_FRAMES))


def grey_levels(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as grey levels [H, W], uint8 or uint16, rotated for display as the file says.

    Grey is the luma as stored. Luma of 8 bits in the limited range, 16 to 235, becomes 0 to 255, as players show it;
    YUV is in that range unless the file says otherwise. Deeper luma keeps its levels. RGB becomes luma.
    """
    luma, name = frame.format.components[0], frame.format.name
    if luma.is_luma and 8 <= luma.bits <= 16 and (len(frame.planes) > 1 or name.startswith("gray")):
        dtype = np.dtype("u1" if luma.bits == 8 else ">u2" if frame.format.is_big_endian else "<u2")
        rows = np.frombuffer(frame.planes[0], dtype).reshape(-1, frame.planes[0].line_size // dtype.itemsize)
        levels = rows[:, : frame.width].astype(dtype.newbyteorder("="))
        if luma.bits == 8 and not name.startswith(("gray", "yuvj")) and frame.color_range != FULL_RANGE:
            levels = cv2.LUT(levels, LIMITED_TO_FULL)
    else:
        levels = one_channel(frame.to_ndarray(format="rgb24" if luma.bits <= 8 else "rgb48le")[..., ::-1])
    return np.ascontiguousarray(np.rot90(levels, frame.rotation // 90)) if frame.rotation else levels


def _frame_rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def _duration(container: av.container.InputContainer) -> float | None:
    """The seconds that a file states for its video; None if it does not, or only for video and sound together."""
    stream = container.streams.best("video")
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None


def _time_stamps(container: av.container.InputContainer) -> list[int]:
    """The time stamps of all frames in the order they are shown, from the packets alone; none is decoded."""
    packets = container.demux(container.streams.best("video"))
    return sorted(p.pts for p in packets if p.size and p.pts is not None and not p.is_discard)
