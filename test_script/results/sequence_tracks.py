"""Tracks of a measured dataset: detections and targets of whole sequences linked, measured, and written."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.datasets import ClipDataset
from istd.datasets.targets import read_identities
from istd.test_script.predictor.detections import Detection
from istd.test_script.results.result_files import frame_file, write_mask
from istd.test_script.results.tracks import TRACK_COLUMNS, erase_regions, track_row
from istd.test_script.results.work_parts import Part
from istd.utils.files import write_csv
from istd.utils.images import read_mask
from istd.utils.metrics.accumulator import group_rows
from istd.utils.metrics.track_metrics import (
    TrackedFrame,
    add_counts,
    count_tracks,
    long_tracks,
    track_metrics,
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


def link_parts(parts: list[Part], dataset: ClipDataset, root: Path, speed: float) -> list[SequenceTracks]:
    """Link the detections, and the targets unless targets.csv in `root` identifies them, of every sequence.

    Frames of the sequence that were not measured count as frames without detections.
    """
    known = read_identities(root)
    sequences = []
    for name, own in groupby(parts, key=lambda part: part.sequence):
        own = list(own)
        places = [dataset.targets[item] for part in own for item in part.items]
        times = [index for _, index in places]
        frames = [dataset.sequences[number].frames[index].name for number, index in places]
        by_frame = group_rows([row for part in own for row in part.detections], lambda row: row[1])
        found = [[Detection(*row[2:]) for row in by_frame.get(frame, [])] for frame in frames]
        points = [np.array([(one.x, one.y) for one in each]).reshape(-1, 2) for each in found]
        tracks = link(zip(times, points, strict=True), speed)
        targets = [np.array(each).reshape(-1, 2) for part in own for each in part.targets]
        listed = None if known is None else [known.get((name, frame), {}) for frame in frames]
        identities = true_identities(list(zip(times, targets, strict=True)), listed)
        pairs = [_columns(each) for part in own for each in part.pairs]
        areas = [np.array([one.area for one in each], np.int64) for each in found]
        pixels = [height * width for part in own for height, width in part.sizes]
        measured = map(TrackedFrame, times, identities, pairs, tracks, areas, pixels)
        rows = [row for frame in frames for row in by_frame.get(frame, [])]
        sequences.append(SequenceTracks(name, list(measured), rows, np.concatenate(tracks), targets))
    return sequences


def _columns(pairs: list[list]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as saved in a part, as columns of their types."""
    rows, columns, distances = pairs
    return np.array(rows, np.int64), np.array(columns, np.int64), np.array(distances, np.float64)


def measure_tracks(sequences: list[SequenceTracks], least: int) -> list[dict[str, float]]:
    """`TRACK_METRICS` and their counts over all sequences, a row for each length in `LENGTHS` and for `least`.

    `min_track` of a row is the number of detections that a track must have for its detections to count.
    """
    rows = []
    for length in sorted({*LENGTHS, least}):
        counts = add_counts(count_tracks(one.frames, length) for one in sequences)
        rows.append({"min_track": length} | track_metrics(counts) | counts._asdict())
    return rows


def keep_long_tracks(sequences: list[SequenceTracks], least: int, masks: Path) -> list[SequenceTracks]:
    """The sequences without the detections of tracks of fewer than `least`, which are erased from their `masks` too."""
    return [_keep_long(one, least, masks) for one in sequences]


def _keep_long(sequence: SequenceTracks, least: int, masks: Path) -> SequenceTracks:
    long = np.isin(sequence.tracks, long_tracks([sequence.tracks], least))
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
    pairs = [pair for one in sequences for pair in zip(one.rows, one.tracks.tolist(), strict=True)]
    write_csv(path, TRACK_COLUMNS, (track_row(row, track) for row, track in pairs))
