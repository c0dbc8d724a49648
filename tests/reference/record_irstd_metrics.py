"""Record what py_irstd_metrics (PyPI: pyirstdmetrics) measures on the scenes below, for tests/metrics/test_recorded.py,
and its hierarchical IoU of `hierarchy_cases`, for tests/metrics/test_hierarchical.py.

It pins numpy below 2, so it runs in an environment of its own, which needs nothing else:
    python -m venv /some/where && /some/where/bin/pip install pyirstdmetrics==1.0.2
    /some/where/bin/python tests/reference/record_irstd_metrics.py
"""

import json
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).with_name("recorded_irstd_metrics.json")
BINS = 20  # thresholds 0, 0.05, ..., 0.95
SIZE, IMAGES = 64, 12
MARGIN = 6  # px: DTUM's slices, which differ at the first rows and columns, stay inside

DRAWN = {  # t: pixels of targets, p: predicted ones, #: both
    "exact": "...... .##... .##... ......",
    "missed": "........... .##.....tt. .##.....tt. ...........",
    "false": "........... .##.....pp. .##.....pp. ...........",
    "merged": ".......... .##.##.... .##p##.... ..........",
    "split": ".......... .##t##p... .##t#.p... ..........",
    "swallowed": ".......... .##pp##... .##pp##... ..p.......",
    "near": "........ .t.p.... .t.p.... ........",
    "far": "............ .t...p...... .t...p...... ............",
    "half": "...... .#t... .#t... ......",  # an IoU of exactly 0.5
    "half of a long target": "................ .#######ttttttt. ................",  # centroids 3.5 px apart
    "less of a long target": "................ .######tttttttt. ................",
    "halves": "......... .#t#..... .#t#..... .........",
    "corner": "....... .tt#pp. .t#.... .......",
    "outlined badly": "........... ..ttttt.... ..t###pp... ..ttttp.... ...........",
    "two for three": "............ .##t##.tt.p. .##p##.#t.p. .tt....pp... ............",
    "empty prediction": "....... ..tt... ..tt...",
    "empty mask": "....... ..pp... ..pp...",
    "empty": "....... ....... .......",
    "all": "### ### ###",
}
RANDOM = 30  # images of overlapping rectangles, many of them close together


def hierarchy_cases():
    """Score float64 and bool mask by name."""
    for name, rows in DRAWN.items():
        drawn = np.array([list(row) for row in rows.split()])
        yield name, np.isin(drawn, ["p", "#"]).astype(float), np.isin(drawn, ["t", "#"])
    generator = np.random.default_rng(7)
    for number in range(RANDOM):
        maps = np.zeros((2, 24, 30), bool)
        for _ in range(generator.integers(1, 12)):
            place, size = generator.integers(0, 24, 2), generator.integers(1, 6, 2)
            for one in maps:
                if generator.random() < 0.8:
                    top, left = np.maximum(place + generator.integers(-2, 3, 2), 0)
                    one[top : top + size[0], left : left + size[1]] = True
                    size = np.maximum(size + generator.integers(-1, 2, 2), 1)
        yield f"random {number}", maps[0].astype(float), maps[1]


def scenes(crowded):
    """Score float64 and bool mask of each image; targets far apart, or so near that matching has a choice."""
    generator = np.random.default_rng(20 + crowded)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for _ in range(IMAGES):
        score, mask = generator.random((SIZE, SIZE)) ** 8 * 0.8, np.zeros((SIZE, SIZE), bool)
        places = generator.permutation(16)[:5]
        for place in places:
            centre = np.array(np.divmod(place, 4)) * 13 + MARGIN + generator.integers(0, 5, 2)
            for _ in range(3 if crowded else 1):
                row, column = np.clip(centre + generator.integers(-3, 4, 2) * crowded, MARGIN, SIZE - MARGIN)
                distance = (rows - row) ** 2 + (columns - column) ** 2
                mask |= distance <= generator.integers(0, 3 if crowded else 6)
                shift = generator.integers(-1, 2, 2)
                spot = np.exp(-((rows - row - shift[0]) ** 2 + (columns - column - shift[1]) ** 2) / 3)
                score = np.maximum(score, generator.uniform(0.3, 1) * spot)
        yield (np.floor(score * 1000) + 0.5) / 1000, mask  # rounded, and never on a threshold


def results(analyses):
    return {key: float(value[0]) for one in analyses for key, value in one.get().items()}


def record():
    import py_irstd_metrics as package

    metrics = {}
    for name, crowded in (("apart", 0), ("crowded", 1)):
        greedy = package.ProbabilityDetectionAndFalseAlarmRate(1)
        greedy_bins = package.ProbabilityDetectionAndFalseAlarmRate(BINS)
        optimal = package.MatchingBasedMetrics(BINS, matching_method=package.OPDCMatching(0.5, 3))
        distance_only = package.MatchingBasedMetrics(1, matching_method=package.DistanceOnlyMatching(3))
        shooting = package.ShootingRuleBasedProbabilityDetectionAndFalseAlarmRate(1)
        pixels = package.CMMetrics(BINS)
        for key, handler, options in (
            ("iou", package.IoUHandler, {"sample_based": False}),
            ("niou", package.IoUHandler, {"sample_based": True}),
            ("precision", package.PrecisionHandler, {"sample_based": False}),
            ("recall", package.RecallHandler, {"sample_based": False}),
            ("f1", package.FmeasureHandler, {"sample_based": False, "beta": 1}),
        ):
            pixels.add_handler(key, handler(with_dynamic=False, with_binary=True, **options))
        for score, mask in scenes(crowded):
            for metric in (greedy, greedy_bins, optimal, distance_only, shooting, pixels):
                metric.update(score, mask)
        metrics[name] = {
            "pixels": {key: float(value["binary"]) for key, value in pixels.get().items()},
            "greedy": {key: float(value[0]) for key, value in greedy.get().items()},
            "greedy_bins": {key: value.tolist() for key, value in greedy_bins.get().items()},
            "distance_only": {"matched": int(distance_only.tp_objs[0]), "false_area": int(distance_only.fp_area[0])},
            "optimal_bins": {"matched": optimal.tp_objs.tolist(), "false_area": optimal.fp_area.tolist()},
            "shooting": {key: float(value[0]) for key, value in shooting.get().items()},
        }
    totals = package.HierarchicalIoUBasedErrorAnalysis(1), package.MatchingBasedMetrics(1)
    metrics["hierarchy"] = {}
    for name, score, mask in hierarchy_cases():
        own = package.HierarchicalIoUBasedErrorAnalysis(1), package.MatchingBasedMetrics(1)
        for one in (*totals, *own):
            one.update(score, mask)
        metrics["hierarchy"][name] = results(own)
    metrics["hierarchy"]["all cases"] = results(totals)
    RECORDED.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
