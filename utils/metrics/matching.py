"""The rules by which protocols match targets and predicted regions."""

from typing import NamedTuple

import cv2
import numpy as np
import scipy

from istd.utils.metrics.regions import ImagePair, Regions

MATCH_DISTANCE = 3  # px; centroids must be closer
SHOOTING_HIT_RADIUS = 1  # px: a 3 x 3 box
BORDERLINE = 1e-6  # px ** 2; squared distances this close to the limit are compared in integers


class Matching(NamedTuple):
    """hit: bool [targets], whether a target is found; used: int64, indices of the matched regions."""

    hit: np.ndarray
    used: np.ndarray


def optimal(pair: ImagePair) -> Matching:
    """best assignment: most pairs with centroids < 3 px apart, then least total distance"""
    rows, columns, distances = close_pairs(pair.targets, pair.regions)
    chosen = best_pairs(rows, columns, distances)
    hit = np.zeros(len(pair.targets.areas), bool)
    hit[rows[chosen]] = True
    return Matching(hit, columns[chosen])


def greedy(pair: ImagePair) -> Matching:
    """targets in raster order, each takes the first unused region, in raster order, < 3 px away"""
    targets, regions = pair.targets.centroids, pair.regions.centroids
    hit, free, used = np.zeros(len(targets), bool), np.ones(len(regions), bool), []
    for index, centroid in enumerate(targets):
        # rounded distances, as in the published code, where np.linalg.norm of centroids is compared with 3
        near = np.flatnonzero(free & (np.sqrt(np.square(regions - centroid).sum(axis=1)) < MATCH_DISTANCE))
        if len(near):
            hit[index] = True
            free[near[0]] = False
            used.append(near[0])
    return Matching(hit, np.array(used, np.int64))


def shooting(pair: ImagePair) -> Matching:
    """target hit if any predicted pixel lies within 1 px (3 x 3) of one of its pixels"""
    side = 2 * SHOOTING_HIT_RADIUS + 1
    shot = cv2.dilate(pair.binary.view(np.uint8), np.ones((side, side), np.uint8)).astype(bool)
    # DTUM slices the map from coordinate - 1 on; in the first row or column that start is negative, the slice empty.
    shot[:SHOOTING_HIT_RADIUS] = False
    shot[:, :SHOOTING_HIT_RADIUS] = False
    hit = np.zeros(len(pair.targets.areas), bool)
    hit[pair.targets.owners[shot.ravel()[pair.targets.pixels]]] = True
    return Matching(hit, np.zeros(0, np.int64))


def best_pairs(rows: np.ndarray, columns: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """The best assignment among candidate pairs: most pairs, then least total distance. Returns their indices.

    rows, columns: int64 [p], the target and the region of each candidate pair; distances: float64 [p], px.
    Only pairs closer than 3 px are candidates. They form small groups that share neither targets nor regions, and the
    best assignments of the groups make up the best assignment: a map of thousands of regions costs many tiny problems,
    never an assignment of all targets to all regions. Of assignments with equal totals, the solver's first is taken,
    with targets and regions in ascending order.
    """
    if len(rows) < 2:
        return np.arange(len(rows))
    row_names, row = np.unique(rows, return_inverse=True)
    column_names, column = np.unique(columns, return_inverse=True)
    nodes = len(row_names) + len(column_names)
    ends = row.astype(np.int32), (len(row_names) + column).astype(np.int32)  # the only integer type scipy 1.11 accepts
    graph = scipy.sparse.coo_array((np.ones(len(rows), np.int8), ends), shape=(nodes, nodes))
    group = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][row]
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    alone = sizes[group[order]] == 1
    shared = order[~alone]
    groups = np.split(shared, np.flatnonzero(np.diff(group[shared])) + 1)
    chosen = [_assign_group(pairs, rows[pairs], columns[pairs], distances[pairs]) for pairs in groups if len(pairs)]
    return np.sort(np.concatenate([order[alone], *chosen]))


def close_pairs(targets: Regions, regions: Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs with centroids less than 3 px apart: target indices, region indices, distances in px, in raster order.

    Exact: where rounding could decide, integers are compared.
    """
    true, predicted = targets.centroids, regions.centroids
    limit = MATCH_DISTANCE + BORDERLINE
    tree = scipy.spatial.cKDTree(predicted)
    near_pairs = scipy.spatial.cKDTree(true).sparse_distance_matrix(tree, limit, output_type="ndarray")
    rows, columns = near_pairs["i"], near_pairs["j"]
    squares = np.square(true[rows] - predicted[columns]).sum(axis=1)
    near = squares < MATCH_DISTANCE**2 + BORDERLINE
    for pair in np.flatnonzero(near & (squares > MATCH_DISTANCE**2 - BORDERLINE)):
        near[pair] = _closer_than_limit(targets, int(rows[pair]), regions, int(columns[pair]))
    rows, columns, squares = rows[near], columns[near], squares[near]
    order = np.lexsort((columns, rows))
    return rows[order], columns[order], np.sqrt(squares[order])


def _closer_than_limit(targets: Regions, target: int, regions: Regions, region: int) -> bool:
    a, b = int(targets.areas[target]), int(regions.areas[region])
    dy = int(targets.row_sums[target]) * b - int(regions.row_sums[region]) * a
    dx = int(targets.column_sums[target]) * b - int(regions.column_sums[region]) * a
    return dy * dy + dx * dx < (MATCH_DISTANCE * a * b) ** 2


def _assign_group(pairs: np.ndarray, rows: np.ndarray, columns: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """The best assignment among the candidate pairs of a group (indices, targets, regions, px)."""
    group_rows, row = np.unique(rows, return_inverse=True)
    group_columns, column = np.unique(columns, return_inverse=True)
    # a forbidden pair costs more than all allowed pairs together: the number of pairs comes before their distances
    forbidden = MATCH_DISTANCE * (min(len(group_rows), len(group_columns)) + 1.0)
    cost = np.full((len(group_rows), len(group_columns)), forbidden)
    cost[row, column] = distances
    index = np.full(cost.shape, -1)
    index[row, column] = pairs
    chosen = index[scipy.optimize.linear_sum_assignment(cost)]
    return chosen[chosen >= 0]
