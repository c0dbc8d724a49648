"""Agreement with py_irstd_metrics, another group's implementation, from metrics that it was recorded with.

Where definitions agree: IoU, nIoU, precision, recall, F1; greedy matching with region Fa (our basicirstd); DTUM's rules
away from the first rows and columns (it cuts slices there) and with no score at 0.5 (it takes > for >=); and its
optimal matching (OPDC) where targets lie so far apart that matching has no choice. Where they are crowded OPDC puts
overlap before the number of pairs: then the standard matching, which puts pairs first, never finds fewer.
"""

import json

import numpy as np
import pytest

from istd.utils.metrics import build_metric
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.target_curve import target_curve
from tests.reference.record_irstd_metrics import BINS, RECORDED, scenes

FIGURES = json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["apart", "crowded"])
def measured(request):
    metrics = {name: build_metric(name) for name in ("standard", "basicirstd", "dtum")}
    counts = []  # of each image and threshold: matched targets, pixels of their regions, predicted pixels, targets
    thresholds = np.arange(BINS + 1) / BINS
    for score, mask in scenes(crowded=int(request.param == "crowded")):
        for metric in metrics.values():
            metric.update(score, mask)
        levels = np.searchsorted(thresholds.astype(score.dtype), score).astype(np.uint16)
        targets = find_regions(mask > 0)
        predicted = [np.count_nonzero(levels > k) for k in range(BINS + 1)]
        counts.append([*target_curve(levels, targets, BINS), predicted, [len(targets.areas)] * (BINS + 1)])
    return request.param, FIGURES[request.param], metrics, np.sum(counts, axis=0)[:, :BINS]


def test_pixel_metrics(measured):
    _, theirs, metrics, _ = measured
    ours = metrics["standard"].compute()
    assert {key: ours[key] for key in theirs["pixels"]} == pytest.approx(theirs["pixels"], rel=1e-12)


def test_greedy_matching_and_region_false_alarms(measured):
    _, theirs, metrics, _ = measured
    ours = metrics["basicirstd"]
    assert (ours.compute()["pd"], ours.compute()["fa"]) == tuple(
        theirs["greedy"][key] for key in ("probability_detection", "false_alarm")
    )
    assert (ours.counts()["matched"], ours.counts()["false_pixels"]) == tuple(theirs["distance_only"].values())


def test_shooting_rules(measured):
    _, theirs, metrics, _ = measured
    ours = metrics["dtum"].compute()
    assert [ours["pd"], ours["fa"]] == [theirs["shooting"][key] for key in ("probability_detection", "false_alarm")]


def test_optimal_matching_over_thresholds(measured):
    name, theirs, _, curves = measured
    matched = np.array(theirs["optimal_bins"]["matched"])
    ours, matched_pixels, predicted, targets = curves
    false_pixels = predicted - matched_pixels
    if name == "apart":
        assert np.array_equal(ours, matched)
        assert np.array_equal(false_pixels, theirs["optimal_bins"]["false_area"])
    else:
        assert (ours >= matched).all() and (ours > matched).any()
        greedy = np.rint(np.array(theirs["greedy_bins"]["probability_detection"]) * targets)
        assert (ours >= greedy).all()
