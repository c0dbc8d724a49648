"""Bootstrap intervals equal those of a plain loop that measures every resample anew."""

import json
import math
import random
from itertools import chain

import numpy as np
import pytest
from scipy.special import expit

from istd.utils.metrics import PROTOCOLS, MetricAccumulator, build_metric
from istd.utils.metrics.accumulator import compute_metrics
from istd.utils.metrics.areas import curve_areas
from istd.utils.metrics.bootstrap import CHUNK, MIN_UNITS, bootstrap_intervals, unit_levels
from istd.utils.metrics.curves import CurveAccumulator
from istd.utils.metrics.summary import collect_metrics
from istd.utils.metrics.tables import interval_table
from istd.utils.metrics.terms import sum_terms
from tests.reference import plain_metrics

POOLING_ERROR = 2e-3  # of AP and AUC, at most


def random_metric(protocol, images=12, images_per_sequence=None):
    random = np.random.default_rng(3)
    metric = build_metric(protocol)
    for index in range(images):
        mask = np.zeros((24, 24), bool)
        for _ in range(index % 3):
            y, x = random.integers(2, 20, 2)
            mask[y : y + 3, x : x + 2] = True
        hit = mask & (random.random(mask.shape) < 0.8) & (index % 4 > 0)
        score = np.where(hit | (random.random(mask.shape) < 0.004), 0.9, 0.1).astype(np.float32)
        metric.update(score, mask, images_per_sequence and f"s{index // images_per_sequence}", str(index))
    return metric


def random_images(count, images_per_sequence=None):
    """(logits, mask, sequence, name): scores like a trained network's, with targets in every second image."""
    random = np.random.default_rng(7)
    images = []
    for index in range(count):
        mask = (random.random((40, 50)) < 0.01) & (index % 2 == 0)
        strength = random.uniform(-5, 30)
        logits = np.where(mask, random.normal(strength, 15, mask.shape), random.normal(-14, 6, mask.shape))
        images.append((logits, mask, images_per_sequence and f"s{index // images_per_sequence}", f"{index:02d}"))
    return images


def measured(images):
    """The metrics by the standard protocol and the curves by sequence."""
    metric, curves = build_metric("standard"), {}
    for logits, mask, sequence, name in images:
        metric.update(expit(logits), mask, sequence, name)
        curves.setdefault(sequence, CurveAccumulator()).update(logits, mask, sequence, name, scale="logit")
    return metric, curves


