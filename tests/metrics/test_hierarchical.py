"""Hierarchical IoU: agreement with what pyirstdmetrics 1.0.2 was recorded with, and images measured by hand."""

import json
import math

import numpy as np
import pytest

from istd.utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from istd.utils.metrics.hierarchical import HIERARCHY, hierarchical_parts
from istd.utils.metrics.tables import error_table
from tests.reference.record_irstd_metrics import RECORDED, hierarchy_cases

THEIRS = json.loads(RECORDED.read_text(encoding="utf-8"))["hierarchy"]
NAMES = {  # theirs -> ours
    "hiou": "hiou",
    "loc_iou": "loc_iou",
    "loc_pcp_err": "loc_missed",
    "loc_s2m_err": "loc_merged",
    "loc_m2s_err": "loc_split",
    "loc_itf_err": "loc_false",
    "seg_iou": "seg_iou",
    "seg_pcp_err": "seg_missed",
    "seg_mrg_err": "seg_merged",
    "seg_itf_err": "seg_false",
    "probability_detection": "pd",
}
CASES = {name: (score, mask) for name, score, mask in hierarchy_cases()}


def measured(protocol, *cases):
    metric = build_metric(protocol)
    for number, (score, mask) in enumerate(cases):
        metric.update(score, mask, frame=str(number))
    return metric


def test_every_case_agrees_with_the_package():
    assert CASES.keys() | {"all cases"} == THEIRS.keys()
    for name, theirs in THEIRS.items():
        ours = measured("pyirstdmetrics", *(CASES.values() if name == "all cases" else [CASES[name]])).compute()
        expected = {our: theirs[their] for their, our in NAMES.items()} | {"fa": theirs["false_alarm"]}
        assert {our: ours[our] for our in expected} == pytest.approx(expected, rel=1e-12, abs=1e-15), name


def test_standard_agrees_wherever_there_are_targets_and_regions():
    for name, (score, mask) in CASES.items():
        ours, padded = (measured(protocol, (score, mask)).compute() for protocol in ("standard", "pyirstdmetrics"))
        if mask.any() and (score > 0.5).any():
            for key in HIERARCHY:
                undefined = key.startswith("seg") and not ours["loc_iou"]  # there the package has 0
                assert math.isnan(ours[key]) if undefined else ours[key] == padded[key], (name, key)


def drawn(text):
    picture = np.array([list(row) for row in text.split()])
    return np.isin(picture, ["p", "#"]).astype(float), np.isin(picture, ["t", "#"])


def test_errors_by_hand():
    """Five targets and five regions: one is outlined badly, one split, one merged, one missed; and a false alarm.

    Pairs: the first target (6 px) with a region of 8 px, 4 common; the second (10 px) with half of a region (4 px);
    the third (4 px) with a region of 10 px that also covers the fourth (4 px).
    """
    score, mask = drawn("""
        ...............
        .tt............
        .##pp..##t##...
        .##pp..##t##...
        ...............
        ...............
        .##p##.....tt..
        .##p##.....tt..
        ...............
        ........p......
    """)
    metric = measured("standard", (score, mask))
    assert metric.rows[0].unmatched == (1, 1, 1, 1)
    assert metric.rows[0].pairs == ((4, 2, 0, 4), (4, 6, 0, 0), (4, 0, 4, 2))
    metrics = metric.compute()
    assert metrics["loc_iou"] == 3 / 7
    assert [metrics[f"loc_{name}"] for name in ("missed", "merged", "split", "false")] == [1 / 7] * 4
    assert [metrics[f"seg_{name}"] for name in ("iou", "missed", "merged", "false")] == [
        pytest.approx(share / 3) for share in (0.4 + 0.4 + 0.4, 0.2 + 0.6, 0.4, 0.4 + 0.2)
    ]
    assert metrics["hiou"] == pytest.approx(3 / 7 * 0.4)
    parts = hierarchical_parts(metrics)
    assert sum(parts.values()) == pytest.approx(1) and parts["seg_merged"] == pytest.approx(3 / 7 * 0.4 / 3)
    assert error_table({"set": metrics}).splitlines()[1].split() == [
        "set", "17.14", "11.43", "5.71", "8.57", "14.29", "14.29", "14.29", "14.29",
    ]  # fmt: skip


def test_images_without_targets_or_regions_have_no_invented_errors():
    """The package counts a missed target and a false region where both are absent; `standard` does not."""
    blank, target = np.zeros((8, 8)), np.pad(np.ones((2, 2)), 3)
    assert math.isnan(measured("standard", (blank, blank)).compute()["hiou"])
    assert measured("standard", (target, target), (blank, blank)).compute()["hiou"] == 1
    assert measured("pyirstdmetrics", (target, target), (blank, blank)).compute()["hiou"] == 1 / 3
    missed = measured("standard", (blank, target)).compute()
    assert missed["hiou"] == 0 and missed["loc_missed"] == 1 and math.isnan(missed["seg_iou"])
    assert list(hierarchical_parts(missed).values()) == [0, 0, 0, 0, 1, 0, 0, 0]
    assert measured("standard", (target, blank)).compute()["loc_false"] == 1


@pytest.mark.parametrize("protocol", ["standard", "pyirstdmetrics"])
def test_counts_of_older_files_have_no_hierarchy(protocol):
    metric = measured(protocol, *list(CASES.values())[:3])
    older = MetricAccumulator(PROTOCOLS[protocol], [row._replace(unmatched=None, pairs=()) for row in metric.rows])
    assert older.compute() == metric.compute() | dict.fromkeys(HIERARCHY)
    older.merge(metric)
    assert older.compute()["hiou"] is None and older.compute()["pd"] == metric.compute()["pd"]
