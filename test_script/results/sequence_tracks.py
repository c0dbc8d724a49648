"""Tracks of a measured dataset: detections and targets of whole sequences linked, measured, and written."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.datasets.targets import read_identities
from istd.test_script.predictor.detections import Detection
from istd.test_script.results.frame_set import FrameRef, FrameSet
from istd.test_script.results.result_files import frame_file, write_mask
from istd.test_script.results.shards import Shard
from istd.test_script.results.tracks import TRACK_COLUMNS, erase_regions, track_row
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

LENGTHS = (1, 2, 3, 5)  # of tracks, whose metrics are always given


class SequenceTracks(NamedTuple):
    """A sequence's frames as measured; rows of detections.csv, and the track of each; target centroids by frame."""

    name: str
    frames: list[TrackedFrame]
    rows: list[list]
    tracks: np.ndarray  # int64 [rows]
    targets: list[np.ndarray]  # (x, y) float [t, 2]
    middle: FrameRef  # the frame in the middle, of `size` (height, width)
    size: tuple[int, int]


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
    times = [frame.time for frame in frames]
    rows_of = group_rows([row for shard in shards for row in shard.detections], lambda row: row[1])
    rows = [rows_of.get(frame.name, []) for frame in frames]
    points = [np.array([row[3:5] for row in frame_rows]).reshape(-1, 2) for frame_rows in rows]
    tracks = link(zip(times, points, strict=True), speed)
    targets = [np.array(centroids).reshape(-1, 2) for shard in shards for centroids in shard.targets]
    listed = None if known is None else [known.get((name, frame.name), {}) for frame in frames]
    identities = true_identities(list(zip(times, targets, strict=True)), listed)
    pairs = [_columns(columns) for shard in shards for columns in shard.pairs]
    areas = [np.array([Detection(*row[2:]).area for row in frame_rows], np.int64) for frame_rows in rows]
    sizes = [tuple(size) for shard in shards for size in shard.sizes]
    pixels = [height * width for height, width in sizes]
    measured = list(map(TrackedFrame, times, identities, pairs, tracks, areas, pixels))
    middle = len(frames) // 2
    all_rows = [row for frame_rows in rows for row in frame_rows]
    return SequenceTracks(name, measured, all_rows, np.concatenate(tracks), targets, frames[middle], sizes[middle])


def _columns(pairs: list[list]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as saved in a shard, as columns of their types."""
    rows, columns, distances = pairs
    return np.array(rows, np.int64), np.array(columns, np.int64), np.array(distances, np.float64)


def measure_tracks(sequences: list[SequenceTracks], shortest: int) -> list[dict[str, float]]:
    """`TRACK_METRICS` and their counts over all sequences, a row for each length in `LENGTHS` and for `shortest`.

    `min_track` of a row is the number of detections that a track must have for its detections to count; "intervals" are
    those of a bootstrap over the sequences.
    """
    rows = []
    for length in sorted({*LENGTHS, shortest}):
        counts = [count_tracks(sequence.frames, length) for sequence in sorted(sequences, key=lambda s: s.name)]
        total, intervals = add_counts(counts), ratio_intervals(list(map(track_terms, counts)), "sequences")
        rows.append({"min_track": length} | track_metrics(total) | total._asdict() | {"intervals": intervals})
    return rows


def keep_long_tracks(sequences: list[SequenceTracks], shortest: int, masks: Path) -> list[SequenceTracks]:
    """The sequences without the detections of tracks of fewer than `shortest`, which are erased from `masks` too."""
    return [_keep_long(sequence, shortest, masks) for sequence in sequences]


def _keep_long(sequence: SequenceTracks, shortest: int, masks: Path) -> SequenceTracks:
    long = np.isin(sequence.tracks, long_tracks([sequence.tracks], shortest))
    dropped = [row for row, kept in zip(sequence.rows, long, strict=True) if not kept]
    for frame, rows in group_rows(dropped, lambda row: row[1]).items():
        file = frame_file(masks, sequence.name, frame)
        write_mask(file, erase_regions(read_mask(file), [Detection(*row[2:]) for row in rows]))
    kept = [row for row, good in zip(sequence.rows, long, strict=True) if good]
    numbered = [
        [*row[:2], number, *row[3:]]
        for rows in group_rows(kept, lambda row: row[1]).values()
        for number, row in enumerate(rows, start=1)
    ]
    return sequence._replace(rows=numbered, tracks=sequence.tracks[long])


def write_tracks(path: Path, sequences: list[SequenceTracks]) -> None:
    """Write tracks.csv."""
    numbered = (pair for tracks in sequences for pair in zip(tracks.rows, tracks.tracks.tolist(), strict=True))
    write_csv(path, TRACK_COLUMNS, (track_row(row, track) for row, track in numbered))
