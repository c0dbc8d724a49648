"""The paths of targets and tracks over a frame of their sequence, as the report shows them."""

from typing import Any

import numpy as np

from istd.test_script.report.report_cases import data_url, read_background
from istd.test_script.results.sequence_tracks import SequenceTracks
from istd.utils.images import encode_png
from istd.utils.metrics.track_metrics import NO_IDENTITY, count_tracks, long_tracks

MOST_SEQUENCES = 6
MOST_PATHS = 200  # of a sequence, the first ones; more would hide the frame


def draw_trails(sequences: list[SequenceTracks], least: int) -> list[dict[str, Any]]:
    """What the page needs of the sequences with the most false tracks, then the most targets never found.

    `picture` is the frame in the middle, black where its image is not known, with its `height` and `width`; `targets`
    and `tracks` (of at least `least` detections and at least two, to be a line) are lists of SVG points.
    """
    counts = [count_tracks(one.frames, least) for one in sequences]
    order = sorted(range(len(counts)), key=lambda i: (-counts[i].false_tracks, counts[i].found - counts[i].targets, i))
    shown = []
    for number in order[:MOST_SEQUENCES]:
        one, count = sequences[number], counts[number]
        picture = read_background(one.middle.image, one.size)
        places = np.array([row[3:5] for row in one.rows]).reshape(-1, 2)  # x, y
        long = long_tracks([one.tracks], max(2, least))
        identities = np.concatenate([frame.targets for frame in one.frames])
        centroids = np.concatenate(one.targets)
        shown.append(
            {
                "name": one.name,
                "picture": data_url(encode_png(picture[..., 0])),
                "height": picture.shape[0],
                "width": picture.shape[1],
                "targets": _paths(identities, centroids, np.unique(identities[identities != NO_IDENTITY])),
                "tracks": _paths(one.tracks, places, long[long > 0][:MOST_PATHS]),
                "caption": f"{count.found} of {count.targets} targets found, {count.false_tracks} false tracks",
            }
        )
    return shown


def _paths(owners: np.ndarray, places: np.ndarray, chosen: np.ndarray) -> list[str]:
    """The places [n, 2] of each chosen owner, in order, as points of an SVG line; pixel 0 has its centre at 0.5."""
    lines = (places[owners == owner] + 0.5 for owner in chosen)
    return [" ".join(f"{x:.1f},{y:.1f}" for x, y in line) for line in lines]
