"""Curves over the thresholds 0, 1/N, ..., 1: pixel precision-recall and ROC, target Pd over Fa (standard matching)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.metrics.accumulator import MetricAccumulator
from istd.utils.metrics.inputs import images
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.rules import ratio
from istd.utils.metrics.target_curve import target_curve

STEPS = 100  # N: the number of steps from threshold 0 to 1
CURVE_AREAS = ("ap", "auc")  # average precision and area under ROC, which belong to the standard protocol
MOST_STEPS = 10_000  # finer thresholds come too near to the spacing of float32


class Curves(NamedTuple):
    """Float64 arrays [N + 1], one value per threshold (map: score > threshold); NaN for 0 / 0.

    ap and auc are scikit-learn's average_precision_score and roc_auc_score of the pixels' levels, the numbers of
    thresholds below their scores; the lowest threshold of these includes all pixels.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    false_positive_rate: np.ndarray
    pd: np.ndarray
    fa: np.ndarray  # pixels of unmatched regions / all pixels
    ap: float
    auc: float


class CurveAccumulator:
    """Curves over any number of images; counts are integers, so that neither their order nor merging has an effect."""

    def __init__(self, steps: int = STEPS):
        if not 1 <= steps <= MOST_STEPS:
            raise InputError(f"curves of {steps} steps given; expected 1 to {MOST_STEPS}")
        self.steps = steps
        self.target_levels = np.zeros(steps + 2, np.int64)  # target pixels of each level
        self.other_levels = np.zeros(steps + 2, np.int64)
        self.matched = np.zeros(steps + 1, np.int64)
        self.matched_pixels = np.zeros(steps + 1, np.int64)
        self.targets = 0

    def update(self, score, mask, sequence=None, frame=None) -> None:
        """Add one image [H, W] or a batch [B, 1, H, W] of probabilities; arrays or tensors (see `images`)."""
        for image in images(score, mask, sequence, frame):
            levels = threshold_levels(image.score, self.steps)
            in_targets = np.bincount(levels[image.mask], minlength=self.steps + 2)
            self.target_levels += in_targets
            self.other_levels += np.bincount(levels.ravel(), minlength=self.steps + 2) - in_targets
            targets = find_regions(image.mask)
            matched, matched_pixels = target_curve(levels, targets, self.steps)
            self.matched += matched
            self.matched_pixels += matched_pixels
            self.targets += len(targets.areas)

    def merge(self, other: "CurveAccumulator") -> None:
        """Add the images of `other`, which must have the same number of steps."""
        if other.steps != self.steps:
            both = f"{self.steps} and {other.steps} steps"
            raise InputError(f"curves of {both} cannot be merged; use one number of steps")
        for name in ("target_levels", "other_levels", "matched", "matched_pixels", "targets"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def compute(self) -> Curves:
        """The curves over all images."""
        # [j]: pixels of level j and higher; [0]: all pixels; [k + 1]: the map at threshold k
        true_positives = np.cumsum(self.target_levels[::-1])[::-1]
        false_positives = np.cumsum(self.other_levels[::-1])[::-1]
        predicted = (true_positives + false_positives)[1:]
        return Curves(
            threshold=np.arange(self.steps + 1) / self.steps,
            precision=_ratios(true_positives[1:], predicted),
            recall=_ratios(true_positives[1:], true_positives[0]),
            false_positive_rate=_ratios(false_positives[1:], false_positives[0]),
            pd=_ratios(self.matched, self.targets),
            fa=_ratios(predicted - self.matched_pixels, true_positives[0] + false_positives[0]),
            ap=_average_precision(self.target_levels, true_positives, false_positives),
            auc=_area_under_roc(self.target_levels, self.other_levels),
        )


def merge_curves(curves: Iterable[CurveAccumulator]) -> CurveAccumulator:
    """The curves over all sequences."""
    total = CurveAccumulator()
    for one in curves:
        total.merge(one)
    return total


def collect_metrics(metric: MetricAccumulator, curves: Mapping[str | None, CurveAccumulator]) -> dict[str, Any]:
    """All metrics of one protocol: over the set, by target area and, if there are sequences, for each of them.

    `curves` by sequence: their areas are given with the standard protocol.
    """

    def areas(accumulator: CurveAccumulator) -> dict[str, float]:
        computed = accumulator.compute()
        return {name: getattr(computed, name) for name in CURVE_AREAS}

    standard = metric.protocol.name == "standard"
    result = metric.compute() | (areas(merge_curves(curves.values())) if standard else dict.fromkeys(CURVE_AREAS))
    result |= metric.counts() | {"by_area": metric.area_metrics()}
    if sequences := metric.sequence_metrics():
        result["sequence_mean"] = metric.sequence_mean()
        result["sequences"] = {name: one | (areas(curves[name]) if standard else {}) for name, one in sequences.items()}
    return result


def _average_precision(target_levels: np.ndarray, true_positives: np.ndarray, false_positives: np.ndarray) -> float:
    """Sum over levels of precision times the step of recall."""
    counts = zip(target_levels.tolist(), true_positives.tolist(), false_positives.tolist(), strict=True)
    steps = [gained * hits / (hits + misses) for gained, hits, misses in counts if gained]
    return ratio(math.fsum(steps), int(true_positives[0]))


def _area_under_roc(target_levels: np.ndarray, other_levels: np.ndarray) -> float:
    """The fraction of pairs (target pixel, other pixel) whose target has the higher level; ties count a half."""
    doubled, below = 0, 0
    for target, other in zip(target_levels.tolist(), other_levels.tolist(), strict=True):
        doubled += target * (2 * below + other)
        below += other
    return ratio(doubled, 2 * int(target_levels.sum()) * below)


def _ratios(numerators: np.ndarray, denominators) -> np.ndarray:
    denominators = np.broadcast_to(denominators, numerators.shape)
    result = np.full(numerators.shape, np.nan)
    return np.divide(numerators, denominators, out=result, where=denominators > 0)


def threshold_levels(score: np.ndarray, steps: int) -> np.ndarray:
    """How many thresholds lie below each score (0..1, [H, W]): `levels > k` equals `score > k / steps`, exactly.

    Returns uint8 or uint16 [H, W] with values 0..steps + 1.
    """
    # in the score map's own float type, as `score > k / steps` compares them
    thresholds = np.append(np.arange(steps + 1) / steps, np.inf).astype(score.dtype)
    # A score above the float nearest to k / steps is at least k / steps, so its product is k or more; a score not above
    # that float gives at most k. The integer part is therefore the level, or one less.
    levels = (score * score.dtype.type(steps)).astype(np.intp)
    levels += score > thresholds[levels]
    return levels.astype(np.uint8 if steps < 255 else np.uint16)
