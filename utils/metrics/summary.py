"""All metrics of a protocol over a set of images and over its sequences, with intervals."""

from collections.abc import Mapping
from typing import Any

from istd.utils.metrics.accumulator import METRICS, MetricAccumulator, mean_metrics
from istd.utils.metrics.bootstrap import bootstrap_intervals
from istd.utils.metrics.curves import CURVE_AREAS, CurveAccumulator, merge_curves


def collect_metrics(metric: MetricAccumulator, curves: Mapping[str | None, CurveAccumulator]) -> dict[str, Any]:
    """All metrics of a protocol: over the set, by target area, and for each sequence, with `bootstrap_intervals`.

    curves: by sequence (None: single images), for AP and AUC, which belong to the standard protocol. Where the scores
    of the set rank pixels, AP and AUC of a sequence whose scores are all alike are those of ties.
    """
    areas = CURVE_AREAS if metric.protocol.name == "standard" else ()
    merged = merge_curves(curves.values()) if areas else None
    ranked = merged is not None and merged.ranks
    total = merged.areas() if ranked else dict.fromkeys(CURVE_AREAS)
    result = metric.compute() | total | metric.counts() | {"by_area": metric.area_metrics()}
    if sequences := metric.sequence_metrics():
        for name, metrics in sequences.items():
            metrics |= curves[name].areas() if ranked else dict.fromkeys(areas)
        result |= {"sequence_mean": mean_metrics(sequences.values(), (*METRICS, *areas)), "sequences": sequences}
    return result | {"intervals": bootstrap_intervals(metric, curves if ranked else {})}
