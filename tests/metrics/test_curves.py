"""Curves: worked out by hand, equal to thresholding and labelling 101 times, exact under merging."""

import csv
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from istd.utils.errors import InputError
from istd.utils.metrics import target_curve
from istd.utils.metrics.curves import CurveAccumulator, threshold_levels
from istd.utils.plots import write_curves
from tests.metrics.test_properties import scenes
from tests.reference import plain_metrics

TIE = 1e-9  # px of distance; no difference between two sums of distances on these maps is as small


def accumulated(score, mask, steps=100):
    curves = CurveAccumulator(steps)
    curves.update(score, mask)
    return curves


def assert_equals_plain(score, mask, steps=100):
    ours = accumulated(score, mask, steps)
    hits, misses, matched, false_pixels = plain_metrics.curves(score, mask, steps)
    assert np.array_equal(np.cumsum(ours.target_levels[::-1])[::-1][1:], hits)
    assert np.array_equal(np.cumsum(ours.other_levels[::-1])[::-1][1:], misses)
    assert np.array_equal(ours.matched, matched)
    ours_false = hits + misses - ours.matched_pixels
    if not np.array_equal(ours_false, false_pixels):  # several assignments may have the same total distance
        fewest, most = (plain_metrics.curves(score, mask, steps, sign * TIE)[3] for sign in (-1, 1))
        assert np.all((fewest <= ours_false) & (ours_false <= most))


def test_four_pixels_by_hand():
    """Scores 0.9 (target), 0.6, 0.3 (target), 0; five thresholds 0, 0.25, ..., 1 and a row of blanks between."""
    score = np.zeros((1, 16))
    mask = np.zeros((1, 16))
    score[0, [0, 5, 10, 15]] = [0.9, 0.6, 0.3, 0]
    mask[0, [0, 10]] = 1
    curves = accumulated(score, mask, 4).compute()
    assert curves.threshold.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.recall.tolist() == [1, 1, 0.5, 0.5, 0]
    np.testing.assert_array_equal(curves.precision, [2 / 3, 2 / 3, 0.5, 1, np.nan])
    assert curves.false_positive_rate.tolist() == [1 / 14, 1 / 14, 1 / 14, 0, 0]
    assert curves.pd.tolist() == [1, 1, 0.5, 0.5, 0]
    assert curves.fa.tolist() == [1 / 16, 1 / 16, 1 / 16, 0, 0]
    assert curves.ap == 0.5 * 1 + 0.5 * 2 / 3
    # pairs of a target and another pixel: 0.9 above all 14; 0.3 above the 13 blanks, below 0.6
    assert curves.auc == (14 + 13) / 28


def test_areas_equal_those_of_the_scores_levels():
    """Average precision and AUC against their definitions over pairs and ranks, on levels with many ties."""
    generator = np.random.default_rng(3)
    score, mask = generator.integers(0, 11, (12, 12)) / 10, generator.random((12, 12)) < 0.3
    curves = accumulated(score, mask, 10).compute()
    levels = threshold_levels(score, 10).astype(int)
    inside, outside = levels[mask][:, None], levels[~mask][None]
    pairs = (inside > outside).mean() + 0.5 * (inside == outside).mean()
    assert curves.auc == pytest.approx(pairs, abs=1e-14)
    precision_at = {level: mask[levels >= level].mean() for level in np.unique(levels)}
    assert curves.ap == pytest.approx(np.mean([precision_at[level] for level in levels[mask]]), abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from([7, 20]))
def test_random_maps_equal_the_plain_form(scene, steps):
    assert_equals_plain(*scene, steps)


@settings(max_examples=20, deadline=None)
@given(scenes(), st.sampled_from([1, 40, 300]))
def test_the_size_of_stacks_changes_nothing(scene, stack_pixels):
    usual = accumulated(*scene, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_curve, "STACK_PIXELS", stack_pixels)
        other = accumulated(*scene, 20)
    assert np.array_equal(usual.matched, other.matched) and np.array_equal(usual.matched_pixels, other.matched_pixels)


def clutter(size, seed, power):
    """Blurred noise to a power in 0..1, with four Gaussian targets; float32 score and mask."""
    generator = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(generator.random((size, size), dtype=np.float32), (0, 0), 1.5)
    score = ((noise - noise.min()) / (noise.max() - noise.min())) ** power
    mask = np.zeros((size, size), bool)
    rows, columns = np.mgrid[:size, :size]
    for row, column in generator.uniform(2, size - 2, (4, 2)):
        spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4.5)
        score, mask = np.maximum(score, 0.9 * spot.astype(np.float32)), mask | (spot > 0.4)
    return score, mask


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("stack_pixels", [target_curve.STACK_PIXELS, 1], ids=["stacked", "one by one"])
def test_clutter_equals_the_plain_form(power, stack_pixels, monkeypatch):
    monkeypatch.setattr(target_curve, "STACK_PIXELS", stack_pixels)
    assert_equals_plain(*clutter(96, power, power), steps=50)


