"""Hierarchical IoU (hIoU): how well targets are located times how well they are outlined, and what each error costs.

Source: Pang et al., "Rethinking Evaluation of Infrared Small Target Detection", NeurIPS 2025 (datasets and benchmarks),
as its package pyirstdmetrics 1.0.2 computes it. Targets and regions are paired by optimal-pair matching (OPDC):

* A target and a region may be paired if their IoU is at least 0.5 or their centroids are less than 3 px apart.
* First, all targets are assigned to all regions with the least total distance; the pairs of sufficient IoU are kept.
* Then, the remaining targets are assigned to the remaining regions likewise; the pairs that are close are kept.

Localisation counts the pairs, and the targets and regions without a partner. A target is missed if no region may be
paired with it, else merged (its region belongs to another target); a region is false if no target may be paired with
it, else split (its target belongs to another region). Segmentation: the means over pairs of the IoU, and of the shares
of the union that are missed target pixels, pixels of other targets, and background pixels.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy

from istd.utils.metrics.matching import MATCH_DISTANCE, Matching
from istd.utils.metrics.regions import ImagePair
from istd.utils.metrics.rules import Term

LOC_ERRORS = ("loc_missed", "loc_merged", "loc_split", "loc_false")
SEG_ERRORS = ("seg_missed", "seg_merged", "seg_false")
HIERARCHY = ("hiou", "loc_iou", *LOC_ERRORS, "seg_iou", *SEG_ERRORS)


class Pairing(NamedTuple):
    """Optimal-pair matching of one image.

    matched: bool [targets, regions]. unmatched: the numbers of missed and merged targets, and of split and false
    regions. pairs: for each pair, in the order of the targets, the common pixels, the target's missed pixels, and the
    region's pixels in other targets and in the background; these four numbers add up to the pair's union.
    """

    matched: np.ndarray
    unmatched: tuple[int, int, int, int]
    pairs: tuple[tuple[int, int, int, int], ...]


def pair_regions(pair: ImagePair) -> Pairing:
    """Pair the targets and the predicted regions of an image, and count its errors."""
    targets, regions = pair.targets, pair.regions
    down, right = (np.subtract.outer(*axis) for axis in zip(targets.centroids.T, regions.centroids.T, strict=True))
    distances = np.sqrt(down * down + right * right)
    common = np.zeros(distances.shape, np.int64)  # px
    inside = pair.binary.ravel()[targets.pixels]
    owners = regions.owners[np.searchsorted(regions.pixels, targets.pixels[inside])]
    np.add.at(common, (targets.owners[inside], owners), 1)
    overlapping = 3 * common >= np.add.outer(targets.areas, regions.areas)  # IoU >= 0.5, in integers
    near = distances < MATCH_DISTANCE

    matched = np.zeros(distances.shape, bool)
    if overlapping.any():
        matched[scipy.optimize.linear_sum_assignment(distances)] = True
        matched &= overlapping
    free = np.ix_(~matched.any(axis=1), ~matched.any(axis=0))
    if near[free].any():
        rows, columns = scipy.optimize.linear_sum_assignment(distances[free])
        rows, columns = free[0].ravel()[rows], free[1].ravel()[columns]
        matched[rows, columns] = near[rows, columns]

    row, column = np.nonzero(matched)
    possible = overlapping | near
    missed, false = (int(np.count_nonzero(~possible.any(axis=axis))) for axis in (1, 0))
    merged, split = len(targets.areas) - len(row) - missed, len(regions.areas) - len(row) - false
    shared = common[row, column]
    others = common[:, column].sum(axis=0) - shared
    parts = (shared, targets.areas[row] - shared, others, regions.areas[column] - shared - others)
    pairs = tuple(zip(*(part.tolist() for part in parts), strict=True))
    return Pairing(matched, (missed, merged, split, false), pairs)


def optimal_pairs(pair: ImagePair) -> Matching:
    """OPDC: least total distance, where IoU >= 0.5; then again for what remains, where centroids are < 3 px apart"""
    matched = pair_regions(pair).matched
    return Matching(matched.any(axis=1), np.nonzero(matched)[1])


def hierarchical_iou(rows) -> dict[str, Term]:
    """mean IoU of the pairs of OPDC, times pairs / (pairs + unmatched targets + unmatched regions)"""
    return _hierarchy(rows, (0, 0, 0, 0))


def padded_hierarchical_iou(rows) -> dict[str, Term]:
    """as in standard, but an image without targets (regions) counts one more unmatched target (region)"""
    no_targets, no_regions = (sum(not getattr(row, name) for row in rows) for name in ("positives", "predicted"))
    return _hierarchy(rows, (no_targets, 0, 0, no_regions))


def _hierarchy(rows, padding: tuple[int, int, int, int]) -> dict[str, Term]:
    """Numerators and denominators of the `HIERARCHY` over images; `padding` is added to the four unmatched counts.

    hIoU, localisation times segmentation, is (pairs / total) * (shares of IoU / pairs).
    """
    unmatched = [more + sum(row.unmatched[kind] for row in rows) for kind, more in enumerate(padding)]
    pairs = [(sum(pair), pair) for row in rows for pair in row.pairs]
    total = len(pairs) + sum(unmatched)
    shares = [math.fsum(pair[part] / area for area, pair in pairs) for part in range(1 + len(SEG_ERRORS))]
    located = [(count, total) for count in (len(pairs), *unmatched)]
    outlined = [(share, len(pairs)) for share in shares]
    return dict(zip(HIERARCHY, [(shares[0], total), *located, *outlined], strict=True))


def hierarchical_parts(metrics) -> dict[str, float]:
    """hIoU and what each error takes from it, which add up to 1: segmentation errors are weighted by loc_iou."""
    shares = {name: metrics["loc_iou"] * metrics[name] if metrics["loc_iou"] else 0.0 for name in SEG_ERRORS}
    return {"hiou": metrics["hiou"]} | shares | {name: metrics[name] for name in LOC_ERRORS}
