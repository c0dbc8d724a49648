"""Plain forms of the metrics, as the definitions read, slow and obvious: what the fast ones must equal."""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage.measure import label, regionprops

BOXES = {"hit": 1, "free": 4}  # px, DTUM's slices


def regions_of(binary):
    return regionprops(label(binary, connectivity=2))


def close_pairs(targets, regions):
    """For each target its regions nearer than 3 px: a list of (region, distance)."""
    distances = [[(i, math.dist(t.centroid, r.centroid)) for i, r in enumerate(regions)] for t in targets]
    return [[(i, distance) for i, distance in row if distance < 3] for row in distances]


def best_assignments(candidates):
    """All best assignments by trying every one: pairs, and the list of tuples of used regions."""
    candidates = [row for row in candidates if row]
    assignments = []

    def extend(index, used, total):
        if index == len(candidates):
            assignments.append((len(used), total, tuple(used)))
            return
        extend(index + 1, used, total)
        for region, distance in candidates[index]:
            if region not in used:
                extend(index + 1, [*used, region], total + distance)

    extend(0, [], 0.0)
    pairs = max(assignments)[0]
    shortest = min(total for count, total, _ in assignments if count == pairs)
    return pairs, [used for count, total, used in assignments if count == pairs and total < shortest + 1e-9]


def greedy(targets, regions):
    """The published loop: returns matched pairs and the areas of matched regions and of all."""
    free = list(regions)
    areas = []
    for target in targets:
        for region in free:
            if np.linalg.norm(np.array(region.centroid) - np.array(target.centroid)) < 3:
                areas.append(int(region.area))
                free.remove(region)
                break
    return len(areas), areas, [int(region.area) for region in regions]


def shooting(binary, mask):
    """DTUM's loop over targets and their pixels, with its slices as they are written."""
    free, hits = np.ones(mask.shape, bool), 0
    for target in regions_of(mask):
        hit = False
        for y, x in target.coords:
            near, far = BOXES["hit"], BOXES["free"]
            hit |= bool(binary[y - near : y + near + 1, x - near : x + near + 1].any())
            free[y - far : y + far + 1, x - far : x + far + 1] = False
        hits += hit
    return hits, int((binary & free).sum())


def assigned(targets, regions, per_pixel=0.0):
    """The best assignment by one cost matrix of all targets by all regions: matched pairs and their regions' pixels.

    `per_pixel`: a tiny cost of a region's pixels, which chooses among assignments of the same total distance.
    """
    if not targets or not regions:
        return 0, 0
    distances = np.array([[math.dist(t.centroid, r.centroid) for r in regions] for t in targets])
    near = distances + per_pixel * np.array([region.area for region in regions])
    costs = np.where(distances < 3, near, 3.0 * (len(targets) + 1))
    rows, columns = linear_sum_assignment(costs)
    chosen = [c for r, c in zip(rows, columns, strict=True) if distances[r, c] < 3]
    return len(chosen), sum(int(regions[c].area) for c in chosen)


def curves(score, mask, thresholds, per_pixel=0.0):
    """Per threshold, by thresholding, labelling and measuring each: tp, fp px, matched targets, false-alarm px."""
    targets = regions_of(mask)
    result = []
    for threshold in thresholds:
        binary = score > threshold
        regions = regions_of(binary)
        matched, pixels = assigned(targets, regions, per_pixel)
        hits, misses = int((binary & mask).sum()), int((binary & ~mask).sum())
        result.append((hits, misses, matched, sum(int(r.area) for r in regions) - pixels))
    return np.array(result).T


def average_precision(score, mask):
    """Mean over target pixels of the precision of all pixels with their score or a higher one."""
    score, mask = score.ravel(), mask.ravel() > 0
    order = np.argsort(-score, kind="stable")
    last = np.append(score[order][1:] != score[order][:-1], True)  # of each group of equal scores
    hits, pixels = np.cumsum(mask[order])[last], np.flatnonzero(last) + 1
    return float(np.diff(hits, prepend=0) @ (hits / pixels) / hits[-1])


def area_under_roc(score, mask):
    """The share of pairs (target pixel, other pixel) in order, ties counting a half."""
    mask = mask.ravel() > 0
    targets, others = score.ravel()[mask], np.sort(score.ravel()[~mask])
    lower, not_higher = (np.searchsorted(others, targets, side) for side in ("left", "right"))
    return float((lower.sum() + not_higher.sum()) / (2 * len(targets) * len(others)))
