"""Linking: hand-made paths, gaps, gates and crowds."""

import numpy as np
import pytest

from istd.utils.tracking import MAX_GAP, MAX_POINTS, Linker, link


def numbers(frames, **options):
    points = (np.array(frame, float).reshape(-1, 2) for frame in frames)
    return [frame_tracks.tolist() for frame_tracks in link(enumerate(points), **options)]


def test_crossing_targets_keep_their_tracks():
    """Two targets meet in frame 10; by position alone each would be taken for the other from then on."""
    frames = [[(10 + 2 * t, 20 + t), (50 - 2 * t, 20 + t)] for t in range(20)]
    assert numbers(frames) == [[1, 2]] * 20
    swapped = [frame[::-1] if t % 2 else frame for t, frame in enumerate(frames)]
    assert numbers(swapped) == [[2, 1] if t % 2 else [1, 2] for t in range(20)]


@pytest.mark.parametrize("gap", [1, MAX_GAP, MAX_GAP + 1])
def test_a_track_goes_on_after_a_short_gap_where_it_was_heading(gap):
    path = [[(3 * t, 40)] for t in range(20)]
    path[10 : 10 + gap] = [[]] * gap
    after = {number for frame_tracks in numbers(path)[10 + gap :] for number in frame_tracks}
    assert after == ({1} if gap <= MAX_GAP else {2})
    times = [t for t in range(20) if path[t]]  # frames that were not looked at are gaps as well
    tracks = link((t, np.array(path[t], float)) for t in times)
    assert {int(frame_tracks[0]) for frame_tracks in tracks[10:]} == after


def test_the_gate_is_wide_for_new_tracks_and_narrow_for_known_ones():
    assert numbers([[(0, 0)], [(6.4, 0)]]) == [[1], [1]]  # 3 sqrt(2 * 0.5^2 + 2^2 + 0.5^2 / 4) = 6.41
    assert numbers([[(0, 0)], [(6.42, 0)]]) == [[1], [2]]
    assert numbers([[(0, 0)], [(12, 0)]], speed=4) == [[1], [1]]
    still = [[(0, 0)]] * 10
    assert numbers([*still, [(3, 0)]])[-1] == [1]
    assert numbers([*still, [(4, 0)]])[-1] == [2]


def test_a_known_track_takes_its_point_before_a_new_one():
    path = [[(2 * t, 0)] for t in range(7)]
    path[6].append((16, 0))  # a false alarm; the next point is nearly as close to it as to where the track is predicted
    assert numbers([*path, [(14.9, 0)]])[7:] == [[1]]


def test_points_beyond_the_gate_do_not_count_in_the_assignment():
    """By total distance alone, the first target would take the new point, so that the lost one has the first's."""
    still = [[(0, 0), (5, 0)]] * 10
    assert numbers([*still, [(0, 0), (-3.2, 0)]])[-1] == [1, 3]


def test_the_filter_is_that_of_kalman():
    """Two frames by hand: variance p = r = 1/4 and v = 4, then p' = p + v + a^2 / 4, gain p' / (p' + r)."""
    linker = Linker()
    linker.update(np.array([[5.0, 7.0]]), 0)
    linker.update(np.array([[7.0, 6.0]]), 1)
    variance = 0.25 + 4 + 0.0625
    gain, drift = variance / (variance + 0.25), (4 + 0.125) / (variance + 0.25)
    np.testing.assert_allclose(linker._states[0], [[5 + 2 * gain, 2 * drift], [7 - gain, -drift]])
    assert linker._covariances[0, 0, 0] == pytest.approx(variance * (1 - gain))


def test_a_frame_of_noise_is_not_linked_and_memory_is_bounded():
    random = np.random.default_rng(0)
    crowd = random.uniform(0, 400, (MAX_POINTS + 1, 2))
    linker = Linker()
    assert linker.update(np.zeros((1, 2)), 0).tolist() == [1]
    assert not linker.update(crowd, 1).any()
    assert linker.update(np.zeros((1, 2)), 2).tolist() == [1]
    for time in range(3, 60):
        linker.update(random.uniform(0, 1e6, (20, 2)), time)
    assert len(linker._numbers) <= 20 * (MAX_GAP + 2)
