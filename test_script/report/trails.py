"""The paths of targets and tracks, drawn over a frame of their sequence for the report."""

from typing import Any

import numpy as np

from istd.test_script.report.report_cases import data_url, read_background
from istd.test_script.results.sequence_tracks import SequenceTracks
from istd.utils.images import encode_png
from istd.utils.metrics.track_metrics import NO_IDENTITY, count_tracks, long_tracks
from istd.utils.names import counted

MAX_SEQUENCES = 6
MAX_PATHS = 200  # of a sequence; more would hide the frame


def draw_trails(sequences: list[SequenceTracks], min_length: int) -> list[dict[str, Any]]:
    """The sequences with the most false tracks, then the most targets never found, for the page.

    `picture` is the frame in the middle, black if its image is not known, with its `height` and `width`; `targets` and
    `tracks` (of at least `min_length` detections and at least two, to be a line) are lists of SVG points.
    """
    counts = [count_tracks(tracked.frames, min_length) for tracked in sequences]
    order = sorted(range(len(counts)), key=lambda i: (-counts[i].false_tracks, counts[i].found - counts[i].targets, i))
    trails = []
    for number in order[:MAX_SEQUENCES]:
        tracked, count = sequences[number], counts[number]
        picture = read_background(tracked.middle.image, tracked.size)
        places = np.array([row[3:5] for row in tracked.rows]).reshape(-1, 2)  # x, y
        long = long_tracks([tracked.tracks], max(2, min_length))
        identities = np.concatenate([frame.targets for frame in tracked.frames])
        centroids = np.concatenate(tracked.targets)
        trails.append(
            {
                "name": tracked.name,
                "picture": data_url(encode_png(picture[..., 0])),
                "height": picture.shape[0],
                "width": picture.shape[1],
                "targets": _paths(identities, centroids, np.unique(identities[identities != NO_IDENTITY])),
                "tracks": _paths(tracked.tracks, places, long[long > 0][:MAX_PATHS]),
                "caption": f"{count.found} of {counted(count.targets, 'target')} found, "
                f"{counted(count.false_tracks, 'false track')}",
            }
        )
    return trails


def _paths(owners: np.ndarray, places: np.ndarray, chosen: np.ndarray) -> list[str]:
    """The places [n, 2] of each chosen owner, in order, as points of an SVG line; pixel 0 has its centre at 0.5."""
    lines = (places[owners == owner] + 0.5 for owner in chosen)
    return [" ".join(f"{x:.1f},{y:.1f}" for x, y in line) for line in lines]
