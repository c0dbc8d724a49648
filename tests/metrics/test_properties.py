"""The fast metrics equal their plain forms on random maps, and are exact under merging, order and batching."""

import math
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from istd.utils.metrics import PROTOCOLS, build_metric
from istd.utils.metrics.accumulator import compute_metrics, mean_metrics
from tests.reference.plain_metrics import best_assignments, close_pairs, greedy, regions_of, shooting

EXAMPLES = settings(max_examples=40, deadline=None)


@st.composite
def scenes(draw):
    """Score float32 or float64 and bool mask, a few to many regions, sides 1 to 20."""
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    filled, marked = draw(st.sampled_from([0.05, 0.2, 0.4])), draw(st.sampled_from([0.0, 0.02, 0.1]))
    mask = generator.random((height, width)) < marked
    score = generator.random((height, width))
    score[score > filled] *= 0.5
    score[score <= filled] = np.round(1 - score[score <= filled], 2)
    if draw(st.booleans()):  # maps that resemble their masks
        score = np.maximum(score * 0.6, mask * generator.uniform(0.4, 1, mask.shape))
    return score.astype(draw(st.sampled_from([np.float32, np.float64]))), mask


def thresholded(score, protocol):
    if protocol == "dtum":
        return score >= 0.5
    if protocol == "datransnet":
        return score / score.max() > 0.5
    return score > 0.5


@EXAMPLES
@given(scenes())
def test_standard_equals_trying_every_assignment(scene):
    score, mask = scene
    metric = build_metric("standard")
    metric.update(score, mask)
    targets, regions = regions_of(mask), regions_of(score > 0.5)
    candidates = close_pairs(targets, regions)
    assume(math.prod(len(row) + 1 for row in candidates) < 20_000)  # more would take the plain form too long
    pairs, used = best_assignments(candidates)
    total = sum(int(region.area) for region in regions)
    row = metric.rows[0]
    assert (row.targets, row.matched) == (len(targets), pairs)
    assert row.false_pixels in {total - sum(int(regions[i].area) for i in indices) for indices in used}
    binary = score > 0.5
    assert (row.intersection, row.union) == ((binary & mask).sum(), (binary | mask).sum())
    assert (row.true_positives, row.predicted, row.positives) == ((binary & mask).sum(), binary.sum(), mask.sum())


@pytest.mark.parametrize("protocol", ["sgmp-2026", "datransnet", "basicirstd", "sctransnet"])
@EXAMPLES
@given(scenes())
def test_published_protocols_equal_their_loops(protocol, scene):
    score, mask = scene
    metric = build_metric(protocol)
    metric.update(score, mask)
    matched, areas, every_area = greedy(regions_of(mask), regions_of(thresholded(score, protocol)))
    if protocol == "basicirstd":
        false_pixels = sum(every_area) - sum(areas)
    else:
        false_pixels = sum(area for area in every_area if area not in areas)
    assert (metric.rows[0].matched, metric.rows[0].false_pixels) == (matched, false_pixels)


@EXAMPLES
@given(scenes())
def test_dtum_equals_its_loop(scene):
    score, mask = scene
    if min(mask.shape) < 9:  # there a negative start can still leave pixels, which the definition does not
        score, mask = np.pad(score, (0, 9)), np.pad(mask, (0, 9))
    metric = build_metric("dtum")
    metric.update(score, mask)
    assert (metric.rows[0].matched, metric.rows[0].false_pixels) == shooting(score >= 0.5, mask)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=15, deadline=None)
@given(st.lists(scenes(), min_size=2, max_size=7), st.randoms(use_true_random=False))
def test_merging_and_order_change_no_bit(protocol, batch, shuffler):
    names = [random.Random(index).choice("abc") for index in range(len(batch))]
    items = [(score, mask, name, str(i)) for i, ((score, mask), name) in enumerate(zip(batch, names, strict=True))]
    once = build_metric(protocol)
    for item in items:
        once.update(*item)
    shuffler.shuffle(items)
    half = len(items) // 2
    parts = [build_metric(protocol), build_metric(protocol)]
    for index, item in enumerate(items):
        parts[index >= half].update(*item)
    merged = pickle.loads(pickle.dumps(parts[1]))
    merged.merge(parts[0])
    assert same(merged.compute(), once.compute())
    assert merged.counts() == once.counts() and merged.area_metrics().keys() == once.area_metrics().keys()
    ours, theirs = merged.sequence_metrics(), once.sequence_metrics()
    assert ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    assert same(mean_metrics(ours.values()), mean_metrics(theirs.values()))


def same(ours, theirs):
    """Equal to the bit, NaN and None included."""
    return {key: repr(value) for key, value in ours.items()} == {key: repr(value) for key, value in theirs.items()}


def test_means_do_not_depend_on_the_order_of_addition():
    """Shares such as 1/3 and 1/7 summed one by one in floats would differ by their order; these must not."""
    rows = []
    metric = build_metric("standard")
    for width in (3, 7, 11, 13, 17, 19, 23):
        mask = np.ones((1, width))
        score = np.zeros((1, width))
        score[0, 0] = 1
        metric.update(score, mask)
    rows = metric.rows
    orders = [random.Random(seed).sample(rows, len(rows)) for seed in range(50)]
    assert len({compute_metrics(order, metric.protocol)["niou"] for order in orders}) == 1
    assert len({sum(row.intersection / row.union for row in order) for order in orders}) > 1


def test_batches_tensors_and_arrays_are_one():
    generator = np.random.default_rng(5)
    score = generator.random((4, 1, 24, 30)).astype(np.float32)
    mask = (generator.random((4, 1, 24, 30)) < 0.02).astype(np.float32)
    for protocol in PROTOCOLS:
        batch, single, flat = (build_metric(protocol) for _ in range(3))
        batch.update(torch.tensor(score, requires_grad=True), torch.tensor(mask))
        flat.update(score[:, 0], mask[:, 0] > 0)
        for image_score, image_mask in zip(score, mask, strict=True):
            single.update(image_score[0], torch.tensor(image_mask[0]))
        assert batch.rows == single.rows == flat.rows


def test_half_precision_is_measured_as_it_is():
    mask = torch.zeros(8, 8)
    mask[2:4, 2:4] = 1
    for dtype in (torch.float16, torch.bfloat16):
        metric = build_metric("standard")
        metric.update((mask * 0.75).to(dtype), mask)
        assert metric.compute()["iou"] == 1.0


def test_thousands_of_regions_and_targets_do_not_stall():
    """Every fourth pixel a target and a region: 4096 exact pairs, in groups of one each."""
    image = np.zeros((256, 256), np.float32)
    image[::4, ::4] = 1
    metric = build_metric("standard")
    metric.update(image, image)
    assert metric.compute()["pd"] == 1.0 and metric.compute()["fa"] == 0.0
    assert not math.isnan(metric.compute()["f1"])
