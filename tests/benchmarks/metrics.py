"""How long the metrics take: python -m tests.benchmarks.metrics (one core, about a minute).

Times are processor time: the minimum of several runs, or for the plain form that of a single run. The plain form
(tests/reference/plain_metrics.py) thresholds the map, labels it and measures its regions at each threshold; its
results must equal the fast results.
"""

import time

import cv2
import numpy as np
from scipy.special import logit

from istd.utils.metrics import PROTOCOLS, build_metric
from istd.utils.metrics.curves import MIN_MATCHED, STRIDE, CurveAccumulator, matched_logits
from istd.utils.metrics.hierarchical import pair_regions
from istd.utils.metrics.regions import ImagePair, find_regions
from istd.utils.metrics.tables import text_table
from tests.reference import plain_metrics

RUNS = 7
TARGETS = 4


def scene(size, blur, power, level=1.0, seed=0):
    """Clutter (noise blurred by `blur` px, in 0..level, to a power) with Gaussian targets: float32 score, bool mask."""
    generator = np.random.default_rng(seed)
    noise = generator.random((size, size), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
    score = level * ((noise - noise.min()) / (noise.max() - noise.min())) ** power
    mask = np.zeros((size, size), bool)
    rows, columns = np.mgrid[:size, :size]
    for row, column in generator.uniform(8, size - 8, (TARGETS, 2)):
        spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4.5)
        score, mask = np.maximum(score, 0.9 * spot), mask | (spot > 0.4)
    return score.astype(np.float32), mask


def min_ms(function, runs=RUNS):
    times = []
    for _ in range(runs):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def fast_curves(score, mask):
    curves = CurveAccumulator()
    curves.update(score, mask)
    return curves


def compare(score, mask):
    """Milliseconds of the fast and of the plain form, whose results must be equal."""
    ours = fast_curves(score, mask)
    start = time.process_time()
    with np.errstate(divide="ignore"):
        hits, misses, matched, false_pixels = plain_metrics.curves(logit(score), mask, matched_logits())
    plain = (time.process_time() - start) * 1e3
    predicted = np.cumsum((ours.target_levels + ours.other_levels)[::-1])[::-1][1:][MIN_MATCHED::STRIDE]
    assert np.array_equal(hits + misses, predicted) and np.array_equal(matched, ours.matched)
    assert np.array_equal(false_pixels, predicted - ours.matched_pixels)
    return min_ms(lambda: fast_curves(score, mask)), plain


def max_regions(score):
    return max(len(find_regions(score > k / 20).areas) for k in range(20))


def curves_table():
    rows = [["curves, 256 x 256", "regions at most", "fast ms", "plain ms", "times"]]
    maps = {
        "trained: targets on a dark frame": scene(256, 2, 1, 0.009),
        "sparse clutter": scene(256, 2, 4),
        "clutter": scene(256, 1, 4),
        "clutter, mid-grey": scene(256, 1, 1, 0.5),
        "dense clutter": scene(256, 1, 2),
        "white noise (untrained)": scene(256, 0, 1),
    }
    for name, (score, mask) in maps.items():
        fast, plain = compare(score, mask)
        rows.append([name, str(max_regions(score)), f"{fast:.1f}", f"{plain:.0f}", f"{plain / fast:.0f}"])
    return rows


def frame_table():
    rows = [["one threshold, 256 x 256", "clutter ms", "white noise ms"]]
    maps = [scene(256, 1, 4), scene(256, 0, 1)]
    for name in PROTOCOLS:
        times = [min_ms(lambda pair=pair, name=name: build_metric(name).update(*pair), runs=20) for pair in maps]
        rows.append([name, *(f"{time:.2f}" for time in times)])
    pairs = [ImagePair(score > 0.5, mask, find_regions(mask)) for score, mask in maps]
    for pair in pairs:
        assert len(pair.regions.areas)  # labelled beforehand, as the protocol does for Pd
    rows.append(["hIoU, of standard", *(f"{min_ms(lambda pair=pair: pair_regions(pair), 20):.2f}" for pair in pairs)])
    return rows


def main():
    cv2.setNumThreads(1)
    for table in (curves_table, frame_table):
        print(text_table(table()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
