"""Curves over the thresholds 0, 1/N, ..., 1: pixel precision-recall and ROC, target Pd over Fa (standard matching)."""

import math
from typing import NamedTuple

import numpy as np

from utils.errors import InputError
from utils.metrics.inputs import images
from utils.metrics.regions import find_regions
from utils.metrics.rules import ratio
from utils.metrics.target_curve import target_curve

STEPS = 100  # N: the number of steps from threshold 0 to 1
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
            raise InputError(
                f"curves of {self.steps} and {other.steps} steps cannot be merged; use one number of steps"
            )
        self.target_levels += other.target_levels
        self.other_levels += other.other_levels
        self.matched += other.matched
        self.matched_pixels += other.matched_pixels
        self.targets += other.targets

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


def _average_precision(target_levels: np.ndarray, true_positives: np.ndarray, false_positives: np.ndarray) -> float:
    """Sum over levels of precision times the step of recall."""
    steps = [
        gained * hits / (hits + misses)
        for gained, hits, misses in zip(
            target_levels.tolist(), true_positives.tolist(), false_positives.tolist(), strict=True
        )
        if gained
    ]
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


def threshold_values(steps: int, dtype) -> np.ndarray:
    """The thresholds 0, 1/steps, ..., 1 in the score map's own float type, as `score > k / steps` compares them."""
    return (np.arange(steps + 1) / steps).astype(dtype)


def threshold_levels(score: np.ndarray, steps: int) -> np.ndarray:
    """How many thresholds lie below each score (0..1, [H, W]): `levels > k` equals `score > k / steps`, exactly.

    Returns uint8 or uint16 [H, W] with values 0..steps + 1.
    """
    thresholds = np.append(threshold_values(steps, score.dtype), score.dtype.type(np.inf))
    # A score above the float nearest to k / steps is at least k / steps, so its product is k or more; a score not above
    # that float gives at most k. The integer part is therefore the level, or one less.
    levels = (score * score.dtype.type(steps)).astype(np.intp)
    levels += score > thresholds[levels]
    return levels.astype(np.uint8 if steps < 255 else np.uint16)
