"""Metrics of tracks: targets found and when, false tracks, identity changes, and Pd and Fa without short tracks."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from istd.utils.metrics.matching import MATCH_DISTANCE, best_pairs
from istd.utils.metrics.rules import ratio
from istd.utils.metrics.tables import with_interval
from istd.utils.tracking import link

NO_IDENTITY = -1  # of a true region that no listed target explains
TRACK_METRICS = {  # metric -> column heading and factor
    "pd": ("Pd %", 100),
    "fa": ("Fa x1e-6", 1e6),
    "found_rate": ("targets found %", 100),
    "mean_delay": ("frames to first detection", 1),
    "false_track_rate": ("false tracks / 1000 frames", 1000),
    "fragmentation": ("identity changes / target", 1),
}


class TrackedFrame(NamedTuple):
    """The targets and the detections of one frame.

    `time`: number of the frame within its sequence. `targets`: int64 [t], identities. `pairs`: `close_pairs` of targets
    and detections. `tracks`, `areas`: int64 [d], track and pixels of each detection. `pixels`: of the frame.
    """

    time: int
    targets: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]
    tracks: np.ndarray
    areas: np.ndarray
    pixels: int


class TrackCounts(NamedTuple):
    """Integer counts over sequences, which are added by `add_counts`."""

    frames: int = 0
    pixels: int = 0
    regions: int = 0  # true regions of all frames
    hits: int = 0  # true regions that are detected
    false_pixels: int = 0
    targets: int = 0  # identities
    found: int = 0  # identities that are detected at least once
    delay: int = 0  # frames until the first detection, summed over the found targets
    changes: int = 0  # how often a target's track changes
    tracks: int = 0
    false_tracks: int = 0


def count_tracks(frames: list[TrackedFrame], min_length: int = 1) -> TrackCounts:
    """The counts of a sequence, its frames in temporal order, without tracks of fewer than `min_length` detections."""
    long = long_tracks([frame.tracks for frame in frames], min_length)
    matched, seen, appeared, hits, false_pixels = set(), set(), {}, {}, 0  # hits: (time, track) by target
    lone = false_lone = 0  # detections without a track, which count as tracks
    for frame in frames:
        kept = np.isin(frame.tracks, long)
        rows, columns, distances = (column[kept[frame.pairs[1]]] for column in frame.pairs)
        chosen = best_pairs(rows, columns, distances)
        numbers, hit = frame.tracks[kept], frame.tracks[columns[chosen]]
        seen.update(numbers[numbers > 0].tolist())
        matched.update(hit.tolist())
        lone += int((numbers == 0).sum())
        false_lone += int((numbers == 0).sum() - (hit == 0).sum())
        false_pixels += int(frame.areas[kept].sum() - frame.areas[columns[chosen]].sum())
        for target in frame.targets.tolist():
            appeared.setdefault(target, frame.time)
        for target, detection in zip(frame.targets[rows[chosen]].tolist(), columns[chosen], strict=True):
            hits.setdefault(target, []).append((frame.time, int(frame.tracks[detection])))
    known = {target: matches for target, matches in hits.items() if target != NO_IDENTITY}
    return TrackCounts(
        frames=len(frames),
        pixels=sum(frame.pixels for frame in frames),
        regions=sum(len(frame.targets) for frame in frames),
        hits=sum(len(matches) for matches in hits.values()),
        false_pixels=false_pixels,
        targets=len(appeared.keys() - {NO_IDENTITY}),
        found=len(known),
        delay=sum(matches[0][0] - appeared[target] for target, matches in known.items()),
        changes=sum(before[1] != after[1] for matches in known.values() for before, after in pairwise(matches)),
        tracks=len(seen) + lone,
        false_tracks=len(seen - matched) + false_lone,
    )


def long_tracks(tracks: list[np.ndarray], min_length: int) -> np.ndarray:
    """The numbers of the tracks with at least `min_length` detections in all frames, and 0, which means no track."""
    numbers, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *tracks]), return_counts=True)
    return numbers[(numbers == 0) | (counts >= min_length)]


def add_counts(counts: Iterable[TrackCounts]) -> TrackCounts:
    """The counts over all sequences."""
    return TrackCounts(*map(sum, zip(TrackCounts(), *counts, strict=True)))


def track_terms(counts: TrackCounts) -> dict[str, tuple[int, int]]:
    """Numerator and denominator of each of the `TRACK_METRICS`.

    `pd` and `fa` are per frame, as in the protocol `standard`. `found_rate`: share of the targets that are detected at
    least once. `mean_delay`: frames from a found target's first frame to its first detection. `false_track_rate`:
    tracks without any matched detection, per frame. `fragmentation`: changes of a found target's track.
    """
    return {
        "pd": (counts.hits, counts.regions),
        "fa": (counts.false_pixels, counts.pixels),
        "found_rate": (counts.found, counts.targets),
        "mean_delay": (counts.delay, counts.found),
        "false_track_rate": (counts.false_tracks, counts.frames),
        "fragmentation": (counts.changes, counts.found),
    }


def track_metrics(counts: TrackCounts) -> dict[str, float]:
    """The `TRACK_METRICS` as ratios, NaN for 0 / 0."""
    return {name: ratio(*terms) for name, terms in track_terms(counts).items()}


def track_cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The heading and a line of text cells for each of `rows`: `min_track`, and the `TRACK_METRICS` with intervals."""
    lines = [["detections kept", *(heading for heading, _ in TRACK_METRICS.values())]]
    for row in rows:
        title = "all" if row["min_track"] == 1 else f"of tracks of at least {row['min_track']}"
        intervals = row["intervals"]["metrics"]
        cells = [with_interval(row[name], intervals.get(name), factor) for name, (_, factor) in TRACK_METRICS.items()]
        lines.append([title, *cells])
    return lines


def true_identities(
    frames: list[tuple[int, np.ndarray]], listed: list[dict[int, np.ndarray]] | None, speed: float
) -> list[np.ndarray]:
    """The identity of each true region: int64 [t] for each frame.

    frames: (time, centroids (x, y) float [t, 2]) in temporal order. listed: for each frame, the positions (x, y) of the
    known targets by identity; a region is the nearest target less than 3 px away, else `NO_IDENTITY`. If None, regions
    are linked as detections are, with the same `speed`.
    """
    if listed is None:
        return link(frames, speed)
    identities = []
    for (_, centroids), targets in zip(frames, listed, strict=True):
        frame_identities = np.full(len(centroids), NO_IDENTITY)
        for number, centroid in enumerate(centroids):
            distances = [(np.hypot(*(place - centroid)), target) for target, place in targets.items()]
            distance, target = min(distances, default=(MATCH_DISTANCE, NO_IDENTITY))
            if distance < MATCH_DISTANCE:
                frame_identities[number] = target
        identities.append(frame_identities)
    return identities
