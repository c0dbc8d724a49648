"""Inputs of `predict` as streams of frames: images, folders and videos, and live ones: a pipe or a camera."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from istd.test_script.media.image_stream import split_images
from istd.utils.errors import InputError
from istd.utils.grey_levels import SEQUENCE, GreyScale, spread, to_unit
from istd.utils.image_stacks import STACK_SUFFIXES, stack_pages
from istd.utils.images import IMAGE_SUFFIXES, decode_pixels, image_files, numeric_key, one_channel, read_pixels
from istd.utils.names import folder_name, printable
from istd.utils.video import VIDEO_SUFFIXES, depth_note, keep_depth, open_video

EXPECTED = (
    "an image, a folder of images, a folder of such folders, a video file, a camera's number or URL, or - for a pipe"
)
PIPE = "-"
UNRELATED = ("image", "images")  # kinds of sources whose images are no sequence
MIN_CORRELATION = 0.5  # of thumbnails of neighbouring frames; a clear sky has less, but hardly changes
MAX_CHANGE = 0.05  # mean change of these thumbnails' pixels, of 0..1
COMPARED, THUMBNAIL = 8, (32, 32)  # pairs of neighbours; width and height, px
DEFAULT_FPS = 25.0  # of the overlay video of an image sequence
MAX_FPS = 1000
FAILED_READS = 64  # consecutive undecodable frames after which a video is taken to have ended
END_TOLERANCE = 0.01  # relative error of frame counts in video containers


OnBad = Callable[[str, str], None]  # is told the name of an unreadable frame, and why it cannot be read
Frames = Iterator[tuple[str, np.ndarray]]  # the name of each frame, and its grey levels, float32 [H, W] in 0..1


class Source(NamedTuple):
    """One sequence: `frames(on_bad)` streams it, calling `on_bad(name, reason)` for each unreadable frame it skips."""

    name: str
    kind: str  # "image", "images" (unrelated ones), "folder" (a sequence), "video" or "live"
    length: int | None  # number of frames, if known
    fps: float
    frames: Callable[[OnBad], Frames]
    scale: GreyScale  # by which its raw frames become 0..1; its `rule` may be set before the first frame


def find_sources(path: str | Path, folder_of: str | None = None) -> list[Source]:
    """The sequences at `path`: an image, a video, a folder of images, or a folder of such folders (in numeric order).

    Live sources are "-" (images on standard input) and what OpenCV opens: the number of a camera, a device, a URL.
    `folder_of`: "frames" or "images", of which a folder holds; None finds it out. Raises `InputError` if `path` is none
    of these.
    """
    if str(path) == PIPE:
        return [pipe_source()]
    address, path, images = str(path), Path(path), ", ".join(IMAGE_SUFFIXES)
    if "://" in address or path.is_char_device() or (address.isdecimal() and not path.exists()):
        return [camera_source(address)]
    if path.is_dir():
        folders = [path.resolve()]
        if not image_files(path):
            folders = sorted((entry for entry in path.iterdir() if entry.is_dir()), key=lambda p: numeric_key(p.name))
        found = ((entry.name, image_files(entry)) for entry in folders)
        sources = [image_folder(name, list(files.values()), folder_of) for name, files in found if files]
        if not sources:
            raise InputError(f"folder {path} holds no images ({images}), nor do the folders in it; give {EXPECTED}")
        return sources
    if not path.exists():
        raise InputError(f"{path} does not exist; give {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES + STACK_SUFFIXES:
        raise InputError(f"{path} is neither an image ({images}) nor a video ({', '.join(VIDEO_SUFFIXES)}); convert it")
    if pages := stack_pages(path):
        return [folder_source(path.stem, pages)]
    if suffix in (*IMAGE_SUFFIXES, *STACK_SUFFIXES):
        return [folder_source(path.stem, [path], "image")]
    return [video_source(path)]


def image_folder(name: str, images: list[Path], folder_of: str | None) -> Source:
    """The images of a folder, as one sequence or as unrelated ones, which is said where it is found out."""
    if len(images) == 1:
        return folder_source(name, images, "images" if folder_of == "images" else "folder")
    sequence = folder_of == "frames" if folder_of else is_sequence(images)
    if not sequence and not folder_of:
        print(printable(f"{name}: {len(images)} unrelated images; for frames of one sequence give --folder_of frames"))
    return folder_source(name, images, "folder" if sequence else "images")


def is_sequence(images: list[Path]) -> bool:
    """Whether images are the frames of one sequence: of one size, and most neighbours alike.

    Up to COMPARED pairs are compared as thumbnails: alike are those that correlate or hardly change.
    """
    unlike, sizes = [], set()
    for index in range(0, len(images) - 1, max(1, (len(images) - 1) // COMPARED)):
        with suppress(InputError):  # it is said when its turn comes
            pair = [read_pixels(path) for path in images[index : index + 2]]
            sizes |= {pixels.shape for pixels in pair}
            small = [cv2.resize(p.astype(np.float32), THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for p in pair]
            span = 255 if pair[0].dtype == np.uint8 else max(1e-6, float(np.ptp(small)))
            changed = np.abs(small[0] - small[1]).mean() > MAX_CHANGE * span
            unlike.append(changed and not np.corrcoef(small)[0, 1] >= MIN_CORRELATION)
    return len(sizes) <= 1 and 2 * sum(unlike) <= len(unlike)


def folder_source(name: str, images: list[Path], kind: str = "folder") -> Source:
    """Image files as one sequence; a file that cannot be read is bad."""
    scale = GreyScale(sample=partial(sample_files, images))

    def frames(on_bad: OnBad) -> Frames:
        for image in images:
            try:
                pixels = read_pixels(image)
            except InputError as error:
                on_bad(image.stem, str(error))
                continue
            alone = kind == "images" and scale.rule == SEQUENCE  # each image has a range of its own
            yield image.stem, to_unit(pixels) if alone else scale(pixels)

    return Source(folder_name(name), kind, len(images), DEFAULT_FPS, frames, scale)


def sample_files(images: list[Path]) -> Iterator[np.ndarray]:
    """The stored pixels of images spread over a sequence, without those that cannot be read."""
    for index in spread(len(images)):
        with suppress(InputError):  # it is said when its turn comes
            yield read_pixels(images[index])


def pipe_source() -> Source:
    """The images on standard input, see `split_images`; frames are named by their numbers, from 000000."""
    if sys.stdin.isatty():
        raise InputError("--input - reads images from a pipe; write them into one, for instance with ffmpeg")
    scale = GreyScale()

    def frames(on_bad: OnBad) -> Frames:
        for number, data in enumerate(split_images(sys.stdin.buffer)):
            try:
                pixels = decode_pixels(data, f"{number} of the pipe")
            except InputError as error:
                on_bad(f"{number:06d}", str(error))
                continue
            yield f"{number:06d}", scale(pixels)

    return Source("pipe", "live", None, DEFAULT_FPS, frames, scale)


def camera_source(address: str) -> Source:
    """A camera by its number, a device or a URL; named by the host and the path of a URL."""
    url = urlsplit(public_address(address))
    name = f"{url.hostname}{url.path}" if url.hostname else f"camera{url.path}"
    source = video_source(int(address) if address.isdecimal() else address)

    def frames(on_bad: OnBad) -> Frames:
        count = 0
        for frame in source.frames(on_bad):
            yield frame
            count += 1
        if source.length is None:  # such a stream does not end by itself
            reason = f"{public_address(address)} gave no further frame after {count}: it ended, or was cut off"
            on_bad(f"{count:06d}", reason)

    return source._replace(name=re.sub(r"\W+", "_", name).strip("_"), kind="live", frames=frames)


def public_address(address: Path | str | int) -> str:
    """The input as messages and result files name it: a URL without user name, password and query, which may be secret.

    Anything else stays as it is.
    """
    scheme, separator, rest = str(address).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if separator else scheme


def video_source(path: Path | str | int) -> Source:
    """A video file, or another source of OpenCV; frames are named by their numbers, from 000000."""
    capture = open_stream(path)
    count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
    length = count if count > 0 else None
    fps = fps if 0 < fps < MAX_FPS else DEFAULT_FPS
    name = public_address(path)
    if note := depth_note(capture, name):
        print(printable(note))
    sample = partial(sample_video, path, length) if isinstance(path, Path) and length else None
    scale = GreyScale(sample=sample)
    frames = partial(read_video, capture, name, length, fps, scale=scale)
    return Source(folder_name(Path(name).stem), "video", length, fps, frames, scale)


def sample_video(path: Path, length: int) -> Iterator[np.ndarray]:
    """Stored frames spread over a video."""
    capture = open_stream(path)
    try:
        for index in spread(length):
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
            good, image = capture.read()
            if good:
                yield one_channel(image)
    finally:
        capture.release()


def open_stream(path: Path | str | int) -> cv2.VideoCapture:
    """Open a video or a camera; raises `InputError` if OpenCV cannot decode it."""
    if isinstance(path, Path):
        return open_video(path)
    capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        address = public_address(path)
        raise InputError(f"cannot open camera {address}; check its number or URL, and that nothing else uses it")
    keep_depth(capture)
    return capture


def read_video(
    capture: cv2.VideoCapture, name: str, length: int | None, fps: float, on_bad: OnBad, scale: GreyScale
) -> Frames:
    """Stream a video as grey frames in 0..1; `name` is for messages.

    Frames that cannot be decoded are detected by gaps in the time stamps, a missing end by the frame count. Each is
    reported to `on_bad` before the next frame is yielded.
    """
    number, failures, damaged = 0, 0, False  # the next frame, consecutive failed reads, whether any read failed
    try:
        while True:
            good, image = capture.read()
            if not good:
                failures += 1
                if length is None or number >= length or failures > FAILED_READS:
                    break
                damaged = True
                continue
            failures = 0
            if damaged:  # decoders read ahead and fail before the damaged frame is due
                stamp = round(capture.get(cv2.CAP_PROP_POS_MSEC) * fps / 1000)
                for lost in range(number, stamp):
                    on_bad(f"{lost:06d}", f"frame {lost} of video {name} cannot be decoded")
                number = max(number, stamp)
            yield f"{number:06d}", scale(one_channel(image))
            number += 1
        if number == 0:
            raise InputError(f"no frame of video {name} can be decoded; convert it to mp4")
        if length is not None and length - number > max(2, END_TOLERANCE * length):
            reason = f"video {name} ends after {number} of {length} frames; its end is missing or damaged"
            on_bad(f"{number:06d}", reason)
    finally:
        capture.release()
