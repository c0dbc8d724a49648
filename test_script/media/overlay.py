"""Predictions drawn onto frames: overlay pictures and the overlay video."""

from collections import defaultdict, deque
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, zip_longest
from pathlib import Path

import av
import cv2
import numpy as np

from istd.test_script.predictor.detections import Detection
from istd.utils.drawing import PREDICTED, enlarge, grey_to_rgb, outline
from istd.utils.errors import InputError
from istd.utils.names import drawn

DISPLAY_SIDE = 640  # px, up to which the long side of small frames is enlarged, by an integer factor
BOX_MARGIN = 5  # px between a region and its box in the enlarged picture
MAX_BOXES = 50  # more boxes or trails would hide the frame, so none is drawn
TRAIL_FRAMES = 30  # for which the path of a track stays visible
TRAIL = (255, 205, 60)
MAX_FPS_DENOMINATOR = 1001  # as in 30000/1001
CODECS = {  # played by browsers, with options for good quality; the first that PyAV has is used
    "libx264": {"crf": "18", "preset": "veryfast"},
    "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"},
    "libsvtav1": {"crf": "24", "preset": "10"},
}


def draw_overlay(
    grey: np.ndarray,
    mask: np.ndarray,
    detections: list[Detection],
    trails: Iterable[np.ndarray] = (),
    tracks: Iterable[int] = (),
    name: str = "",
) -> np.ndarray:
    """Draw outlines, boxes, peak scores and `trails` (of `Trails`) onto a grey frame float [H, W] in 0..1.

    `tracks`: each detection's track, 0 for none; `name`: of the frame. Returns RGB uint8; small frames are enlarged.
    """
    factor = max(1, DISPLAY_SIDE // max(grey.shape))
    picture = outline(enlarge(grey_to_rgb(grey), factor), enlarge(mask, factor), PREDICTED)
    if name:
        place = (4, picture.shape[0] - 5)
        cv2.putText(picture, drawn(name), place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, TRAIL, 1, cv2.LINE_AA)
    if len(detections) > MAX_BOXES:
        return picture
    lines = [np.rint((path + 0.5) * factor).astype(np.int32) for path in trails]
    cv2.polylines(picture, lines, False, TRAIL, 1, cv2.LINE_AA)
    for detection, track in zip_longest(detections, tracks, fillvalue=0):
        left, top = detection.left * factor - BOX_MARGIN, detection.top * factor - BOX_MARGIN
        right = (detection.left + detection.width) * factor + BOX_MARGIN
        bottom = (detection.top + detection.height) * factor + BOX_MARGIN
        cv2.rectangle(picture, (left, top), (right, bottom), PREDICTED, 1)
        text = f"#{track} {detection.peak_score:.2f}" if track else f"{detection.peak_score:.2f}"
        place = (max(0, min(left, picture.shape[1] - 8 * len(text))), top - 4 if top > 16 else bottom + 13)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, PREDICTED, 1, cv2.LINE_AA)
    return picture


class Trails:
    """The paths of the tracks of a sequence that were seen within the last `TRAIL_FRAMES` frames."""

    def __init__(self) -> None:
        self._recent: deque[list[tuple[int, float, float]]] = deque(maxlen=TRAIL_FRAMES)  # of each frame: track, x, y

    def add(self, detections: list[Detection], tracks: list[int]) -> list[np.ndarray]:
        """Add a frame; returns the paths of two points or more, float [points, (x, y)]."""
        tracked = zip(tracks, detections, strict=True)
        self._recent.append([(track, detection.x, detection.y) for track, detection in tracked if track])
        paths: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for track, x, y in chain.from_iterable(self._recent):
            paths[track].append((x, y))
        return [np.array(path) for path in paths.values() if len(path) > 1]


class OverlayVideo:
    """An mp4 file of RGB pictures that browsers play; the first picture sets the size, to which others are fitted."""

    def __init__(self, path: Path, fps: float):
        self.path, self.rate = path, Fraction(fps).limit_denominator(MAX_FPS_DENOMINATOR)
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._count = 0

    def __enter__(self) -> "OverlayVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, picture: np.ndarray) -> None:
        """Append a picture, uint8 [H, W, 3]; raises `OSError` where the file cannot grow."""
        if self._stream is None:
            self._open(*(side + side % 2 for side in picture.shape[:2]))  # colour has half the resolution
        picture = fit(picture, self._stream.height, self._stream.width)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
        frame.pts, frame.time_base = self._count, 1 / self.rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is still being encoded, and the index, by which browsers start to play at once."""
        if self._stream is not None:
            container, stream, self._stream = self._container, self._stream, None
            with container:
                container.mux(stream.encode())

    def _open(self, height: int, width: int) -> None:
        codec = next((name for name in CODECS if name in av.codecs_available), None)
        if codec is None:
            raise InputError(f"this PyAV has none of the encoders {', '.join(CODECS)}; install av from PyPI")
        self._container = av.open(str(self.path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream(codec, rate=self.rate, options=CODECS[codec])
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fit `picture` [H, W, 3] into `height` x `width`, scaled unless its sides are at most one pixel short."""
    if not (0 <= height - picture.shape[0] <= 1 and 0 <= width - picture.shape[1] <= 1):
        scale = min(height / picture.shape[0], width / picture.shape[1])
        sides = [max(1, int(side * scale)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, sides, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas
