import os
from pathlib import Path

import numpy as np
import pytest

from istd.test_script.predictor import Predictor
from istd.utils.errors import InputError
from istd.utils.grey_levels import (
    FRAME,
    UNIT,
    GreyRange,
    GreyScale,
    MovingRange,
    frame_range,
    parse_range,
    range_frames,
    sequence_range,
    to_unit,
)
from istd.utils.images import read_mask, read_pixels
from istd.utils.metrics import build_metric
from tests.reference.datasets_folders import REPOSITORY

REAL = Path(os.environ.get("ISTD_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
STUCK = (20, 30)  # where a pixel is stuck
TARGET = (slice(40, 42), slice(50, 52))


def scene(frames: int = 6) -> np.ndarray:
    """uint16 [T, 64, 80]: some 600 counts around 7000, with noise."""
    random = np.random.default_rng(0)
    slope = np.linspace(-300, 300, 80)
    return (7000 + slope + random.normal(0, 5, (frames, 64, 80))).astype(np.uint16)


def in_range(frames: np.ndarray) -> np.ndarray:
    chosen = sequence_range(frames)
    return np.stack([to_unit(frame, chosen) for frame in frames])


def test_the_range_by_hand():
    ramp = np.arange(1000, 2001).reshape(7, 143).astype(np.uint16)  # 99 % of it spans 990 counts
    assert sequence_range([ramp]) == pytest.approx((1005 - 0.25 * 990, 1995 + 0.25 * 990))
    ramp[3, 70:72] = 3000  # a target of two pixels, one span above the scene
    assert sequence_range([ramp]).high == pytest.approx(3000, abs=20)
    ramp[3, 70:72] = 60000  # a hot object: four spans above the scene
    assert sequence_range([ramp]).high == pytest.approx(1995 + 4 * 990, rel=0.01)


@pytest.mark.parametrize("level", [0, 16383, 65535])
@pytest.mark.parametrize("step", [1, 2])  # stuck, blinking
def test_a_bad_pixel_changes_nothing_but_itself(level, step):
    good, bad = scene(), scene()
    bad[(slice(None, None, step), *STUCK)] = level
    expected, found = in_range(good), in_range(bad)
    assert np.abs(found - expected).max() < 0.03, "it takes the median of its surroundings"
    np.testing.assert_allclose(np.delete(found.reshape(6, -1), 20 * 80 + 30, 1),
                               np.delete(expected.reshape(6, -1), 20 * 80 + 30, 1), atol=2e-3)  # fmt: skip


def test_two_neighbours_that_are_stuck_are_known_by_their_constancy():
    bad = scene()
    bad[:, 20, 30:32] = 65535
    assert sequence_range(bad).high == pytest.approx(sequence_range(scene()).high, abs=5)


@pytest.mark.parametrize("contrast", [400, 900, 2000, -900])
def test_a_target_of_4_pixels_keeps_its_contrast_and_its_shape(contrast):
    frames = scene().astype(int)
    frames[(slice(None), *TARGET)] += np.array([[contrast, contrast // 2], [contrast // 2, contrast // 4]])
    low, high = sequence_range(frames.astype(np.uint16))
    grey = in_range(frames.astype(np.uint16))
    target = grey[(slice(None), *TARGET)] * (high - low)
    around = grey[:, 36:38, 50:52].mean() * (high - low)
    kept = (target[:, 0, 0] - around) / contrast
    assert kept.min() > 0.66 and kept.max() < 1.1
    assert np.all(np.abs(target[:, 0, 0] - around) > np.abs(target[:, 1, 1] - around)), "it is not clipped flat"


@pytest.mark.parametrize("live", [False, True])
def test_a_warm_object_that_enters_changes_nothing_else(live):
    plain, entered = scene(50), scene(50)
    entered[10:, 5:20, 60:75] += 5000
    scale = GreyScale(sample=None if live else lambda: range_frames(entered))
    grey = np.stack([scale(frame) for frame in entered])
    fixed = np.stack([to_unit(frame, sequence_range(entered[:1])) for frame in plain]) if live else in_range(entered)
    elsewhere = np.ones(grey.shape[1:], bool)
    elsewhere[5:20, 60:75] = False
    change = np.abs(grey - fixed)[:, elsewhere]
    assert change.max() < 0.05
    assert grey[10:, 5:20, 60:75].min() > grey[:, elsewhere].max()


def test_a_moving_range_begins_anew_after_a_jump():
    moving = MovingRange()
    first = moving.update(scene(1)[0])
    drifted = moving.update(scene(1)[0] + np.uint16(20))
    assert 0 < drifted.low - first.low <= 5e-4 * (first.high - first.low) * 1.001
    jumped = moving.update(scene(1)[0] + np.uint16(3000))
    assert jumped == pytest.approx([first.low + 3000, first.high + 3000], abs=1)


@pytest.mark.parametrize("nodata", [np.nan, np.inf, -9999.0, -3.4e38])
def test_nodata_is_no_part_of_the_range_and_takes_the_median(nodata):
    frames = scene().astype(np.float32) / 25  # kelvin, nearly
    holes = frames.copy()
    holes[:, 10:14, 10:20] = nodata
    assert sequence_range(holes) == pytest.approx(sequence_range(frames), abs=0.5)
    assert to_unit(holes[0])[10:14, 10:20] == pytest.approx(np.median(to_unit(frames[0])), abs=0.02)


@pytest.mark.filterwarnings("error")
def test_nodata_in_16_bit_floats():
    frame = np.random.default_rng(0).uniform(280, 300, (40, 40)).astype(np.float16)
    filled = frame.copy()
    filled[3, 3] = -9999
    chosen = sequence_range([filled])
    np.testing.assert_allclose(chosen, sequence_range([frame]), atol=0.5)
    assert to_unit(filled, chosen)[3, 3] == pytest.approx(
        (np.median(frame) - chosen.low) / (chosen.high - chosen.low), abs=0.01
    )


@pytest.mark.parametrize("level", [0, 65535])
def test_a_filled_border_is_no_part_of_the_range(level):
    frames = scene()
    frames[:, :, :10] = level
    assert sequence_range(frames) == pytest.approx(sequence_range(scene()[:, :, 10:]), abs=1)


def test_floats_in_0_to_1_stay_and_8_bits_are_divided():
    grey = np.random.default_rng(0).random((8, 9))
    assert sequence_range([grey]) == UNIT
    np.testing.assert_array_equal(to_unit(grey), grey.astype(np.float32))
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_unit(eight, GreyRange(5, 10)), eight / np.float32(255))


def test_the_other_rules():
    frame = scene(1)[0]
    frame[STUCK] = 16383
    low, high = float(frame.min()), 16383.0
    assert frame_range(frame) == (low, high)
    np.testing.assert_array_equal(GreyScale(FRAME)(frame), ((frame - np.float32(low)) / np.float32(high - low)))
    assert GreyScale(GreyRange(7000, 7100))(np.array([[6900, 7050, 7090]], np.uint16)).tolist() == [
        [0, 0.5, pytest.approx(0.9)]
    ]
    assert parse_range(["7000", "7100.5"]) == parse_range("7000 7100.5") == GreyRange(7000, 7100.5)
    assert parse_range(["frame"]) == "frame"
    for wrong in ("min max", "5", "8 7", "1 nan", "1 2 3"):
        with pytest.raises(InputError, match="two numbers LOW HIGH"):
            parse_range(wrong)


@pytest.mark.skipif(not (REAL / "HALMSTAD-IR").is_dir(), reason="real data not present")
@pytest.mark.parametrize("weights", ["datransnet", "sgmp_unet_small"])
def test_shipped_weights_find_in_14_bits_what_they_find_in_8(weights):
    """A crop of a real clip as 4 * grey + 7000 counts, with pixels stuck at the top, at 0, and blinking."""
    folder = next(path for path in sorted((REAL / "HALMSTAD-IR" / "images").iterdir()) if "DRONE" in path.name)
    files = sorted(folder.iterdir())[10:13]
    masks = np.stack([read_mask(REAL / "HALMSTAD-IR" / "masks" / folder.name / f"{path.stem}.png") for path in files])
    rows, columns = np.nonzero(masks.any(axis=0))
    top, left = (max(0, int(places.mean()) - 32) for places in (rows, columns))
    window = (slice(None), slice(top, top + 64), slice(left, left + 64))
    clip, masks = np.stack([read_pixels(path) for path in files])[window], masks[window]
    predictor = Predictor.from_checkpoint(REPOSITORY / "weights" / f"{weights}.pth", "cpu")
    eight = measured(predictor, clip, masks)
    raw = 4 * clip.astype(np.uint16) + 7000
    raw[:, 5, 5], raw[:, 50, 9], raw[::2, 9, 50] = 16383, 0, 16383
    found = measured(predictor, raw, masks)
    assert eight["pd"] == 1 and found["pd"] >= 0.95 and found["fa"] <= eight["fa"]


def measured(predictor: Predictor, frames: np.ndarray, masks: np.ndarray) -> dict:
    metric = build_metric("standard")
    for probability, mask in zip(predictor(frames).probability, masks, strict=True):
        metric.update(probability, mask)
    return metric.compute()
