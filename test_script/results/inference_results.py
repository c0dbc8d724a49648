"""A run's results over a dataset: the parts put together, and the tables written from them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClipDataset, DatasetIndex
from datasets.catalog import DatasetInfo
from datasets.targets import TARGET_TABLE, read_frame_snr
from test_script.results.result_files import DETECTION_COLUMNS, write_csv, write_table
from test_script.results.work_parts import Part
from utils.files import atomic_path
from utils.metrics import PROTOCOLS, MetricAccumulator
from utils.metrics.curves import CurveAccumulator, Curves
from utils.metrics.tables import json_ready
from utils.plots import write_curves


class Results(NamedTuple):
    """What a whole run measured."""

    metrics: dict[str, MetricAccumulator]  # by protocol, the first one is that of the masks
    curves: CurveAccumulator
    sequence_curves: dict[str, CurveAccumulator]  # empty for single images
    detections: list[list]


def merge_parts(parts: list[Part], sequence_names: list[str], dataset: ClipDataset) -> Results:
    """All parts' results in order."""
    metrics = {
        name: MetricAccumulator(PROTOCOLS[name], (row for part in parts for row in part.rows[name]))
        for name in parts[0].rows
    }
    curves = CurveAccumulator()
    sequence_curves = {name: CurveAccumulator() for name in sequence_names}
    for part in parts:
        curves.merge(part.curves)
        if sequence_names:
            sequence_curves[sequence_names[dataset.targets[part.items[0]][0]]].merge(part.curves)
    return Results(metrics, curves, sequence_curves, [row for part in parts for row in part.detections])


def write_results(output: Path, results: Results, index: DatasetIndex, run: dict[str, Any]) -> dict[str, dict]:
    """Write metrics.json (with what the `run` was), the tables and the curves; returns the metrics by protocol."""
    curves = results.curves.compute()
    metrics = {name: collect_metrics(metric, curves) for name, metric in results.metrics.items()}
    if (index.root / TARGET_TABLE).is_file():
        for name, metric in results.metrics.items():
            metrics[name]["by_snr"] = halves_by_snr(metric, read_frame_snr(index.root))
    sequences = {
        (name, sequence): one | curve_areas(name, results.sequence_curves[sequence].compute())
        for name, metric in results.metrics.items()
        for sequence, one in metric.sequence_metrics().items()
    } or {
        (name, "all images"): metric.compute() | curve_areas(name, curves) for name, metric in results.metrics.items()
    }
    for name, one in metrics.items():
        one["sequences"] = {sequence: values for (owner, sequence), values in sequences.items() if owner == name}
    content = {
        **run,
        "protocols": metrics,
        "published": [published._asdict() for published in index.info.metrics],
    }
    with atomic_path(output / "metrics.json") as path:
        path.write_text(json.dumps(json_ready(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    write_table(
        output / "per_sequence.csv", ({"protocol": p, "sequence": s} | one for (p, s), one in sequences.items())
    )
    write_table(
        output / "per_image.csv",
        ({"protocol": name} | one for name, metric in results.metrics.items() for one in metric.image_metrics()),
    )
    write_csv(output / "detections.csv", DETECTION_COLUMNS, results.detections)
    write_curves(curves, output / "curves")
    return metrics


def collect_metrics(metric: MetricAccumulator, curves: Curves) -> dict[str, Any]:
    """All metrics of one protocol over the set."""
    result = metric.compute() | curve_areas(metric.protocol.name, curves) | metric.counts()
    result["by_area"] = metric.area_metrics()
    if metric.sequence_metrics():
        result["sequence_mean"] = metric.sequence_mean()
    return result


def halves_by_snr(metric: MetricAccumulator, snr: dict[tuple[str, str], float]) -> dict[str, dict[str, float | None]]:
    """The metrics over the dimmer and over the brighter half of the frames, by the SNR of their dimmest targets."""
    known = sorted(snr[row.sequence, row.frame] for row in metric.rows if (row.sequence, row.frame) in snr)
    if not known:
        return {}
    middle = known[(len(known) - 1) // 2]
    names = (f"SNR up to {middle:.1f}", f"SNR above {middle:.1f}")
    halves = metric.split(
        lambda row: names[snr[row.sequence, row.frame] > middle] if (row.sequence, row.frame) in snr else None
    )
    return {name: halves[name] for name in names if name in halves}


def curve_areas(protocol: str, curves: Curves) -> dict[str, float]:
    """Average precision and area under ROC, which go with the standard protocol."""
    return {"ap": curves.ap, "auc": curves.auc} if protocol == "standard" else {}


def published_lines(info: DatasetInfo) -> dict[str, dict[str, float]]:
    """Published metrics as ratios, by a line's title that names their protocol."""
    return {
        f"published: {one.model}, {one.protocol}": {
            "iou": one.iou / 100,
            "niou": one.niou / 100,
            "pd": one.pd / 100,
            "fa": one.fa / 1e6,
        }
        for one in info.metrics
    }
