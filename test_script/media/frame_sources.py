"""Inputs of `predict` as streams of frames: images, folders and videos, and live ones: a pipe or a camera."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from istd.test_script.media.image_stream import split_images
from istd.utils.errors import InputError
from istd.utils.grey_levels import SEQUENCE, GreyScale, range_frames, to_unit
from istd.utils.image_stacks import STACK_SUFFIXES, StackPage, stack_pages
from istd.utils.images import IMAGE_SUFFIXES, decode_pixels, image_files, numeric_key, one_channel, read_pixels
from istd.utils.names import counted, folder_name, printable, public_address
from istd.utils.video import END_FRAMES, END_TOLERANCE, VIDEO_SUFFIXES, read_frames, sample_frames, video_facts

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
GREY_16_BIT = int.from_bytes(b"Y1\x00\x10", "little")  # FFmpeg's tag of gray16le

OnBad = Callable[[str, str], None]  # is told the name of an unreadable frame, and why it cannot be read
Frames = Iterator[tuple[str, np.ndarray]]  # the name of each frame, and its grey levels, float32 [H, W] in 0..1


class Source(NamedTuple):
    """A sequence: `frames(on_bad)` streams it, calling `on_bad(name, reason)` for each unreadable frame it skips."""

    name: str
    kind: str  # "image", "images" (unrelated images), "folder" (a sequence), "video" or "live"
    length: int | None  # number of frames, if known
    fps: float
    frames: Callable[[OnBad], Frames]
    scale: GreyScale  # by which its raw frames become 0..1; its `rule` may be set before the first frame


def find_sources(path: str | Path, folder_of: str | None = None, left_out: Collection[Path] = ()) -> list[Source]:
    """The sequences at `path`: an image, a video, a folder of images, or a folder of such folders (in numeric order).

    A stack is a sequence, alone or in a folder; see `utils.image_stacks`.
    Live sources are "-" (images on standard input) and what OpenCV opens: the number of a camera, a device, a URL.
    `folder_of`: the contents of a folder, "frames" or "images"; None: `is_sequence` decides. `left_out`: resolved
    folders in `path` that are no sequences. `InputError` for other inputs.
    """
    if str(path) == PIPE:
        return [pipe_source()]
    address, path, images = str(path), Path(path), ", ".join(IMAGE_SUFFIXES)
    if "://" in address or path.is_char_device() or (address.isdecimal() and not path.exists()):
        return [camera_source(address)]
    if path.is_dir():
        inner = [entry for entry in path.iterdir() if entry.is_dir() and entry.resolve() not in left_out]
        inner.sort(key=lambda entry: numeric_key(entry.name))
        here = image_files(path) or image_files(path, (".npy",))
        folders = [path.resolve()] if here or not inner else inner
        sources = [source for folder in folders for source in folder_sources(folder, folder_of)]
        if not sources:
            raise InputError(f"folder {path} holds no images ({images}), nor do the folders in it; give {EXPECTED}")
        name, count = Counter(source.name for source in sources).most_common(1)[0]
        if count > 1:
            raise InputError(
                f"{path} holds {count} sequences named {name}; rename them, or give a folder with only one of them"
            )
        return sources
    if not path.exists():
        raise InputError(f"{path} does not exist; give {EXPECTED}")
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES + STACK_SUFFIXES:
        raise InputError(f"{path} is neither an image ({images}) nor a video ({', '.join(VIDEO_SUFFIXES)}); convert it")
    if suffix in VIDEO_SUFFIXES:
        return [video_source(path)]
    pages = stack_pages(path)
    return [folder_source(path.stem, pages or [path], "folder" if pages else "image")]


def folder_sources(folder: Path, folder_of: str | None) -> list[Source]:
    """The single images of a folder, see `image_folder`, and each of its stacks as a sequence."""
    pages = {path: readable_pages(path) for path in image_files(folder).values()}
    if all(pages.values()):  # beside single images, a .npy file is something else, such as a score map
        pages = {path: readable_pages(path) for path in image_files(folder, STACK_SUFFIXES).values()}
    images = [path for path, found in pages.items() if not found]
    if images and (arrays := image_files(folder, (".npy",))):
        print(f"{counted(len(arrays), '.npy file')} beside the images of {folder.name} not read")
    sources = [image_folder(folder.name, images, folder_of)] if images else []
    return sources + [folder_source(path.stem, found) for path, found in pages.items() if found]


def readable_pages(path: Path) -> list[StackPage]:
    """`stack_pages`, but [] for a damaged file, which is reported when it is read for prediction."""
    with suppress(InputError):
        return stack_pages(path)
    return []


def image_folder(name: str, images: list[Path], folder_of: str | None) -> Source:
    """The images of a folder as a sequence or as unrelated images; a guess that they are unrelated is printed."""
    unrelated = folder_of == "images" or (folder_of is None and not is_sequence(images))
    if unrelated and not folder_of:
        print(printable(f"{name}: {len(images)} unrelated images; for frames of one sequence give --folder_of frames"))
    return folder_source(name, images, "images" if unrelated else "folder")


def is_sequence(images: list[Path]) -> bool:
    """Whether images are the frames of a sequence: of equal size, and most neighbours alike.

    Up to COMPARED pairs are compared as thumbnails, which are alike if they correlate or hardly change.
    """
    unlike, sizes = [], set()
    for index in range(0, len(images) - 1, max(1, (len(images) - 1) // COMPARED)):
        with suppress(InputError):  # reported when the image is read for prediction
            pair = [read_pixels(path) for path in images[index : index + 2]]
            sizes |= {pixels.shape for pixels in pair}
            small = [cv2.resize(p.astype(np.float32), THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for p in pair]
            span = 255 if pair[0].dtype == np.uint8 else max(1e-6, float(np.ptp(small)))
            changed = np.abs(small[0] - small[1]).mean() > MAX_CHANGE * span
            with np.errstate(invalid="ignore", divide="ignore"):  # of a constant image
                unlike.append(changed and not np.corrcoef(small)[0, 1] >= MIN_CORRELATION)
    return len(sizes) <= 1 and 2 * sum(unlike) <= len(unlike)


def folder_source(name: str, images: list[Path], kind: str = "folder") -> Source:
    """Image files as a sequence; files that cannot be read are bad."""
    scale = GreyScale(sample=partial(sample_files, images))

    def frames(on_bad: OnBad) -> Frames:
        for image in images:
            try:
                pixels = read_pixels(image)
            except InputError as error:
                on_bad(image.stem, str(error))
                continue
            by_itself = kind == "images" and scale.rule == SEQUENCE
            yield image.stem, to_unit(pixels) if by_itself else scale(pixels)

    return Source(folder_name(name), kind, len(images), DEFAULT_FPS, frames, scale)


def sample_files(images: list[Path]) -> Iterator[np.ndarray]:
    """The stored pixels of images spread over a sequence, without those that cannot be read."""
    for image in range_frames(images):
        with suppress(InputError):  # reported when the image is read for prediction
            yield read_pixels(image)


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
    """A camera by its number, a device or a URL, read by OpenCV; named by the host and the path of a URL."""
    capture = cv2.VideoCapture(int(address) if address.isdecimal() else address)
    public = public_address(address)
    if not capture.isOpened():
        raise InputError(f"cannot open camera {public}; check its number or URL, and that nothing else uses it")
    if capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT) == GREY_16_BIT:
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # by default, its frames become 8 bits
    count, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), usable_fps(capture.get(cv2.CAP_PROP_FPS))
    scale = GreyScale()

    def frames(on_bad: OnBad) -> Frames:
        number = 0
        try:
            while (read := capture.read())[0]:
                yield f"{number:06d}", scale(one_channel(read[1]))
                number += 1
        finally:
            capture.release()
        # without a count, a stream does not end by itself; some counts are estimates
        if count <= 0 or count - number > max(END_FRAMES, END_TOLERANCE * count):
            on_bad(f"{number:06d}", f"{public} gave no further frame after {number}: it ended, or was cut off")

    url = urlsplit(public)
    name = re.sub(r"\W+", "_", f"{url.hostname}{url.path}" if url.hostname else f"camera{url.path}").strip("_")
    return Source(name, "live", count if count > 0 else None, fps, frames, scale)


def video_source(path: Path) -> Source:
    """A video file; frames are named by their numbers, from 000000."""
    count, fps = video_facts(path)
    scale = GreyScale(sample=partial(sample_frames, path))

    def frames(on_bad: OnBad) -> Frames:
        for number, pixels in read_frames(path, lambda number, reason: on_bad(f"{number:06d}", reason)):
            yield f"{number:06d}", scale(pixels)

    return Source(folder_name(path.stem), "video", count, usable_fps(fps), frames, scale)


def usable_fps(fps: float) -> float:
    """`fps`, or DEFAULT_FPS where a video states none or an impossible rate."""
    return fps if 0 < fps < MAX_FPS else DEFAULT_FPS
