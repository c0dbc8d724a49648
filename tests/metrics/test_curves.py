"""Curves: worked out by hand, equal to thresholding and labelling at each threshold, exact under merging."""

import csv
import json
import math
import pickle

import cv2
import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from istd.utils.errors import InputError
from istd.utils.metrics import build_metric, target_curve
from istd.utils.metrics.curves import LOGITS, CurveAccumulator, logit_levels, matched_levels, matched_logits
from istd.utils.metrics.regions import find_regions
from istd.utils.plots import COLORS, best_pd, plot, write_curves, write_heat_map
from tests.metrics.test_properties import scenes
from tests.reference import plain_metrics

TIE = 1e-9  # px of distance; no difference between two sums of distances on these maps is as small


def accumulated(score, mask, scale="probability", **options):
    curves = CurveAccumulator(**options)
    curves.update(score, mask, scale=scale)
    return curves


def linear_levels(score, steps):
    """How many of the thresholds 0, 1/steps, ..., 1 lie below each score."""
    thresholds = (np.arange(steps + 1) / steps).astype(score.dtype)
    return np.searchsorted(thresholds, score).astype(np.uint8 if steps < 255 else np.uint16)


def assert_equals_plain(score, mask, steps):
    matched, matched_pixels = target_curve.target_curve(linear_levels(score, steps), find_regions(mask), steps)
    thresholds = (np.arange(steps + 1) / steps).astype(score.dtype)
    hits, misses, plain_matched, false_pixels = plain_metrics.curves(score, mask, thresholds)
    assert np.array_equal(matched, plain_matched)
    ours_false = hits + misses - matched_pixels
    if not np.array_equal(ours_false, false_pixels):  # several assignments may have the same total distance
        fewest, most = (plain_metrics.curves(score, mask, thresholds, sign * TIE)[3] for sign in (-1, 1))
        assert np.all((fewest <= ours_false) & (ours_false <= most))


def test_four_pixels_by_hand():
    """Logits 3 (target), 1, -1 (target) and a row of blanks of -50 between."""
    score, mask = np.full((1, 16), -50.0), np.zeros((1, 16))
    score[0, [0, 5, 10]] = [3, 1, -1]
    mask[0, [0, 10]] = 1
    curves = accumulated(score, mask, "logit").compute()
    chosen = np.searchsorted(curves.logit, [-2, 0, 2, 10])  # a threshold in each interval between the scores
    assert curves.recall[chosen].tolist() == [1, 0.5, 0.5, 0]
    np.testing.assert_array_equal(curves.precision[chosen], [2 / 3, 0.5, 1, np.nan])
    assert curves.false_positive_rate[chosen].tolist() == [1 / 14, 1 / 14, 0, 0]
    assert curves.pd[chosen].tolist() == [1, 0.5, 0.5, 0]
    assert curves.fa[chosen].tolist() == [1 / 16, 1 / 16, 0, 0]
    assert curves.logit[curves.middle] == 0 and curves.threshold[curves.middle] == 0.5
    assert curves.ap == 0.5 * 1 + 0.5 * 2 / 3
    # pairs of a target and another pixel: 3 above all 14; -1 above the 13 blanks, below 1
    assert curves.auc == (14 + 13) / 28
    same = accumulated(expit(score), mask).compute()
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(curves[:-1], same[:-1], strict=True))


def confident_logits(seed, spread=40.0):
    """Logits like a trained network's on 60,000 pixels: most beyond what float32 probabilities tell from 1 or 0."""
    generator = np.random.default_rng(seed)
    mask = generator.random((200, 300)) < 0.01
    logits = np.where(mask, generator.normal(20, spread, mask.shape), generator.normal(-14, 6, mask.shape))
    return logits.astype(np.float32), mask


