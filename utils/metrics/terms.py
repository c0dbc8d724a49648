"""The metrics of a protocol as ratios of sums over images: what each image adds to numerator and denominator."""

import math
from collections.abc import Callable, Iterable, Sequence

from istd.utils.metrics.protocols import Protocol
from istd.utils.metrics.rules import Term, image_iou, mean

PIXEL_SCORES: dict[str, Callable] = {
    "precision": lambda row: (row.true_positives, row.predicted),
    "recall": lambda row: (row.true_positives, row.positives),
    "f1": lambda row: (2 * row.true_positives, row.predicted + row.positives),
}
TARGET_SCORES: dict[str, Callable] = {
    "target_precision": lambda row: (row.matched, row.regions),
    "target_recall": lambda row: (row.matched, row.targets),
    "target_f1": lambda row: (2 * row.matched, row.regions + row.targets),
}


def sum_terms(rows: Sequence, protocol: Protocol) -> dict[str, Term]:
    """The terms of every metric that the protocol defines, summed over the `ImageCounts` of images.

    Terms that older files lack are left out. Sums are rounded once, so that the order of the images has no effect.
    """
    rules = {"iou": protocol.iou, "niou": protocol.niou, "pd": protocol.pd}
    rules = {name: rule for name, rule in rules.items() if rule}
    rules["fa"] = lambda row: (row.false_pixels, row.pixels)
    if protocol.pixel_scores:
        rules |= PIXEL_SCORES
    if protocol.target_scores and all(row.regions is not None for row in rows):
        rules |= TARGET_SCORES
    terms = {name: _sum(map(rule, rows)) for name, rule in rules.items()}
    if protocol.video_mean:
        videos: dict[str, list[float]] = {}
        for row in rows:  # images without a sequence form one video
            videos.setdefault(row.sequence or "", []).append(image_iou(row, empty=1.0))
        terms["video_mean"] = _sum((mean(ious), 1) for ious in videos.values())
    if protocol.hiou and all(row.unmatched is not None for row in rows):
        terms |= protocol.hiou(rows)
    return terms


def _sum(terms: Iterable[Term]) -> Term:
    terms = list(terms)
    return math.fsum([numerator for numerator, _ in terms]), math.fsum([denominator for _, denominator in terms])
