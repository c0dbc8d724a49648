"""All metrics of a protocol over a set of images and over its sequences, with intervals."""

from collections.abc import Mapping
from typing import Any

from istd.utils.metrics.accumulator import METRICS, MetricAccumulator, mean_metrics
from istd.utils.metrics.bootstrap import bootstrap_intervals
from istd.utils.metrics.curves import CURVE_AREAS, CurveAccumulator, merge_curves


def collect_metrics(metric: MetricAccumulator, curves: Mapping[str | None, CurveAccumulator]) -> dict[str, Any]:
    """All metrics of a protocol: over the set, by target area, and for each sequence, with `bootstrap_intervals`.

    curves: by sequence (None: single images), for AP and AUC, which belong to the standard protocol.
    """
    areas = CURVE_AREAS if metric.protocol.name == "standard" else ()
    total = ap_and_auc(merge_curves(curves.values())) if areas else dict.fromkeys(CURVE_AREAS)
    result = metric.compute() | total | metric.counts() | {"by_area": metric.area_metrics()}
    if sequences := metric.sequence_metrics():
        for name, metrics in sequences.items() if areas else ():
            metrics |= ap_and_auc(curves[name])
        result |= {"sequence_mean": mean_metrics(sequences.values(), (*METRICS, *areas)), "sequences": sequences}
    ranked = total["ap"] is not None  # maps of two values rank nothing
    return result | {"intervals": bootstrap_intervals(metric, curves if ranked else {})}


def ap_and_auc(curves: CurveAccumulator) -> dict[str, float | None]:
    """AP and AUC of all pixels, None where the scores rank nothing."""
    computed = curves.compute()
    return {name: getattr(computed, name) for name in CURVE_AREAS}
