"""Bootstrap intervals of the metrics of a protocol: how much they would change with other images of the same kind.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Images are resampled
with replacement, or sequences where there are sequences, since the frames of a sequence are near copies of each other.
Every metric is a ratio of sums over images, so that a resample costs one product of its multiplicities with the sums;
AP and AUC follow from the products with the numbers of pixels at each level.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy

from istd.utils.metrics.accumulator import MetricAccumulator, group_rows
from istd.utils.metrics.areas import curve_areas, pool_levels
from istd.utils.metrics.curves import CURVE_AREAS, POOLED, CurveAccumulator
from istd.utils.metrics.rules import Term
from istd.utils.metrics.terms import sum_terms

RESAMPLES = 2000
COVERAGE = 0.95
MIN_UNITS = 10  # fewer sequences or images say too little about others
ROUNDING = 1e-9  # relative; values this close are equal
CHUNK = 100  # resamples drawn together, which bounds memory


def bootstrap_intervals(
    metric: MetricAccumulator,
    curves: Mapping[str | None, CurveAccumulator] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`ratio_intervals` of each metric that the protocol defines.

    curves: of the same images, by sequence (None: single images); they add the intervals of AP and AUC. The order in
    which images were measured has no effect if their names differ.
    """
    sequences = group_rows(metric.rows, lambda row: row.sequence)
    units = [sequences[name] for name in sorted(sequences)]
    images = sorted((row for row in metric.rows if row.sequence is None), key=lambda row: row.frame or "")
    units += [[row] for row in images]
    terms = [sum_terms(rows, metric.protocol) for rows in units]
    if sequences and images:  # single images are one video together, and so not units of the mean over videos
        for sums in terms:
            sums.pop("video_mean", None)
    unit = unit_name(bool(sequences), bool(images))
    return ratio_intervals(terms, unit, unit_levels(curves or {}), resamples, seed)


def unit_name(sequences: bool, images: bool) -> str:
    """What is resampled where there are sequences and where there are single images."""
    return "images" if not sequences else "sequences and images" if images else "sequences"


def ratio_intervals(
    terms: Sequence[Mapping[str, Term]],
    unit: str,
    levels: "scipy.sparse.csr_array | None" = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`percentile_intervals` of metrics that are ratios of sums over units; `terms`: of each unit.

    levels: float64 [units, `POOLED`], the pooled counts of the units, for AP and AUC. Their intervals are left out if
    there are fewer rows: the curves were not measured, or by a version that kept no counts of images.
    """
    if len(terms) < MIN_UNITS:
        return percentile_intervals(unit, len(terms), {})
    names = [name for name in terms[0] if all(name in unit_sums for unit_sums in terms)]  # older files lack some
    sums = np.array([[unit_sums[name] for name in names] for unit_sums in terms], np.float64)  # [units, metrics, 2]
    with_areas = levels is not None and levels.shape[0] == len(terms)
    values = []
    for drawn in draw_units(len(terms), resamples, seed):
        drawn = drawn.astype(np.float64)
        totals = np.tensordot(drawn, sums, axes=1)  # [resamples, metrics, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = [*(totals[..., 0] / totals[..., 1]).T]
        if with_areas:
            columns += curve_areas(*np.split(drawn @ levels, 2, axis=1))
        values.append(columns)
    names += CURVE_AREAS if with_areas else ()
    return percentile_intervals(unit, len(terms), dict(zip(names, np.concatenate(values, axis=1), strict=True)))


def draw_units(units: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each resample contains each unit: int64 [up to `CHUNK`, units], `resamples` rows in total."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        yield random.multinomial(units, np.full(units, 1 / units), size=min(CHUNK, resamples - start))


def percentile_intervals(unit: str, units: int, values: Mapping[str, np.ndarray]) -> dict:
    """Intervals that hold `COVERAGE` of the values of each metric, float64 [resamples], without NaN.

    Returns "unit" (what was resampled: "images", "sequences", or "sequences and images"), "units", their number,
    "coverage", and "metrics", [low, high] by name. There is no interval with fewer than `MIN_UNITS` units, nor where
    resampling changes nothing, as for a Pd of 1: such a set does not show how rare the errors are that it lacks.
    """
    tails = [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]
    intervals = {}
    for name, column in values.items():
        if (defined := np.isfinite(column)).any():
            low, high = np.quantile(column[defined], tails).tolist()
            if high - low > ROUNDING * high:
                intervals[name] = [low, high]
    return {"unit": unit, "units": units, "coverage": COVERAGE, "metrics": intervals}


def unit_levels(curves: Mapping[str | None, CurveAccumulator]) -> "scipy.sparse.csr_array":
    """The pooled counts of sequences, then of single images, in the order of their names, float64 [units, 2 P].

    All numbers are integers, whose products are faster in float64 than in int64, and as exact.
    """
    units = [
        pool_levels(name, curves[name].target_levels, curves[name].other_levels)
        for name in sorted(name for name in curves if name is not None)
    ]
    units += sorted(curves[None].images if None in curves else [], key=lambda image: image.name or "")
    columns, pixels = (
        np.concatenate([np.zeros(0, kind), *(getattr(unit, field) for unit in units)], dtype=kind)
        for field, kind in (("columns", np.int64), ("pixels", np.float64))
    )
    starts = np.cumsum([0, *(len(unit.columns) for unit in units)])
    return scipy.sparse.csr_array((pixels, columns, starts), shape=(len(units), POOLED))
