"""Faults of sensors and files, on clips small enough to see every pixel."""

import cv2
import numpy as np
import pytest

from istd.datasets import sensor
from istd.datasets.sensor import (
    BLINK_SHARE,
    FAULTS,
    HOT,
    NOISE,
    BadPixels,
    add_channel_offsets,
    add_column_offsets,
    add_noise,
    add_row_offsets,
    coarsen_levels,
    compress_jpeg,
    draw_bad_pixels,
    lower_gain,
    record_clip,
    spoil_pixels,
)

NO_TARGET = np.zeros((16, 24), bool)


def random(seed=0):
    return np.random.default_rng(seed)


def ramp(frames=3):
    """A clip whose frames differ, with grey levels from 0.25 to 0.75."""
    clip = np.linspace(0.25, 0.75, frames * NO_TARGET.size, dtype=np.float32).reshape(frames, *NO_TARGET.shape)
    clip.flags.writeable = False
    return clip


@pytest.mark.parametrize(
    ("fault", "offsets"),
    [
        (add_column_offsets, random().normal(0, 0.02, 24)),
        (add_row_offsets, random().normal(0, 0.02, 16)[:, None]),
    ],
)
def test_columns_and_rows_have_the_same_offsets_in_all_frames(fault, offsets):
    changed = fault(ramp(), NO_TARGET, 0.02, random())
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed - ramp(), np.broadcast_to(offsets, changed.shape), atol=1e-6)


def test_readout_channels_take_turns():
    periods = set()
    for seed in range(20):
        offsets = add_channel_offsets(ramp(), NO_TARGET, 0.04, random(seed)) - ramp()
        np.testing.assert_allclose(offsets, np.broadcast_to(offsets[0, 0], offsets.shape), atol=1e-6)
        row = offsets[0, 0]
        assert row.min() >= 0 and row.max() <= 0.04 and np.ptp(row) > 0
        periods.add(next(period for period in (2, 4, 8, 24) if np.allclose(row[period:], row[:-period], atol=1e-6)))
    assert periods == {2, 4, 8}


def test_noise_differs_between_frames():
    clip = np.full((2, 64, 64), 0.5, np.float32)
    noise = add_noise(clip, np.zeros((64, 64), bool), 0.02, random()) - clip
    assert noise.std() == pytest.approx(0.02, rel=0.05) and abs(noise.mean()) < 0.001
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.05


def test_bad_pixels_scale_and_shift_their_values_where_they_are_bad():
    frames = np.full((2, 2, 3), 0.5, np.float32)
    pixels = BadPixels((np.array([0, 1]), np.array([2, 0])), np.float32([0, 1]), np.float32([1, 0.25]))
    pixels.spoil(frames, np.array([[True, True], [False, True]]))
    assert frames.tolist() == [[[0.5, 0.5, 1], [0.75, 0.5, 0.5]], [[0.5, 0.5, 0.5], [0.75, 0.5, 0.5]]]
    pixels.spoil(frames)
    assert frames[1].tolist() == [[0.5, 0.5, 1], [1, 0.5, 0.5]]


def test_dead_stuck_and_hot_pixels_are_equally_frequent():
    pixels = draw_bad_pixels((300, 200), 0.05, random())
    assert len(pixels.gain) == pytest.approx(3000, rel=0.1)
    rows, columns = pixels.places
    assert rows.max() == 299 and columns.max() == 199
    dead, stuck = ((pixels.gain == 0) & (pixels.offset == value) for value in (0, 1))
    hot = pixels.offset[pixels.gain == 1] / NOISE
    assert HOT[0] <= hot.min() <= hot.max() <= HOT[1]
    assert [dead.mean(), stuck.mean(), len(hot) / len(dead)] == pytest.approx([1 / 3] * 3, abs=0.04)


def test_bad_pixels_stay_in_place_blink_and_leave_targets_alone():
    clip, mask = np.full((40, 60, 80), 0.5, np.float32), np.zeros((60, 80), bool)
    mask[:30] = True
    clip.flags.writeable = False
    spoiled = spoil_pixels(clip, mask, 0.04, random())
    assert (spoiled[:, :30] == 0.5).all()
    bad = spoiled != 0.5
    places = bad.any(axis=0)
    assert places.sum() == pytest.approx(0.04 * 30 * 80, rel=0.25)
    for y, x in np.argwhere(places):
        assert len(np.unique(spoiled[bad[:, y, x], y, x])) == 1
    shares = bad.mean(axis=0)[places]
    blinking = shares < 1
    assert blinking.mean() == pytest.approx(BLINK_SHARE, abs=0.1)
    assert shares[blinking].mean() == pytest.approx(0.5, abs=0.1)


