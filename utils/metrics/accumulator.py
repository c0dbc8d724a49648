"""The accumulator of all protocols: integer counts per image, from which the metrics are computed."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.metrics.hierarchical import HIERARCHY, LOC_ERRORS, SEG_ERRORS, padded_hierarchical_iou, pair_regions
from istd.utils.metrics.inputs import images
from istd.utils.metrics.protocols import Protocol
from istd.utils.metrics.regions import ImagePair, find_regions
from istd.utils.metrics.rules import mean, ratio
from istd.utils.metrics.terms import PIXEL_SCORES, TARGET_SCORES, sum_terms

METRICS = ("iou", "niou", "pd", "fa", *PIXEL_SCORES, *TARGET_SCORES, "video_mean", *HIERARCHY)
LOWER_IS_BETTER = ("fa", *LOC_ERRORS, *SEG_ERRORS)
AREA_LIMITS = (9, 25, 81)  # px; the last class holds all larger targets
AREA_CLASSES = (*(f"<= {limit}" for limit in AREA_LIMITS), f"> {AREA_LIMITS[-1]}")


class ImageCounts(NamedTuple):
    """The counts of one image; all are integers, so that sums are exact."""

    sequence: str | None
    frame: str | None
    pixels: int
    intersection: int  # of the map for IoU and the mask, px
    union: int
    true_positives: int  # of the map for targets and the mask, px
    predicted: int
    positives: int
    targets: int
    matched: int
    false_pixels: int
    targets_by_area: tuple[int, ...]  # one number for each of AREA_CLASSES
    matched_by_area: tuple[int, ...]
    unmatched: tuple[int, ...] | None = None  # of `Pairing`; None if the protocol, or an older file, does not have it
    pairs: tuple[tuple[int, ...], ...] = ()
    regions: int | None = None  # predicted; None in older files


class MetricAccumulator:
    """Metrics of one protocol over any number of images.

    `update` adds images, `merge` adds another accumulator's images (accumulators can be pickled), `compute` returns the
    metrics, which do not depend on the order of the images. `rows` holds the counts of each image.
    """

    def __init__(self, protocol: Protocol, rows: Iterable[ImageCounts] = ()):
        self.protocol = protocol
        self.rows = list(rows)

    def update(self, score, mask, sequence=None, frame=None) -> None:
        """Add one image [H, W] or a batch [B, 1, H, W] of scores, at the size of the mask.

        score: probabilities, or logits where `protocol.scale` is "logit"; mask: target where > 0. Arrays or tensors.
        sequence, frame: names (lists of names for a batch). Raises `InputError` as `utils.metrics.inputs.images` does.
        """
        new = [count_image(image, self.protocol) for image in images(score, mask, sequence, frame, self.protocol.scale)]
        self.rows.extend(new)

    def merge(self, other: "MetricAccumulator") -> None:
        """Add the images of `other`, which must have the same protocol."""
        if other.protocol != self.protocol:
            names = f"{self.protocol.name} and {other.protocol.name}"
            raise InputError(f"metrics of protocols {names} cannot be merged; measure both sets with one protocol")
        self.rows.extend(other.rows)

    def compute(self) -> dict[str, float | None]:
        """The `METRICS` over all images as ratios (Fa, too): NaN for 0 / 0, None if the protocol lacks the metric."""
        return compute_metrics(self.rows, self.protocol)

    def counts(self) -> dict[str, int]:
        """Numbers of images, pixels, targets, matched targets and false-alarm pixels."""
        names = ("pixels", "targets", "matched", "false_pixels")
        return {"images": len(self.rows)} | {name: sum(getattr(row, name) for row in self.rows) for name in names}

    def image_metrics(self) -> list[dict]:
        """For each image, in the order of `update`: its names, its metrics and its counts of targets."""
        return [
            {"sequence": row.sequence, "frame": row.frame}
            | compute_metrics([row], self.protocol)
            | {"targets": row.targets, "matched": row.matched, "false_pixels": row.false_pixels}
            for row in self.rows
        ]

    def sequence_metrics(self) -> dict[str, dict[str, float | None]]:
        """The metrics over each named sequence, in the order of the sequences' first images."""
        return self.split(lambda row: row.sequence)

    def split(self, group: Callable[[ImageCounts], str | None]) -> dict[str, dict[str, float | None]]:
        """The metrics over each group of images, for instance by SNR; images whose group is None are left out."""
        return {name: compute_metrics(rows, self.protocol) for name, rows in group_rows(self.rows, group).items()}

    def area_metrics(self) -> dict[str, dict[str, float | int]]:
        """Targets, matched targets and Pd for each class of target area in px (in the mask)."""
        targets = map(sum, zip(*(row.targets_by_area for row in self.rows), strict=True))
        matched = map(sum, zip(*(row.matched_by_area for row in self.rows), strict=True))
        classes = zip(AREA_CLASSES, targets, matched, strict=False)  # empty without images
        return {name: {"targets": total, "matched": hit, "pd": ratio(hit, total)} for name, total, hit in classes}


