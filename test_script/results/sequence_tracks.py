"""Tracks of a measured dataset: the detections and the targets of its sequences linked, measured, and written."""

from itertools import chain, groupby, starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.datasets.targets import read_identities
from istd.test_script.predictor.detections import Detection
from istd.test_script.results.frame_set import FrameRef, FrameSet
from istd.test_script.results.result_files import frame_file, write_mask
from istd.test_script.results.shards import Shard
from istd.test_script.results.stream_tracks import TRACK_COLUMNS, erase_regions, track_row
from istd.utils.files import write_csv
from istd.utils.images import read_mask
from istd.utils.metrics.accumulator import group_rows
from istd.utils.metrics.bootstrap import ratio_intervals
from istd.utils.metrics.track_metrics import (
    TrackedFrame,
    add_counts,
    count_tracks,
    long_tracks,
    track_metrics,
    track_terms,
    true_identities,
)
from istd.utils.tracking import link

LENGTHS = (1, 2, 3, 5)  # lengths of tracks for which metrics are always computed
PAIR_TYPES = (np.int64, np.int64, np.float64)  # of the columns of `close_pairs`


class FrameDetections(NamedTuple):
    """The detections of a frame of `pixels` px, before they are linked.

    `points`: (x, y) float [d, 2]. `areas`: px, int64 [d]. `pairs`: `close_pairs` of the targets and the detections.
    """

    points: np.ndarray
    areas: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
    pixels: int


class SequenceTracks(NamedTuple):
    """A sequence's frames as measured, its rows of detections.csv with their tracks, and its targets by frame."""

    name: str
    frames: list[TrackedFrame]
    rows: list[list]
    tracks: np.ndarray  # int64 [rows]
    targets: list[np.ndarray]  # (x, y) float [t, 2]
    middle: FrameRef  # the frame in the middle, of `size` (height, width)
    size: tuple[int, int]


def identify_targets(
    frames: list[FrameRef], centroids: list[np.ndarray], known: dict | None, speed: float
) -> list[np.ndarray]:
    """`true_identities` of the targets of a sequence at these centroids (x, y); `known`: see `read_identities`."""
    listed = None if known is None else [known.get((frame.sequence, frame.name), {}) for frame in frames]
    timed = [(frame.time, places) for frame, places in zip(frames, centroids, strict=True)]
    return true_identities(timed, listed, speed)


def link_detections(
    frames: list[FrameRef], identities: list[np.ndarray], detections: list[FrameDetections], speed: float
) -> list[TrackedFrame]:
    """Link the detections in the frames of a sequence, whose targets have these `identities`."""
    times = [frame.time for frame in frames]
    tracks = link(zip(times, (regions.points for regions in detections), strict=True), speed)
    return [
        TrackedFrame(time, targets, regions.pairs, numbers, regions.areas, regions.pixels)
        for time, targets, regions, numbers in zip(times, identities, detections, tracks, strict=True)
    ]


def link_shards(shards: list[Shard], frame_set: FrameSet, speed: float) -> list[SequenceTracks]:
    """Link the detections, and the targets unless the set's targets.csv identifies them, of every sequence.

    Frames of the sequence that were not measured count as frames without detections.
    """
    known = read_identities(frame_set.root) if frame_set.root else None
    in_sequences = [shard for shard in shards if shard.sequence is not None]
    return [
        _link_sequence(name, list(group), frame_set, known, speed)
        for name, group in groupby(in_sequences, key=lambda shard: shard.sequence)
    ]


def _link_sequence(
    name: str, shards: list[Shard], frame_set: FrameSet, known: dict | None, speed: float
) -> SequenceTracks:
    frames = [frame_set.frames[item] for shard in shards for item in shard.items]
    targets = [np.array(centroids).reshape(-1, 2) for shard in shards for centroids in shard.targets]
    pairs = [tuple(map(np.array, columns, PAIR_TYPES)) for shard in shards for columns in shard.pairs]
    sizes = [tuple(size) for shard in shards for size in shard.sizes]
    rows_of = group_rows([row for shard in shards for row in shard.detections], lambda row: row[1])
    rows = [rows_of.get(frame.name, []) for frame in frames]
    detections = []
    for frame_rows, frame_pairs, (height, width) in zip(rows, pairs, sizes, strict=True):
        regions = [Detection(*row[2:]) for row in frame_rows]
        points = np.array([(region.x, region.y) for region in regions]).reshape(-1, 2)
        areas = np.array([region.area for region in regions], np.int64)
        detections.append(FrameDetections(points, areas, frame_pairs, height * width))
    tracked = link_detections(frames, identify_targets(frames, targets, known, speed), detections, speed)
    tracks = np.concatenate([frame.tracks for frame in tracked])
    middle = len(frames) // 2
    return SequenceTracks(
        name, tracked, list(chain.from_iterable(rows)), tracks, targets, frames[middle], sizes[middle]
    )


def measure_tracks(sequences: list[SequenceTracks], min_length: int) -> list[dict[str, float]]:
    """`TRACK_METRICS` and their counts over all sequences, a row for each length in `LENGTHS` and for `min_length`.

    `min_track` of a row is the number of detections that a track must have for its detections to count; "intervals"
    come from a bootstrap over the sequences.
    """
    rows = []
    for length in sorted({*LENGTHS, min_length}):
        counts = [count_tracks(sequence.frames, length) for sequence in sorted(sequences, key=lambda s: s.name)]
        total, intervals = add_counts(counts), ratio_intervals(list(map(track_terms, counts)), "sequences")
        rows.append({"min_track": length} | track_metrics(total) | total._asdict() | {"intervals": intervals})
    return rows


def keep_long_tracks(sequence: SequenceTracks, min_length: int, masks: Path) -> SequenceTracks:
    """The sequence without tracks of fewer than `min_length` detections, which are also erased from the `masks`."""
    long = np.isin(sequence.tracks, long_tracks([sequence.tracks], min_length))
    dropped = [row for row, is_long in zip(sequence.rows, long, strict=True) if not is_long]
    for frame, rows in group_rows(dropped, lambda row: row[1]).items():
        file = frame_file(masks, sequence.name, frame)
        write_mask(file, erase_regions(read_mask(file), [Detection(*row[2:]) for row in rows]))
    kept = [row for row, is_long in zip(sequence.rows, long, strict=True) if is_long]
    numbered = [
        [*row[:2], number, *row[3:]]
        for rows in group_rows(kept, lambda row: row[1]).values()
        for number, row in enumerate(rows, start=1)
    ]
    return sequence._replace(rows=numbered, tracks=sequence.tracks[long])


def write_tracks(path: Path, sequences: list[SequenceTracks]) -> None:
    """Write tracks.csv."""
    numbered = (pair for tracks in sequences for pair in zip(tracks.rows, tracks.tracks.tolist(), strict=True))
    write_csv(path, TRACK_COLUMNS, starmap(track_row, numbered))
