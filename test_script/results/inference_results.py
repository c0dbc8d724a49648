"""Results over a dataset: the parts of a run merged, its metrics, and the files written from them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from istd.datasets import ClipDataset, DatasetIndex
from istd.datasets.catalog import DatasetInfo
from istd.datasets.targets import TARGET_TABLE, read_frame_snr
from istd.test_script.predictor.detections import DETECTION_COLUMNS, coco_detections
from istd.test_script.results.result_files import single_numbers, write_image_metrics, write_table
from istd.test_script.results.work_parts import Part
from istd.utils.files import write_csv, write_json
from istd.utils.metrics import PROTOCOLS, MetricAccumulator
from istd.utils.metrics.accumulator import METRICS
from istd.utils.metrics.curves import CURVE_AREAS, CurveAccumulator, collect_metrics, merge_curves
from istd.utils.metrics.tables import metrics_table
from istd.utils.plots import write_curves


class Results(NamedTuple):
    """What a whole run measured, in the order of the dataset's frames."""

    metrics: dict[str, MetricAccumulator]  # by protocol; the first one is that of the masks
    curves: dict[str | None, CurveAccumulator]  # by sequence, None for single images
    detections: list[list]  # rows of detections.csv
    sizes: list[tuple[int, int]]  # height and width of each frame


def merge_parts(parts: list[Part]) -> Results:
    """The results of all parts in order."""
    rows = {name: [row for part in parts for row in part.rows[name]] for name in parts[0].rows}
    metrics = {name: MetricAccumulator(PROTOCOLS[name], own) for name, own in rows.items()}
    curves: dict[str | None, CurveAccumulator] = {}
    for part in parts:
        curves.setdefault(part.sequence, CurveAccumulator()).merge(part.curves)
    detections = [row for part in parts for row in part.detections]
    return Results(metrics, curves, detections, [size for part in parts for size in part.sizes])


def write_results(
    output: Path, results: Results, index: DatasetIndex, dataset: ClipDataset, run: dict[str, Any], tracks: list[dict]
) -> dict[str, dict]:
    """Write metrics.json (which begins with `run`), the tables and the curves; returns the metrics by protocol.

    `tracks` are the rows of `measure_tracks`, none for single images.
    """
    metrics = {name: collect_metrics(metric, results.curves) for name, metric in results.metrics.items()}
    for name, metric in results.metrics.items():
        if (index.root / TARGET_TABLE).is_file():
            metrics[name]["by_snr"] = halves_by_snr(metric, read_frame_snr(index.root))
        if "sequences" not in metrics[name]:
            metrics[name]["sequences"] = {"all images": {key: metrics[name][key] for key in (*METRICS, *CURVE_AREAS)}}
    published = [one._asdict() for one in index.info.metrics]
    write_json(output / "metrics.json", run | {"protocols": metrics, "tracks": tracks, "published": published})
    by_sequence = [(name, *item) for name, one in metrics.items() for item in one["sequences"].items()]
    rows = [{"protocol": name, "sequence": sequence} | values for name, sequence, values in by_sequence]
    write_table(output / "per_sequence.csv", rows)
    write_image_metrics(output / "per_image.csv", results.metrics)
    write_csv(output / "detections.csv", DETECTION_COLUMNS, results.detections)
    frames = [(dataset.sequences[number], dataset.sequences[number].frames[i]) for number, i in dataset.targets]
    files = [(one.name, frame.name, Path(os.path.relpath(frame.image, index.root)).as_posix()) for one, frame in frames]
    coco = coco_detections(files, results.sizes, results.detections, f"{run['model']} on {run['dataset']}")
    write_json(output / "detections_coco.json", coco, indent=None)
    write_curves(merge_curves(results.curves.values()).compute(), output / "curves")
    return metrics


def read_finished(output: Path, run: dict[str, Any]) -> dict[str, dict] | None:
    """The metrics by protocol that a run like `run` wrote to `output`, NaN as None; None if it was not finished."""
    try:
        content = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    facts = content | {"protocols": list(content["protocols"])}
    same = all(facts.get(name) == value for name, value in run.items() if name != "checkpoint")
    return content["protocols"] if same and (output / "report.html").is_file() else None


def write_dataset_table(path: Path, metrics: Mapping[str, Mapping[str, dict]]) -> None:
    """Print and write one row per protocol and dataset; `metrics`: dataset -> protocol -> metrics."""
    rows = []
    for protocol in dict.fromkeys(name for one in metrics.values() for name in one):
        datasets = {dataset: one[protocol] for dataset, one in metrics.items() if protocol in one}
        print(metrics_table(datasets, f"dataset ({protocol})"))
        for dataset, values in datasets.items():
            rows.append({"protocol": protocol, "dataset": dataset} | single_numbers(values))
    write_table(path, rows)


def halves_by_snr(metric: MetricAccumulator, snr: dict[tuple[str, str], float]) -> dict[str, dict[str, float | None]]:
    """The metrics over the dimmer and over the brighter half of the frames, by the SNR of their dimmest targets."""
    known = {row: snr[key] for row in metric.rows if (key := (row.sequence, row.frame)) in snr}
    if not known:
        return {}
    middle = sorted(known.values())[(len(known) - 1) // 2]
    names = (f"SNR up to {middle:.1f}", f"SNR above {middle:.1f}")
    halves = metric.split(lambda row: names[known[row] > middle] if row in known else None)
    return {name: halves[name] for name in names if name in halves}


def published_lines(info: DatasetInfo) -> dict[str, dict[str, float]]:
    """Published metrics as ratios, by the title of their line, which names model and protocol."""
    units = {"iou": 100, "niou": 100, "pd": 100, "fa": 1e6}
    return {
        f"published: {one.model}, {one.protocol}": {name: getattr(one, name) / unit for name, unit in units.items()}
        for one in info.metrics
    }
