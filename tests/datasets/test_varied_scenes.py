import numpy as np
import pytest

from istd.datasets.synthetic import RenderConfig, render_dataset
from istd.datasets.targets import read_targets
from istd.datasets.varied_scenes import VariedTarget, render_varied_sequence, varied_profile, visible_core
from istd.utils.images import read_mask, read_pixels

SNR = 4.0


def sequence(seed, frames=1, targets=(1, 1)):
    settings = RenderConfig(1, frames, (96, 96), (SNR, SNR), (0.5, 1.5), targets, "varied")
    return render_varied_sequence("s", settings, SNR, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def many():
    """Single images with one target, as (frame, mask, row)."""
    rendered = [sequence(seed) for seed in range(200)]
    return [(image.frames[0], image.masks[0], image.rows[0]) for image in rendered if image.rows]


def box(mask):
    y, x = np.nonzero(mask)
    return int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1


def surroundings(frame, row):
    """Median grey level of the pixels between 4 and 8 px from the target's box."""
    window, hole = (
        (slice(max(row.y0 - far, 0), row.y0 + row.height + far), slice(max(row.x0 - far, 0), row.x0 + row.width + far))
        for far in (8, 4)
    )
    around = np.zeros(frame.shape, bool)
    around[window] = True
    around[hole] = False
    return float(np.median(frame[around]))


@pytest.mark.parametrize("flatness", [1.0, 5.0])
def test_a_target_is_as_large_at_half_contrast_as_its_size_says(flatness):
    target = VariedTarget(None, None, None, 13, 7, flatness, winged=False, contrast=0.3, dark=False)
    _, profile = varied_profile(target, np.array((40.0, 40.0)), 0.0, (80, 80))
    core = profile > 0.5
    assert box(core)[2:] == (13, 7)
    assert core.sum() == pytest.approx(np.pi / 4 * 13 * 7, rel=0.05)
    edge = (core.shape[1] - 1) // 2 + 6  # the pixel that the outline leaves by
    steepness = profile[len(profile) // 2, edge - 1] - profile[len(profile) // 2, edge + 1]
    assert (steepness > 0.4) == (flatness > 1)


def test_a_saturated_target_looks_wider():
    profile = np.array([0.1, 0.2, 0.4, 0.6, 1.0])
    assert visible_core(profile, contrast=0.8, room=0.9).tolist() == [False, False, False, True, True]
    # a rise of 0.8 before a background of 0.8: it saturates at a quarter and shows half of what is left at an eighth
    assert visible_core(profile, contrast=0.8, room=0.2).tolist() == [False, True, True, True, True]


def test_wings_cross_the_body():
    target = VariedTarget(None, None, None, 15, 5, 3.0, winged=True, contrast=0.3, dark=False)
    _, profile = varied_profile(target, np.array((40.0, 40.0)), 0.0, (80, 80))
    assert box(profile > 0.5)[2:] == (15, 11), "the wings span 0.8 of the length: 12 px, the outermost half covered"
    assert (profile > 0.5).sum() < 0.6 * 15 * 12


def test_masks_are_where_half_of_the_visible_contrast_shows(many):
    overlaps = []
    for frame, mask, row in many:
        level = surroundings(frame, row)
        window = slice(row.y0, row.y0 + row.height), slice(max(row.x0 - 2, 0), row.x0 + row.width + 2)
        excess = np.abs(frame - level)[window]
        if row.snr > 15 and 8 < row.x < 87 and 8 < row.y < 87:
            seen = excess > 0.5 * np.median(np.sort(excess[mask[window]])[-3:])
            overlaps.append((seen & mask[window]).sum() / (seen | mask[window]).sum())
    assert len(overlaps) > 15
    assert np.median(overlaps) > 0.85


def test_targets_are_brighter_and_darker_than_their_background(many):
    darker = [frame[mask].mean() < surroundings(frame, row) for frame, mask, row in many if row.snr > 6]
    assert len(darker) > 60
    assert 0.1 < np.mean(darker) < 0.45
    assert all(row.snr > 0.5 * SNR for _, _, row in many), "at the border part of the target shows"
    assert np.mean([row.snr >= SNR - 1e-3 for _, _, row in many]) > 0.8


def test_sizes_reach_from_points_to_15_pixels(many):
    sides = [max(row.width, row.height) for _, mask, row in many]
    assert max(sides) <= 17, "a saturated target's visible outline is a little wider"
    assert np.mean([side <= 4 for side in sides]) > 0.15
    assert np.mean([side >= 10 for side in sides]) > 0.15


def test_frames_clip_to_black_and_white_and_cover_many_levels(many):
    frames = np.array([frame for frame, _, _ in many])
    assert frames.min() == 0
    assert frames.max() == 1
    clipped = [(frames == level).mean(axis=(1, 2)) > 0.1 for level in (0, 1)]
    assert all(0.02 < part.mean() < 0.4 for part in clipped)
    levels = np.median(frames, axis=(1, 2))
    assert (levels < 0.06).mean() > 0.03
    assert (levels > 0.6).mean() > 0.05


def test_columns_fail_in_some_sensors(many):
    dead = [(frame.std(axis=0) == 0) & (frame.std() > 0.02) for frame, _, _ in many]
    broken = np.mean([0 < columns.sum() <= 3 for columns in dead])
    assert 0.05 < broken < 0.25


def test_sequences_move_and_their_rows_are_their_masks():
    for seed in range(6):
        rendered = sequence(seed, frames=5)
        assert np.abs(np.diff(rendered.frames, axis=0)).max() > 0
        for row in rendered.rows:
            mask = rendered.masks[int(row.frame)]
            assert (row.x0, row.y0, row.width, row.height) == box(mask)
            assert row.area == mask.sum()
    speeds = np.diff([(row.y, row.x) for row in sequence(1, frames=8).rows], axis=0)
    assert np.linalg.norm(speeds.mean(axis=0)) < 2


def test_each_sequence_depends_on_seed_and_number_alone(tmp_path):
    few = RenderConfig(sequences=2, frames=2, size=(48, 64), clutter="varied")
    render_dataset(tmp_path / "few", few)
    render_dataset(tmp_path / "more", RenderConfig(sequences=4, frames=2, size=(48, 64), clutter="varied"))
    for name in ("seq_000", "seq_001"):
        for read, kind in ((read_pixels, "images"), (read_mask, "masks")):
            first, second = (read(tmp_path / root / kind / name / "0001.png") for root in ("few", "more"))
            np.testing.assert_array_equal(first, second)
    rows = read_targets(tmp_path / "few")
    assert rows == [row for row in read_targets(tmp_path / "more") if row.sequence in ("seq_000", "seq_001")]
    other = read_pixels(tmp_path / "more/images/seq_002/0001.png")
    assert (other != read_pixels(tmp_path / "more/images/seq_001/0001.png")).mean() > 0.5