@pytest.mark.parametrize("spread", [4.0, 40.0])
def test_areas_are_those_of_the_logits(spread):
    logits, mask = confident_logits(1, spread)
    curves = accumulated(logits, mask, "logit").compute()
    assert curves.ap == pytest.approx(plain_metrics.average_precision(logits, mask), abs=1e-3)
    assert curves.auc == pytest.approx(plain_metrics.area_under_roc(logits, mask), abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_areas_are_those_of_the_probabilities(dtype):
    logits, mask = confident_logits(2, 8.0)
    flipped = logits + np.random.default_rng(3).normal(0, 3, logits.shape)
    probability = (expit(logits.astype(np.float64)) / 2 + expit(flipped) / 2).astype(dtype)
    curves = accumulated(probability, mask).compute()
    assert curves.ap == pytest.approx(plain_metrics.average_precision(probability, mask), abs=1e-3)
    assert curves.auc == pytest.approx(plain_metrics.area_under_roc(probability, mask), abs=1e-3)


def test_areas_of_few_levels_are_exact():
    """Average precision and AUC against their definitions over pairs and ranks, on levels with many ties."""
    generator = np.random.default_rng(3)
    score, mask = generator.integers(0, 11, (12, 12)) / 10, generator.random((12, 12)) < 0.3
    curves = accumulated(score, mask).compute()
    inside, outside = score[mask][:, None], score[~mask][None]
    pairs = (inside > outside).mean() + 0.5 * (inside == outside).mean()
    assert curves.auc == pytest.approx(pairs, abs=1e-14) == plain_metrics.area_under_roc(score, mask)
    precision_at = {level: mask[score >= level].mean() for level in np.unique(score)}
    expected = np.mean([precision_at[level] for level in score[mask]])
    assert curves.ap == pytest.approx(expected, abs=1e-14)
    assert plain_metrics.average_precision(score, mask) == pytest.approx(expected, abs=1e-14)


def test_two_values_rank_nothing():
    score, mask = np.zeros((8, 8)), np.zeros((8, 8))
    score[2:4, 2:4] = mask[2:4, 2:5] = 1
    curves = accumulated(score, mask)
    assert curves.compute().ap is None and curves.compute().auc is None
    curves.merge(accumulated(score * 0.5, mask))  # 0, 0.5 and 1 together rank pixels
    assert curves.compute().ap is not None and curves.compute().auc is not None


def test_the_middle_is_what_the_protocols_threshold():
    """At 0.5 the curves equal the metrics of the standard protocol, also for scores next to it."""
    score, mask = clutter(64, 5, 2)
    near = score.ravel()[::7]
    near[:] = np.nextafter(np.float32(0.5), near.round())
    metric = build_metric("standard")
    metric.update(score, mask)
    curves, expected = accumulated(score, mask).compute(), metric.compute()
    for name in ("precision", "recall", "pd", "fa"):
        assert getattr(curves, name)[curves.middle] == expected[name]


@settings(max_examples=15, deadline=None)
@given(scenes())
def test_logit_thresholds_equal_the_plain_form(scene):
    score, mask = scene
    curves = accumulated(score, mask, stride=128)
    with np.errstate(divide="ignore"):
        logits = np.log(score.astype(np.float64) / (1 - score.astype(np.float64)))
    hits, misses, matched, _ = plain_metrics.curves(logits, mask, matched_logits(128))
    assert np.array_equal(curves.matched, matched)
    computed = curves.compute()
    if mask.any():
        assert np.array_equal(computed.recall, hits / mask.sum())
    np.testing.assert_array_equal(
        computed.precision[hits + misses > 0], (hits / np.maximum(hits + misses, 1))[hits + misses > 0]
    )


def test_crowded_frames_take_time_in_proportion_to_their_targets(monkeypatch):
    """No step compares all regions with all targets: 900 targets are looked up in trees and bands."""
    sizes = []
    query = scipy.spatial.cKDTree
    monkeypatch.setattr(scipy.spatial, "cKDTree", lambda points: sizes.append(len(points)) or query(points))
    centres = np.arange(8, 480, 16)
    mask = np.zeros((490, 490), bool)
    for row in centres:
        for column in centres:
            mask[row : row + 2, column : column + 2] = True
    score = np.where(mask, 0.9, 0.1).astype(np.float32)
    curves = accumulated(score, mask).compute()
    assert curves.pd[curves.middle] == 1 and curves.fa[curves.middle] == 0
    assert 900 in sizes and max(sizes) == 900


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from([7, 20]))
def test_random_maps_equal_the_plain_form(scene, steps):
    assert_equals_plain(*scene, steps)


@settings(max_examples=20, deadline=None)
@given(scenes(), st.sampled_from([1, 40, 300]))
def test_the_size_of_stacks_changes_nothing(scene, stack_pixels):
    usual = accumulated(*scene)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_curve, "STACK_PIXELS", stack_pixels)
        patch.setattr(target_curve, "FEW_PAIRS", 0)  # and the tree, even of few pairs
        other = accumulated(*scene)
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
    matched, _ = target_curve.target_curve(linear_levels(score, 10), find_regions(mask), 10)
    assert matched.tolist() == [0] * 3 + [1] * 6 + [0] * 2
    assert_equals_plain(score, mask, 10)


def test_a_ring_around_its_target_is_found():
    """A region whose pixels all lie far from the target, but whose centroid is the target's."""
    rows, columns = np.mgrid[:64, :64]
    distance = np.hypot(rows - 30, columns - 33)
    score = np.where((distance > 12) & (distance < 15), 0.8, 0.0)
    mask = distance < 2
    curves = accumulated(score, mask).compute()
    assert curves.pd.tolist() == (curves.threshold < 0.8).astype(float).tolist()
    assert_equals_plain(score, mask, 20)