def group_rows(rows, group: Callable) -> dict[str, list]:
    """The rows of each group, in the order of the groups' first rows; rows whose group is None are left out."""
    groups: dict[str, list] = {}
    for row in rows:
        if (name := group(row)) is not None:
            groups.setdefault(name, []).append(row)
    return groups


def mean_metrics(sets: Iterable[Mapping[str, float | None]], names: Iterable[str] = METRICS) -> dict[str, float | None]:
    """Mean of each metric over several sets of metrics, without NaN; None if the metric is not defined."""
    sets = list(sets)
    columns = {name: [metrics[name] for metrics in sets] for name in names}
    return {name: None if None in values else mean(values) for name, values in columns.items()}


def compute_metrics(rows: list[ImageCounts], protocol: Protocol) -> dict[str, float | None]:
    """The metrics of a protocol over images."""
    terms = sum_terms(rows, protocol)
    metrics = dict.fromkeys(METRICS) | {name: ratio(*term) for name, term in terms.items()}
    if protocol.hiou is padded_hierarchical_iou and rows and terms.get("seg_iou") == (0, 0):  # there are no pairs
        metrics |= dict.fromkeys(("seg_iou", *SEG_ERRORS), 0.0)  # as in the authors' package
    return metrics


def count_image(image, protocol: Protocol) -> ImageCounts:
    """Count an image by the rules of a protocol."""
    overlap_map = protocol.iou_map(image.score)
    same = protocol.target_map is protocol.iou_map
    binary = overlap_map if same else protocol.target_map(image.score)
    positives = int(np.count_nonzero(image.mask))
    intersection = int(np.count_nonzero(overlap_map & image.mask))
    targets = find_regions(image.mask)
    pair = ImagePair(binary, image.mask, targets)
    matching = protocol.matching(pair)
    pairing = pair_regions(pair) if protocol.hiou else None
    classes = np.searchsorted(AREA_LIMITS, targets.areas)
    return ImageCounts(
        image.sequence,
        image.frame,
        pixels=image.mask.size,
        intersection=intersection,
        union=int(np.count_nonzero(overlap_map)) + positives - intersection,
        true_positives=intersection if same else int(np.count_nonzero(binary & image.mask)),
        predicted=int(np.count_nonzero(binary)),
        positives=positives,
        targets=len(targets.areas),
        matched=int(np.count_nonzero(matching.hit)),
        false_pixels=protocol.false_pixels(pair, matching),
        targets_by_area=tuple(np.bincount(classes, minlength=len(AREA_CLASSES)).tolist()),
        matched_by_area=tuple(np.bincount(classes[matching.hit], minlength=len(AREA_CLASSES)).tolist()),
        unmatched=pairing and pairing.unmatched,
        pairs=pairing.pairs if pairing else (),
        regions=len(pair.regions.areas) if protocol.target_scores else None,
    )
