"""Curves over thresholds: pixel precision-recall and ROC with their areas, and Pd over Fa (standard matching).

Thresholds are spaced evenly in asinh(logit): 1/256 logit apart at probability 0.5 and 0.4 % of the logit far from it,
up to logits of +-1490, which tells the scores of a confident network apart, although most round to probability 1 in
float32. Logits are exact; float32 probabilities above 1 - 6e-8 (logit 16.6) share a level.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy

from istd.utils.errors import InputError
from istd.utils.metrics.areas import POOL, PooledLevels, curve_areas, pool_levels
from istd.utils.metrics.inputs import images
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.target_curve import target_curve

SPACING = 1 / 256  # of the thresholds, in asinh(logit)
LOGITS = np.sinh(np.arange(-2048, 2049) * SPACING)  # the thresholds, float64 [4097]
POOLED = 2 * -(-(len(LOGITS) + 1) // POOL)  # columns of `PooledLevels`
BORDERS = np.pad(LOGITS, 1, constant_values=np.nan)  # of level k: BORDERS[k] < logit <= BORDERS[k + 1]
MIDDLE = len(LOGITS) // 2  # the threshold of probability 0.5
MIN_MATCHED = MIDDLE - 896  # the lowest threshold at which targets are matched, logit -16.5; below it is only noise
STRIDE = 32  # targets are matched at every 32nd threshold: 1/8 logit apart at probability 0.5
CURVE_AREAS = ("ap", "auc")  # average precision and area under ROC, which belong to the standard protocol
MAX_VALUES = 3  # distinct scores to remember: more than two values rank the pixels


class PixelCurves(NamedTuple):
    """Float64 [4097], a value for each of `LOGITS` (pixels above it); NaN for 0 / 0."""

    precision: np.ndarray
    recall: np.ndarray
    false_positive_rate: np.ndarray


class Curves(NamedTuple):
    """Float64 arrays [N], a value for each threshold at which targets are matched (score > threshold); NaN for 0 / 0.

    ap and auc are scikit-learn's `average_precision_score` and `roc_auc_score` of the pixels, with less than 1e-3 of
    error from rounding the scores to 4098 levels (NUAA-SIRST, logits of DATransNet: 2e-4). They are NaN without target
    pixels or without others, and None where all scores have the same one or two values: such maps rank nothing.
    """

    logit: np.ndarray  # of the threshold
    threshold: np.ndarray  # the same as a probability
    precision: np.ndarray
    recall: np.ndarray
    false_positive_rate: np.ndarray
    pd: np.ndarray
    fa: np.ndarray  # pixels of unmatched regions / all pixels
    ap: float | None
    auc: float | None
    pixels: PixelCurves

    @property
    def middle(self) -> int:
        """The index of the threshold 0.5."""
        return int(np.searchsorted(self.logit, 0.0))


class CurveAccumulator:
    """Curves over any number of images; counts are integers, so that the order of images and merging has no effect.

    stride: targets are matched at every `stride`-th of `LOGITS`, from `MIN_MATCHED` on. Memory: 66 kB for any number of
    images, and about 1 kB for every image without a sequence: its `PooledLevels`, which a bootstrap resamples.
    """

    COUNTS = ("target_levels", "other_levels", "matched", "matched_pixels")

    def __init__(self, stride: int = STRIDE):
        if stride < 1 or (MIDDLE - MIN_MATCHED) % stride:
            raise InputError(f"curves with the stride {stride}; expected a divisor of {MIDDLE - MIN_MATCHED}")
        self.stride = stride
        self.target_levels = np.zeros(len(LOGITS) + 1, np.int64)  # target pixels of each level
        self.other_levels = np.zeros(len(LOGITS) + 1, np.int64)
        thresholds = len(matched_logits(stride))
        self.matched = np.zeros(thresholds, np.int64)
        self.matched_pixels = np.zeros(thresholds, np.int64)
        self.targets = 0
        self.values: set[float] = set()  # up to `MAX_VALUES` of the scores
        self.images: list[PooledLevels] = []  # of images without a sequence

    def update(self, score, mask, sequence=None, frame=None, scale: str = "probability") -> None:
        """Add an image [H, W] or a batch [B, 1, H, W] of probabilities, or of logits if `scale` is "logit".

        Arrays or tensors; raises `InputError` as `utils.metrics.inputs.images` does.
        """
        for image in images(score, mask, sequence, frame, scale):
            levels = logit_levels(image.score, scale)
            in_targets = np.bincount(levels[image.mask], minlength=len(self.target_levels))
            others = np.bincount(levels.ravel(), minlength=len(self.target_levels)) - in_targets
            self.target_levels += in_targets
            self.other_levels += others
            if image.sequence is None:
                self.images.append(pool_levels(image.frame, in_targets, others))
            targets = find_regions(image.mask)
            matched, matched_pixels = target_curve(matched_levels(levels, self.stride), targets, len(self.matched) - 1)
            self.matched += matched
            self.matched_pixels += matched_pixels
            self.targets += len(targets.areas)
            self._add_values(_sample_values(image.score))

    def merge(self, other: "CurveAccumulator") -> None:
        """Add the images of `other`, which must have the same stride."""
        if other.stride != self.stride:
            strides = f"{self.stride} and {other.stride}"
            raise InputError(f"curves with the strides {strides} cannot be merged; use the same for both")
        for name in (*self.COUNTS, "targets", "images"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._add_values(other.values)

    def counts(self) -> dict[str, Any]:
        """Everything but the stride as numbers and lists, for json; see `from_counts`."""
        lists = {name: getattr(self, name).tolist() for name in self.COUNTS}
        images = [[image.name, image.columns.tolist(), image.pixels.tolist()] for image in self.images]
        return lists | {"targets": self.targets, "values": sorted(self.values), "images": images}

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any], stride: int = STRIDE) -> "CurveAccumulator":
        """Rebuild an accumulator from its `counts`; raises `ValueError` if they were made with another stride.

        Older counts lack "images": they give the same curves, but no intervals of AP and AUC.
        """
        curves = cls(stride)
        for name in cls.COUNTS:
            values = np.array(counts[name], np.int64)
            if values.shape != getattr(curves, name).shape:
                raise ValueError(f"{name} has the shape {values.shape}")
            setattr(curves, name, values)
        curves.targets, curves.values = counts["targets"], set(counts["values"])
        for name, columns, pixels in counts.get("images", ()):
            curves.images.append(PooledLevels(name, np.array(columns, np.uint16), np.array(pixels, np.uint32)))
        return curves

    @property
    def ranks(self) -> bool:
        """Whether the scores rank pixels: False where all have the same one or two values."""
        return len(self.values) > 2 or not self.values

    def areas(self) -> dict[str, float]:
        """AP and AUC of all pixels, whether or not the scores rank them; equal scores are ties."""
        return dict(zip(CURVE_AREAS, map(float, curve_areas(self.target_levels, self.other_levels)), strict=True))

    def compute(self) -> Curves:
        """The curves over all images."""
        # [j]: pixels of level j and higher; [0]: all pixels; [k + 1]: those above threshold k
        true_positives = np.cumsum(self.target_levels[::-1])[::-1]
        false_positives = np.cumsum(self.other_levels[::-1])[::-1]
        predicted = (true_positives + false_positives)[1:]
        pixels = PixelCurves(
            precision=_ratios(true_positives[1:], predicted),
            recall=_ratios(true_positives[1:], true_positives[0]),
            false_positive_rate=_ratios(false_positives[1:], false_positives[0]),
        )
        chosen = slice(MIN_MATCHED, None, self.stride)
        areas = self.areas() if self.ranks else dict.fromkeys(CURVE_AREAS)
        return Curves(
            logit=LOGITS[chosen],
            threshold=scipy.special.expit(LOGITS[chosen]),
            precision=pixels.precision[chosen],
            recall=pixels.recall[chosen],
            false_positive_rate=pixels.false_positive_rate[chosen],
            pd=_ratios(self.matched, self.targets),
            fa=_ratios(predicted[chosen] - self.matched_pixels, true_positives[0] + false_positives[0]),
            **areas,
            pixels=pixels,
        )

    def _add_values(self, values: Iterable[float]) -> None:
        self.values = set(sorted(self.values.union(values))[:MAX_VALUES])


def matched_logits(stride: int = STRIDE) -> np.ndarray:
    """The thresholds at which targets are matched, in logits, float64 [N], with 0 among them."""
    return LOGITS[MIN_MATCHED::stride]


def logit_levels(score: np.ndarray, scale: str = "probability") -> np.ndarray:
    """How many of `LOGITS` lie below each score [H, W]: `levels > k` equals `logit > LOGITS[k]`. int64 [H, W]."""
    if scale == "probability":
        score = scipy.special.logit(score.astype(np.float64))
    with np.errstate(over="ignore"):
        steps = np.arcsinh(score.astype(np.float32)) / SPACING
    levels = np.clip(np.ceil(steps) + MIDDLE, 0, len(LOGITS)).astype(np.int64)
    # the rounded levels are at most one off; this takes a fifth of the time of a search among the thresholds, or less
    levels -= BORDERS[levels] >= score
    levels += BORDERS[levels + 1] < score
    return levels


def matched_levels(levels: np.ndarray, stride: int = STRIDE) -> np.ndarray:
    """How many of `matched_logits` lie below each score, from its `logit_levels`; uint8 or uint16 [H, W]."""
    thresholds = len(matched_logits(stride))
    table = np.clip(-(-(np.arange(len(LOGITS) + 1) - MIN_MATCHED) // stride), 0, thresholds)
    return table.astype(np.uint8 if thresholds < 255 else np.uint16)[levels]


def merge_curves(curves: Iterable[CurveAccumulator]) -> CurveAccumulator:
    """The curves over all sequences."""
    total = CurveAccumulator()
    for sequence_curves in curves:
        total.merge(sequence_curves)
    return total


def _sample_values(score: np.ndarray) -> set[float]:
    """Up to three distinct values of a map: its minimum, its maximum, and a value between them."""
    low, high = score.min(), score.max()
    between = score[(score > low) & (score < high)]
    return {float(np.nan_to_num(value)) for value in (low, high, *between[:1])}  # finite, for json


def _ratios(numerators: np.ndarray, denominators) -> np.ndarray:
    denominators = np.broadcast_to(denominators, numerators.shape)
    result = np.full(numerators.shape, np.nan)
    return np.divide(numerators, denominators, out=result, where=denominators > 0)