def draws(units, resamples, seed):
    """The multiplicities that `bootstrap_intervals` draws."""
    generator, shares = np.random.default_rng(seed), np.full(units, 1 / units)
    sizes = [CHUNK] * (resamples // CHUNK) + [resamples % CHUNK]
    return np.concatenate([generator.multinomial(units, shares, size=size) for size in sizes])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("images_per_sequence", [None, 3])
def test_terms_add_up_to_the_metrics(protocol, images_per_sequence):
    """With every image drawn once, the ratios of sums are the metrics of the protocol."""
    metric = random_metric(protocol, 12, images_per_sequence)
    names = sorted({row.sequence for row in metric.rows}, key=str)
    units = [[row for row in metric.rows if row.sequence == name] for name in names]
    terms = [sum_terms(rows, metric.protocol) for rows in units]
    expected = {name: value for name, value in metric.compute().items() if value is not None}
    assert terms[0].keys() == expected.keys()
    for name, value in expected.items():
        numerator, denominator = map(sum, zip(*(unit[name] for unit in terms), strict=True))
        assert numerator / denominator == pytest.approx(value, abs=1e-12), name


def test_intervals_are_those_of_a_plain_loop():
    metric = random_metric("standard")
    result = bootstrap_intervals(metric, resamples=150, seed=5)
    assert (result["unit"], result["units"]) == ("images", 12)
    ordered, values = sorted(metric.rows, key=lambda row: row.frame), []
    for drawn in draws(12, 150, 5):
        rows = [row for row, count in zip(ordered, drawn, strict=True) for _ in range(count)]
        values.append(compute_metrics(rows, metric.protocol))
    for name, (low, high) in result["metrics"].items():
        column = [value[name] for value in values if not math.isnan(value[name])]
        assert [low, high] == pytest.approx(np.quantile(column, [0.025, 0.975]).tolist()), name
    assert result["metrics"]["pd"][0] < metric.compute()["pd"] < result["metrics"]["pd"][1]


@pytest.mark.parametrize("images_per_sequence", [None, 2])
def test_areas_are_those_of_the_pixels_of_every_resample(images_per_sequence):
    images = random_images(24, images_per_sequence)
    metric, curves = measured(images)
    result = bootstrap_intervals(metric, curves, resamples=30, seed=5)
    units = {}
    for logits, mask, sequence, name in images:
        units.setdefault(sequence or name, []).append((logits, mask))
    assert (result["unit"], result["units"]) == ("sequences" if images_per_sequence else "images", len(units))
    plain = []
    for drawn in draws(len(units), 30, 5):
        members = [units[name] * count for name, count in zip(sorted(units), drawn, strict=True)]
        scores, masks = map(np.concatenate, zip(*chain.from_iterable(members), strict=True))
        plain.append((plain_metrics.average_precision(scores, masks), plain_metrics.area_under_roc(scores, masks)))
    for name, column in zip(("ap", "auc"), zip(*plain, strict=True), strict=True):
        low, high = np.quantile(column, [0.025, 0.975])
        assert result["metrics"][name] == pytest.approx([low, high], abs=POOLING_ERROR), name
        assert high - low > 20 * POOLING_ERROR  # so that the tolerance is small


def test_pooled_levels_have_the_areas_of_the_scores():
    """Those of all images; an image without targets has none."""
    images = random_images(10)
    counts = unit_levels(measured(images)[1]).toarray()
    scores, masks = (np.concatenate([image[part].ravel() for image in images]) for part in (0, 1))
    ap, auc = curve_areas(*np.split(counts.sum(axis=0), 2))
    assert ap == pytest.approx(plain_metrics.average_precision(scores, masks), abs=POOLING_ERROR)
    assert auc == pytest.approx(plain_metrics.area_under_roc(scores, masks), abs=POOLING_ERROR)
    ap, auc = curve_areas(*np.split(counts, 2, axis=1))
    assert np.isnan(ap).tolist() == np.isnan(auc).tolist() == [not mask.any() for _, mask, *_ in images]


@pytest.mark.parametrize("images_per_sequence", [None, 2])
def test_order_and_merging_have_no_effect(images_per_sequence):
    images = random_images(24, images_per_sequence)
    metric, curves = measured(images)
    shuffled = random.Random(1).sample(images, len(images))
    (first, first_curves), (second, second_curves) = measured(shuffled[:9]), measured(shuffled[9:])
    second.merge(first)
    for sequence, accumulator in first_curves.items():
        saved = CurveAccumulator.from_counts(json.loads(json.dumps(accumulator.counts())))
        second_curves.setdefault(sequence, CurveAccumulator()).merge(saved)
    expected = bootstrap_intervals(metric, curves, resamples=40)
    assert bootstrap_intervals(second, second_curves, resamples=40) == expected
    assert {"ap", "auc", "niou"} < expected["metrics"].keys()


def test_the_mean_of_sequences_has_ap_and_auc():
    metric, curves = measured(random_images(8, 2))
    collected = collect_metrics(metric, curves)
    for name in ("pd", "ap", "auc"):
        values = [metrics[name] for metrics in collected["sequences"].values()]
        assert len(set(values)) == 4 and collected["sequence_mean"][name] == pytest.approx(np.mean(values))


def test_sequences_of_constant_scores_count_in_the_mean_of_sequences():
    """All pixels of b are ties: its AP is the share of target pixels. c has no targets."""
    metric, curves = build_metric("standard"), {}
    mask = np.array([[1, 0, 0, 0], [1, 0, 0, 0]])
    for name, score, truth in (("a", mask * 0.6 + 0.1, mask), ("b", mask * 0.0, mask), ("c", mask * 0.0, mask * 0)):
        metric.update(score, truth, name, "0")
        curves[name] = CurveAccumulator()
        curves[name].update(score, truth, name, "0")
    collected = collect_metrics(metric, curves)
    values = {name: (metrics["ap"], metrics["auc"]) for name, metrics in collected["sequences"].items()}
    assert (values["a"], values["b"]) == ((1, 1), (2 / 8, 1 / 2)) and np.isnan(values["c"]).all()
    assert (collected["sequence_mean"]["ap"], collected["sequence_mean"]["auc"]) == (1.25 / 2, 1.5 / 2)


def test_sequences_are_drawn_as_a_whole():
    metric = random_metric("sgmp-2026", 12, 3)
    copies = [row._replace(sequence=f"s{copy}") for copy in range(MIN_UNITS) for row in metric.rows]
    equal = MetricAccumulator(metric.protocol, copies)
    result = bootstrap_intervals(equal, resamples=50)
    assert (result["unit"], result["units"]) == ("sequences", MIN_UNITS)
    assert result["metrics"] == {}, "sequences that are alike leave nothing to chance"
    equal.rows[0] = equal.rows[0]._replace(intersection=45, union=90)
    assert bootstrap_intervals(equal, resamples=50)["metrics"].keys() == {"iou", "niou", "video_mean"}


def test_single_images_beside_sequences_are_units():
    metric, curves = measured([*random_images(8, 2), *random_images(6)])
    result = bootstrap_intervals(metric, curves, resamples=20)
    assert (result["unit"], result["units"]) == ("sequences and images", 4 + 6)
    assert {"ap", "pd"} < result["metrics"].keys()


@pytest.mark.parametrize(("videos", "single"), [(12, 0), (0, 12), (12, 12)])
def test_a_mean_over_videos_has_no_interval_where_images_are_a_video_together(videos, single):
    """As units, the dim images would count 12 times in the mean, in which they are one video of 13."""
    row = random_metric("sgmp-2026", 1).rows[0]
    rows = [row._replace(sequence=f"s{n}", intersection=60 + n, union=80) for n in range(videos)]
    rows += [row._replace(frame=str(n), intersection=40 + n, union=80) for n in range(single)]
    metric = MetricAccumulator(PROTOCOLS["sgmp-2026"], rows)
    intervals = bootstrap_intervals(metric, resamples=20)["metrics"]
    assert "iou" in intervals and ("video_mean" in intervals) == (not videos or not single)
    if "video_mean" in intervals:
        low, high = intervals["video_mean"]
        assert low < metric.compute()["video_mean"] < high


def test_areas_without_counts_of_images_have_no_intervals():
    """Results of older versions, maps of two values, and protocols without AP."""
    images = random_images(12)
    metric, curves = measured(images)
    older = {name: value for name, value in curves[None].counts().items() if name != "images"}
    for kept in ({None: CurveAccumulator.from_counts(older)}, {None: CurveAccumulator()}, {}):
        names = bootstrap_intervals(metric, kept, resamples=20)["metrics"].keys()
        assert "pd" in names and not names & {"ap", "auc"}
    binary = [(np.where(logits > 0, 5.0, -5.0), *rest) for logits, *rest in images]
    metric, curves = measured(binary)
    collected = collect_metrics(metric, curves)
    assert collected["ap"] is None and "ap" not in collected["intervals"]["metrics"]
    other = MetricAccumulator(PROTOCOLS["basicirstd"], metric.rows)
    assert "ap" not in collect_metrics(other, curves)["intervals"]["metrics"]


def test_few_units_have_no_interval():
    metric = random_metric("standard", MIN_UNITS)
    few = MetricAccumulator(metric.protocol, metric.rows[1:])
    assert bootstrap_intervals(few)["metrics"] == {} != bootstrap_intervals(metric, resamples=20)["metrics"]
    line = "no 95 % intervals: resampling needs at least 10 images, and this set has 9"
    assert interval_table({"standard": {"intervals": bootstrap_intervals(few)}}) == line


def test_intervals_are_printed_in_the_units_of_the_metrics():
    def intervals(metrics):
        return {"intervals": {"unit": "images", "units": 214, "coverage": 0.95, "metrics": metrics}}

    sets = {
        "standard": intervals({"pd": [0.9, 0.95], "fa": [1e-6, 2.5e-6], "ap": [0.5, 0.625]}),
        "dtum": intervals({"pd": [0.5, 1.0]}),
        "all alike": intervals({}),
    }
    assert interval_table({"all alike": sets["all alike"]}) == "no 95 % intervals: all resamples of images agree"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in interval_table(sets).splitlines()]
    assert cells == [
        ["95 % intervals over 214 images", "Pd %", "Fa x1e-6", "pixel AP %"],
        ["standard", "90.00-95.00", "1.00-2.50", "50.00-62.50"],
        ["dtum", "50.00-100.00", "-", "-"],
        ["all alike", "-", "-", "-"],
    ]