def test_levels_are_rounded_to_the_nearest_step():
    clip = np.float32([[[0, 0.1, 0.13, 0.6, 0.9, 1]]])
    assert coarsen_levels(clip, None, 1 / 4, random()).tolist() == [[[0, 0, 0.25, 0.5, 1, 1]]]
    assert len(np.unique(coarsen_levels(ramp(), NO_TARGET, 1 / 31.6, random()))) == 17  # 8 / 32 to 24 / 32


def test_the_scene_gets_a_part_of_the_range_from_some_frame_on():
    clip = np.tile(np.float32([0, 0.5, 1]), (4, 1, 1))
    firsts, lows = set(), []
    for seed in range(40):
        changed = lower_gain(clip, None, 0.6, random(seed))
        later = ~np.isclose(changed, clip).all(axis=(1, 2))
        first = int(later.argmax())
        assert later[first:].all() and not later[:first].any()
        low, middle, high = changed[first, 0]
        assert (changed[first:] == changed[first]).all()
        assert middle - low == pytest.approx(0.2) and high - middle == pytest.approx(0.2) and low >= 0 and high <= 1
        firsts.add(first)
        lows.append(low)
    assert firsts == {0, 1, 2, 3} and min(lows) < 0.1 and max(lows) > 0.5


def test_every_frame_is_a_jpeg_of_the_quality_asked_for():
    clip = random().random((2, 13, 21), dtype=np.float32)
    compressed = compress_jpeg(clip, None, 60.4, random())
    assert compressed.dtype == np.float32
    for frame, result in zip(clip, compressed, strict=True):
        data = cv2.imencode(".jpg", np.rint(frame * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        np.testing.assert_allclose(result * 255, cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), atol=1e-4)
    mild = compress_jpeg(clip, None, 5, random())
    assert np.abs(mild - clip).mean() < 0.5 * np.abs(compressed - clip).mean()


def test_every_fault_occurs_equally_often_and_log_uniformly_strong(monkeypatch):
    drawn = []

    def note(number):
        def apply(clip, mask, strength, random):
            drawn.append((number, strength))
            return clip + 0.4

        return apply

    ranges = [(0.01, 1.0), (1.0, 10.0), (5.0, 5.0)]
    faults = [sensor.Fault(note(number), strengths) for number, strengths in enumerate(ranges)]
    monkeypatch.setattr(sensor, "FAULTS", faults)
    generator, clip = random(), np.full((1, 1, 1), 0.5, np.float32)
    results = [float(record_clip(clip, None, generator, 0.3).item()) for _ in range(2000)]
    assert set(results) == {0.5, np.float32(0.9), 1.0}, "clipped after every fault"
    for number, (low, high) in enumerate(ranges):
        strengths = [strength for place, strength in drawn if place == number]
        assert len(strengths) == pytest.approx(600, rel=0.15)
        assert low * 0.999 <= min(strengths) <= max(strengths) <= high * 1.001
        assert np.median(strengths) == pytest.approx((low * high) ** 0.5, rel=0.25)
    monkeypatch.setattr(sensor, "FAULTS", faults[:2])
    drawn.clear()
    record_clip(clip, None, generator, 1.0)
    assert [number for number, _ in drawn] == [0, 1], "in the order of the chain"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.apply.__name__)
def test_targets_remain_visible_at_the_greatest_strength(fault):
    clip = np.full((3, 64, 64), 0.4, np.float32)
    mask = np.zeros((64, 64), bool)
    for row in range(4, 64, 12):
        mask[row : row + 3, row : row + 3] = True
    clip[:, mask] = 0.5
    for seed in range(10):
        recorded = fault.apply(clip, mask, fault.strengths[1], random(seed)).clip(0, 1)
        contrast = recorded[1][mask].mean() - np.median(recorded[1][~mask])
        assert contrast > 0.25 * 0.1