@pytest.mark.parametrize("stride", [1, 2, 32, 128])
def test_levels_are_exact(stride):
    """`level > k` equals `score > threshold k`, for logits at, just below and just above thresholds."""
    at = LOGITS
    score = np.concatenate([at, np.nextafter(at, -np.inf), np.nextafter(at, np.inf), [-np.inf, np.inf]])[None]
    levels, thresholds = logit_levels(score, "logit"), matched_logits(stride)
    few = matched_levels(levels, stride)
    assert np.array_equal(levels, np.searchsorted(LOGITS, score, side="left"))
    for k in {0, 1, len(thresholds) // 2, len(thresholds) - 1}:
        assert np.array_equal(few > k, score > thresholds[k])


@settings(max_examples=20, deadline=None)
@given(st.lists(scenes(), min_size=2, max_size=6))
def test_merging_changes_no_bit(batch):
    once, parts = CurveAccumulator(128), [CurveAccumulator(128), CurveAccumulator(128)]
    for index, (score, mask) in enumerate(batch):
        once.update(score, mask)
        parts[index % 2].update(score, mask)
    merged = pickle.loads(pickle.dumps(parts[1]))
    merged.merge(parts[0])
    restored = CurveAccumulator.from_counts(json.loads(json.dumps(merged.counts())), stride=128)
    for curves in (merged, restored):
        assert_same(curves.compute(), once.compute())
    with pytest.raises(InputError, match="strides 128 and 32 cannot be merged"):
        merged.merge(CurveAccumulator())
    with pytest.raises(InputError, match="stride 100; expected a divisor of 896"):
        CurveAccumulator(100)


def assert_same(ours, theirs):
    for mine, other in zip([*ours[:-1], *ours.pixels], [*theirs[:-1], *theirs.pixels], strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or np.array_equal(mine, other, equal_nan=True)


def test_batches_of_tensors():
    score, mask = clutter(48, 0, 2)
    single, batch = accumulated(score, mask), CurveAccumulator()
    single.update(score[::-1], mask[::-1])
    both = [np.stack([array, array[::-1]])[:, None] for array in (score, mask)]
    batch.update(torch.from_numpy(both[0]), torch.from_numpy(both[1]))
    assert_same(single.compute(), batch.compute())


def test_nothing_to_measure_is_nan():
    curves = accumulated(np.linspace(0.5, 0.6, 64).reshape(8, 8), np.zeros((8, 8))).compute()
    assert math.isnan(curves.ap) and math.isnan(curves.auc) and np.isnan(curves.pd).all()
    assert curves.fa[curves.threshold < 0.5].tolist() == [1.0] * curves.middle and curves.fa[-1] == 0
    empty = CurveAccumulator().compute()
    assert np.isnan(empty.fa).all() and math.isnan(empty.ap)


def test_files(tmp_path):
    score, mask = clutter(48, 0, 2)
    score *= 0.99
    curves = accumulated(score, mask).compute()
    files = write_curves({"a": curves}, tmp_path / "curves", "TINY, protocol standard")
    assert [file.name for file in files] == ["curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png"]
    rows = list(csv.DictReader(files[0].open()))
    assert [float(row["fa"]) for row in rows] == curves.fa.tolist() and rows[-1]["precision"] == ""
    for file in files[1:]:
        assert has_color(file, 0) and not has_color(file, 1)
    both = write_curves({"a": curves, "b": accumulated(np.sqrt(score), mask).compute()}, tmp_path / "both")
    assert [row["run"] for row in csv.DictReader(both[0].open())] == ["a"] * len(rows) + ["b"] * len(rows)
    for file in both[1:]:
        assert has_color(file, 0) and has_color(file, 1)
    empty, binary = CurveAccumulator().compute(), accumulated(mask.astype(float), mask).compute()
    assert len(write_curves({"empty": empty, "binary": binary}, tmp_path / "empty")) == 4


def has_color(file, number):
    """Whether a line or a point of a picture has the color of this number."""
    color = [int(COLORS[number][place : place + 2], 16) for place in (5, 3, 1)]  # blue, green, red
    return int((cv2.imread(str(file)) == color).all(axis=2).sum()) > 40


def test_best_pd_is_the_highest_at_no_higher_fa():
    """Thresholds from low to high: Fa 8, 2, 5, 0 and Pd 1, 0.5, 0.25, 0; the third is worse than the second."""
    curves = CurveAccumulator().compute()._replace(fa=np.array([8.0, 2, 5, 0]), pd=np.array([1, 0.5, 0.25, 0]))
    fa, pd = best_pd(curves)
    assert fa.tolist() == [0, 2, 5, 8] and pd.tolist() == [0, 0.5, 0.5, 1]


def test_names_that_are_no_text_or_a_formula_can_be_drawn(tmp_path):
    """matplotlib draws no surrogates, which stand for bytes that are not UTF-8, and takes $...$ for a formula."""
    write_heat_map(tmp_path / "a.png", [["IoU \udce9", "x$_$_{y"], ["\x1b[31m$_{", "50.00"]])
    with plot(tmp_path / "b.png", "T\udce9ST $_{") as axes:
        axes.plot([0, 1], [0, 1])
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))
