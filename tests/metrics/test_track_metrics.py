"""Metrics of tracks on a few frames, by hand."""

import numpy as np

from istd.utils.metrics.track_metrics import (
    NO_IDENTITY,
    TrackedFrame,
    add_counts,
    count_tracks,
    long_tracks,
    track_cells,
    track_metrics,
    track_terms,
    true_identities,
)


def frame(time, targets, pairs, tracks, areas):
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    columns = np.array(rows, np.int64), np.array(columns, np.int64), np.ones(len(rows))
    return TrackedFrame(time, np.array(targets, np.int64), columns, np.array(tracks), np.array(areas), 1000)


FRAMES = [
    frame(5, [7, 8], [(1, 0)], [1, 2], [4, 3]),  # target 8 by track 1; track 2 is a false alarm of 3 px
    frame(6, [7, 8], [(0, 1), (1, 0)], [1, 3], [4, 5]),  # target 7 is found in its second frame, by track 3
    frame(7, [7, 8, 9], [(1, 0)], [4, 5], [4, 2]),  # target 8 by another track; track 5 is false
    frame(9, [8, NO_IDENTITY], [(0, 0), (1, 1)], [4, 5], [4, 2]),  # what track 5 hits is a target without identity
]


def test_counts_of_all_detections():
    counts = count_tracks(FRAMES)
    expected = {"frames": 4, "pixels": 4000, "regions": 9, "hits": 6, "false_pixels": 3 + 2, "targets": 3, "found": 2}
    assert counts._asdict() == expected | {"delay": 1, "changes": 1, "tracks": 5, "false_tracks": 1}
    metrics = track_metrics(add_counts([counts, counts]))
    assert metrics == {
        "pd": 6 / 9, "fa": 5 / 4000, "found_rate": 2 / 3, "mean_delay": 1 / 2, "false_track_rate": 1 / 4,
        "fragmentation": 1 / 2,
    }  # fmt: skip


def test_counts_without_the_tracks_of_one_detection():
    """Tracks 2 and 3 are gone, and with them the hit of target 7 and a false alarm."""
    counts = count_tracks(FRAMES, 2)
    assert (counts.hits, counts.false_pixels, counts.found, counts.tracks, counts.false_tracks) == (5, 2, 1, 3, 0)
    assert count_tracks(FRAMES, 3).hits == 0


def test_another_detection_takes_a_target_whose_match_was_dropped():
    near, far = frame(0, [1], [(0, 0), (0, 1)], [1, 2], [4, 4]), frame(1, [1], [(0, 0)], [2], [4])
    near.pairs[2][:] = (0.5, 2.0)
    assert count_tracks([near, far]).false_pixels == 4  # track 2 in the first frame
    kept = count_tracks([near, far], 2)
    assert (kept.hits, kept.false_pixels, kept.changes) == (2, 0, 0)


def test_detections_without_a_track_are_short():
    assert long_tracks([np.array([0, 0, 2]), np.array([0, 2, 5])], 2).tolist() == [0, 2]  # 0: not linked
    assert long_tracks([np.array([0, 0, 2])], 1).tolist() == [0, 2]


def test_each_detection_without_a_track_counts_as_a_track():
    """Two frames with too many regions to link: a target is hit in one of them, four detections are false."""
    counts = count_tracks([frame(0, [1], [(0, 1)], [0, 0, 0], [4, 4, 4]), frame(1, [], [], [0, 0, 3], [4, 4, 4])])
    assert (counts.hits, counts.tracks, counts.false_tracks) == (1, 6, 5)
    assert count_tracks([frame(0, [1], [(0, 1)], [0, 0, 0], [4, 4, 4])], 2).tracks == 3  # kept


def test_identities_are_the_nearest_listed_targets_or_linked():
    centroids = [(0, np.array([[10.0, 10.0], [30.0, 30.0], [50.0, 5.0]])), (1, np.array([[31.0, 30.0]]))]
    listed = [{4: np.array([30.5, 30.0]), 2: np.array([10.0, 12.9]), 3: np.array([50.0, 8.1])}, {}]
    assert [frame.tolist() for frame in true_identities(centroids, listed, 2.0)] == [[2, 4, NO_IDENTITY], [NO_IDENTITY]]
    assert [frame.tolist() for frame in true_identities(centroids, None, 2.0)] == [[1, 2, 3], [2]]


def test_the_table_shows_intervals_and_undefined_metrics_as_such():
    intervals = [{"metrics": {"pd": [0.5, 0.875], "fa": [0.0, 0.002]}}, {"metrics": {}}]
    lengths, counts = (1, 3), (count_tracks(FRAMES), add_counts([]))
    rows = [
        {"min_track": length, "intervals": ends} | track_metrics(total)
        for length, total, ends in zip(lengths, counts, intervals, strict=True)
    ]
    head, first, second = track_cells(rows)
    assert first == ["all", "66.67 (50.00-87.50)", "1250.00 (0.00-2000.00)", "66.67", "0.50", "250.00", "0.50"]
    assert second == ["of tracks of at least 3", *["-"] * 6] and len(head) == len(first)


def test_terms_of_sequences_add_up_to_the_metrics():
    """What a bootstrap over sequences resamples: here each is drawn once."""
    counts = [count_tracks(FRAMES), count_tracks(FRAMES, 2)]
    terms = [track_terms(sequence) for sequence in counts]
    for name, value in track_metrics(add_counts(counts)).items():
        numerator, denominator = map(sum, zip(*(sequence[name] for sequence in terms), strict=True))
        assert numerator / denominator == value, name