@pytest.mark.parametrize("stack_pixels", [target_curve.STACK_PIXELS, 1], ids=["stacked", "one by one"])
@pytest.mark.parametrize("place", [(20, 2), (2, 20), (20, 38), (38, 20)])
def test_a_target_at_the_edge_of_a_large_region_is_not_dropped(place, stack_pixels, monkeypatch):
    """A plain of 0.3 reaches the target's side only; on it stands a spot whose centre is 2 px from the target."""
    monkeypatch.setattr(target_curve, "STACK_PIXELS", stack_pixels)
    score, mask = np.zeros((41, 41)), np.zeros((41, 41), bool)
    score[2:39, 2:39] = 0.3
    score[place] = 0.9
    row, column = (p + {2: -2, 38: 2}.get(p, 0) for p in place)
    mask[row, column] = True
    assert accumulated(score, mask, 10).matched.tolist() == [0] * 3 + [1] * 6 + [0] * 2
    assert_equals_plain(score, mask, 10)


def test_a_ring_around_its_target_is_found():
    """A region whose pixels all lie far from the target, but whose centroid is the target's."""
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 30, columns - 33)
    score = np.where((distance > 12) & (distance < 15), 0.8, 0.0)
    mask = distance < 2
    assert accumulated(score, mask).compute().pd.tolist() == [1.0] * 80 + [0.0] * 21
    assert_equals_plain(score, mask, 20)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32 - 1))
def test_levels_are_exact(steps, dtype, seed):
    """`level > k` equals `score > k / steps` for scores at, just below and just above thresholds."""
    generator = np.random.default_rng(seed)
    at = (generator.integers(0, steps + 1, 40) / steps).astype(dtype)
    score = np.concatenate(
        [at, np.nextafter(at, dtype(0)), np.nextafter(at, dtype(1)), generator.random(40).astype(dtype)]
    )
    levels = threshold_levels(score[None], steps)[0]
    for k in {0, 1, steps - 1, steps, *generator.integers(0, steps + 1, 20).tolist()}:
        assert np.array_equal(levels > k, score > k / steps), k


@settings(max_examples=20, deadline=None)
@given(st.lists(scenes(), min_size=2, max_size=6))
def test_merging_changes_no_bit(batch):
    once, parts = CurveAccumulator(25), [CurveAccumulator(25), CurveAccumulator(25)]
    for index, (score, mask) in enumerate(batch):
        once.update(score, mask)
        parts[index % 2].update(score, mask)
    merged = pickle.loads(pickle.dumps(parts[1]))
    merged.merge(parts[0])
    for ours, theirs in zip(merged.compute(), once.compute(), strict=True):
        assert np.array_equal(ours, theirs, equal_nan=True)
    with pytest.raises(InputError, match="25 and 100 steps cannot be merged"):
        merged.merge(CurveAccumulator())


def test_batches_of_tensors():
    score, mask = clutter(48, 0, 2)
    single, batch = accumulated(score, mask), CurveAccumulator()
    single.update(score[::-1], mask[::-1])
    both = [np.stack([array, array[::-1]])[:, None] for array in (score, mask)]
    batch.update(torch.from_numpy(both[0]), torch.from_numpy(both[1]))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(single.compute(), batch.compute(), strict=True))


def test_nothing_to_measure_is_nan():
    curves = accumulated(np.full((8, 8), 0.5), np.zeros((8, 8))).compute()
    assert math.isnan(curves.ap) and math.isnan(curves.auc) and np.isnan(curves.pd).all()
    assert curves.fa.tolist() == [1.0] * 50 + [0.0] * 51
    assert np.isnan(CurveAccumulator().compute().fa).all()


def test_files(tmp_path):
    score, mask = clutter(48, 0, 2)
    curves = accumulated(score, mask, 10).compute()
    files = write_curves(curves, tmp_path / "curves")
    assert [file.name for file in files] == ["curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png"]
    rows = list(csv.DictReader(files[0].open()))
    assert [float(row["fa"]) for row in rows] == curves.fa.tolist() and rows[10]["precision"] == ""
    for file in files[1:]:
        picture = cv2.imread(str(file))
        assert picture.shape[0] > 300 and (picture == (180, 119, 31)).all(axis=2).any()  # a line in blue
    empty = CurveAccumulator().compute()
    assert len(write_curves(empty, tmp_path / "empty")) == 4
