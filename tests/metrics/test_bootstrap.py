"""Bootstrap intervals equal those of a plain loop that measures every resample anew."""

import math

import numpy as np
import pytest

from istd.utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from istd.utils.metrics.accumulator import compute_metrics
from istd.utils.metrics.bootstrap import bootstrap_intervals, unit_terms
from istd.utils.metrics.tables import interval_table


def random_metric(protocol, sequences=False):
    random = np.random.default_rng(3)
    metric = build_metric(protocol)
    for index in range(12):
        mask = np.zeros((24, 24), bool)
        for _ in range(index % 3):
            y, x = random.integers(2, 20, 2)
            mask[y : y + 3, x : x + 2] = True
        hit = mask & (random.random(mask.shape) < 0.8) & (index % 4 > 0)
        score = np.where(hit | (random.random(mask.shape) < 0.004), 0.9, 0.1).astype(np.float32)
        metric.update(score, mask, f"s{index // 3}" if sequences else None, str(index))
    return metric


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("sequences", [False, True])
def test_terms_add_up_to_the_metrics(protocol, sequences):
    """With every image drawn once, the ratios of sums are the metrics of the protocol."""
    metric = random_metric(protocol, sequences)
    names = sorted({row.sequence for row in metric.rows}, key=str)
    units = [[row for row in metric.rows if row.sequence == name] for name in names]
    terms = [unit_terms(rows, metric.protocol) for rows in units]
    expected = {name: value for name, value in metric.compute().items() if value is not None}
    assert terms[0].keys() == expected.keys()
    for name, value in expected.items():
        numerator, denominator = map(sum, zip(*(unit[name] for unit in terms), strict=True))
        assert numerator / denominator == pytest.approx(value, abs=1e-12), name


def test_intervals_are_those_of_a_plain_loop():
    metric = random_metric("standard")
    result = bootstrap_intervals(metric, resamples=150, seed=5)
    assert (result["unit"], result["units"]) == ("images", 12)
    random, values = np.random.default_rng(5), []
    for size in (100, 50):  # the same draws
        for drawn in random.multinomial(12, np.full(12, 1 / 12), size=size):
            rows = [row for row, count in zip(metric.rows, drawn, strict=True) for _ in range(count)]
            values.append(compute_metrics(rows, metric.protocol))
    for name, (low, high) in result["metrics"].items():
        column = [value[name] for value in values if not math.isnan(value[name])]
        assert [low, high] == pytest.approx(np.quantile(column, [0.025, 0.975]).tolist()), name
    assert result["metrics"]["pd"][0] < metric.compute()["pd"] < result["metrics"]["pd"][1]


def test_sequences_are_drawn_as_a_whole():
    metric = random_metric("sgmp-2026", sequences=True)
    result = bootstrap_intervals(metric, resamples=50)
    assert (result["unit"], result["units"]) == ("sequences", 4)
    copies = [row._replace(sequence=f"s{copy}") for copy in "abc" for row in metric.rows]
    equal = MetricAccumulator(metric.protocol, copies)
    intervals = bootstrap_intervals(equal, resamples=50)["metrics"]
    for name, (low, high) in intervals.items():
        assert high - low == pytest.approx(0, abs=1e-12), f"{name}: sequences that are alike leave nothing to chance"


def test_one_unit_has_no_interval():
    metric = random_metric("standard")
    single = MetricAccumulator(metric.protocol, metric.rows[:1])
    assert bootstrap_intervals(single)["metrics"] == {}


def test_intervals_are_printed_in_the_units_of_the_metrics():
    sets = {
        "standard": {"intervals": {"metrics": {"pd": [0.9, 0.95], "fa": [1e-6, 2.5e-6]}}},
        "dtum": {"intervals": {"metrics": {"pd": [0.5, 1.0]}}},
        "one image": {"intervals": {"metrics": {}}},
        "older": {},
    }
    lines = interval_table(sets, "protocol").splitlines()
    assert [line.split() for line in lines] == [
        ["protocol", "Pd", "%", "Fa", "x1e-6"],
        ["standard", "90.00-95.00", "1.00-2.50"],
        ["dtum", "50.00-100.00", "-"],
    ]
    assert interval_table({"older": {}}, "protocol") == ""
