"""Tracks of detections in a stream of frames: linked, written, and dropped if they are too short."""

from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from istd.test_script.predictor import FrameResult
from istd.test_script.predictor.detections import DETECTION_COLUMNS, Detection
from istd.utils.metrics.regions import find_regions
from istd.utils.tracking import MAX_GAP, TARGET_SPEED, Linker

TRACK_COLUMNS = ("sequence", "frame", "track", "id", "x", "y", "area", "mean_score", "peak_score")


def track_row(row: list, track: int) -> list:
    """The row of tracks.csv for a row of detections.csv, to which `id` refers.

    Tracks are numbered from 1 in each sequence, including dropped tracks; 0 is no track (see `Linker.update`).
    """
    values = dict(zip(DETECTION_COLUMNS, row, strict=True)) | {"track": track}
    return [values[name] for name in TRACK_COLUMNS]


def erase_regions(mask: np.ndarray, detections: Collection[Detection]) -> np.ndarray:
    """The mask bool [H, W] without the 8-connected regions that have the box and the area of any of `detections`."""
    regions = find_regions(np.ascontiguousarray(mask))
    keys = map(tuple, np.column_stack([regions.boxes(mask.shape[1]), regions.areas]).tolist())
    dropped = {(region.left, region.top, region.width, region.height, region.area) for region in detections}
    is_dropped = np.array([key in dropped for key in keys], bool)
    result = mask.copy()
    result.ravel()[regions.pixels[is_dropped[regions.owners]]] = False
    return result


class TrackedResult(NamedTuple):
    """A frame's name, its result, and the track of each of its detections."""

    name: str
    result: FrameResult
    tracks: list[int]


class TrackFilter:
    """Links the detections of a sequence frame by frame, and drops tracks of fewer than `min_length` detections.

    A frame is released once each of its detections belongs to a track that is either long enough or has ended: at once
    if `min_length` is 1, else at most (min_length - 1) * (MAX_GAP + 1) frames later. No more frames than that wait.
    """

    def __init__(self, min_length: int = 1, speed: float = TARGET_SPEED):
        self._min_length, self._linker, self._time = min_length, Linker(speed), 0
        self._waiting: deque[tuple[int, TrackedResult]] = deque()  # and their times
        self._known: dict[int, tuple[int, int]] = {}  # track -> number of detections, time of the last

    def skip(self, frames: int) -> None:
        """Let the time of so many frames pass that lie before the next frame and cannot be read."""
        self._time += frames

    def add(self, name: str, result: FrameResult) -> Iterator[TrackedResult]:
        """Add the next frame; yields the frames that are decided now, in order."""
        points = np.array([(detection.x, detection.y) for detection in result.detections]).reshape(-1, 2)
        tracks = self._linker.update(points, self._time).tolist()
        for track in tracks:
            self._known[track] = (self._known.get(track, (0,))[0] + (track > 0), self._time)
        self._waiting.append((self._time, TrackedResult(name, result, tracks)))
        while self._waiting and all(self._decided(track) for track in self._waiting[0][1].tracks):
            yield self._release()
        first = self._waiting[0][0] if self._waiting else self._time
        oldest = min(first, self._time - MAX_GAP)  # of the tracks in waiting frames, and of those that may go on
        self._time += 1
        self._known = {track: seen for track, seen in self._known.items() if seen[1] >= oldest}

    def finish(self) -> Iterator[TrackedResult]:
        """The frames that still wait, at the end of the sequence."""
        while self._waiting:
            yield self._release()

    def _decided(self, track: int) -> bool:
        count, last = self._known[track]
        return count >= self._min_length or track == 0 or self._time - last > MAX_GAP

    def _release(self) -> TrackedResult:
        _, (name, result, tracks) = self._waiting.popleft()
        long = [track == 0 or self._known[track][0] >= self._min_length for track in tracks]
        if not all(long):
            dropped = [detection for detection, is_long in zip(result.detections, long, strict=True) if not is_long]
            kept = [detection for detection, is_long in zip(result.detections, long, strict=True) if is_long]
            kept = [detection._replace(id=number) for number, detection in enumerate(kept, start=1)]
            result = result._replace(mask=erase_regions(result.mask, dropped), detections=kept)
            tracks = [track for track, is_long in zip(tracks, long, strict=True) if is_long]
        return TrackedResult(name, result, tracks)
