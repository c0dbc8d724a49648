"""Results over a set of frames: its shards merged, their metrics, and the files written from them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from istd.datasets.catalog import PublishedMetrics
from istd.datasets.targets import TARGET_TABLE, read_frame_snr
from istd.test_script.predictor.detections import DETECTION_COLUMNS
from istd.test_script.results.coco_results import box_metrics, set_entries
from istd.test_script.results.frame_set import FrameSet
from istd.test_script.results.result_files import single_numbers, write_image_metrics, write_table
from istd.test_script.results.run_folder import NOT_COMPARED, checkpoint_label
from istd.test_script.results.shards import Shard
from istd.utils.files import write_csv, write_json
from istd.utils.metrics import PROTOCOLS, MetricAccumulator
from istd.utils.metrics.accumulator import METRICS
from istd.utils.metrics.boxes import box_line
from istd.utils.metrics.curves import CURVE_AREAS, CurveAccumulator, merge_curves
from istd.utils.metrics.summary import collect_metrics
from istd.utils.metrics.tables import error_table, interval_table, metrics_table
from istd.utils.names import counted
from istd.utils.plots import write_curves


class Results(NamedTuple):
    """What a whole run measured, in the order of the dataset's frames."""

    metrics: dict[str, MetricAccumulator]  # by protocol; the first one is that of the masks
    curves: dict[str | None, CurveAccumulator]  # by sequence, None for single images
    detections: list[list]  # rows of detections.csv
    sizes: list[tuple[int, int]]  # height and width of each frame


def merge_shards(shards: list[Shard]) -> Results:
    """The results of all shards in order."""
    metrics = {
        name: MetricAccumulator(PROTOCOLS[name], [row for shard in shards for row in shard.rows[name]])
        for name in shards[0].rows
    }
    curves: dict[str | None, CurveAccumulator] = {}
    for shard in shards:
        curves.setdefault(shard.sequence, CurveAccumulator()).merge(shard.curves)
    detections = [row for shard in shards for row in shard.detections]
    return Results(metrics, curves, detections, [size for shard in shards for size in shard.sizes])


def set_metrics(results: Results, frame_set: FrameSet, entries: list[dict]) -> dict[str, dict]:
    """All metrics of each protocol, with their bootstrap intervals; with the first one those of boxes.

    `entries`: the detections, see `set_entries`; they count where the set has boxes.json.
    """
    metrics = {name: collect_metrics(metric, results.curves) for name, metric in results.metrics.items()}
    metrics[next(iter(metrics))] |= box_metrics(frame_set, entries)
    return metrics


def write_results(
    output: Path, results: Results, frame_set: FrameSet, run: dict[str, Any], tracks: list[dict]
) -> dict[str, dict]:
    """Write metrics.json (which begins with `run`), the tables and the curves; returns the metrics by protocol.

    `tracks` are the rows of `measure_tracks`, none for single images.
    """
    entries = set_entries(frame_set, results.detections, output / "masks")
    write_json(output / "detections_coco.json", entries, indent=None)
    metrics = set_metrics(results, frame_set, entries)
    root = frame_set.root
    for name, metric in results.metrics.items():
        if root and (root / TARGET_TABLE).is_file():
            metrics[name]["by_snr"] = halves_by_snr(metric, read_frame_snr(root))
        if "sequences" not in metrics[name]:
            metrics[name]["sequences"] = {"all images": {key: metrics[name][key] for key in (*METRICS, *CURVE_AREAS)}}
    published = [row._asdict() for row in frame_set.published]
    write_json(output / "metrics.json", run | {"protocols": metrics, "tracks": tracks, "published": published})
    rows = [
        {"protocol": name, "sequence": sequence} | values
        for name, shown in metrics.items()
        for sequence, values in shown["sequences"].items()
    ]
    write_table(output / "per_sequence.csv", rows)
    write_image_metrics(output / "per_image.csv", results.metrics)
    write_csv(output / "detections.csv", DETECTION_COLUMNS, results.detections)
    curves = {run_name(run): merge_curves(results.curves.values()).compute()}
    write_curves(curves, output / "curves", f"{set_name(run)}, protocol standard")
    return metrics


def run_name(run: Mapping[str, Any]) -> str:
    """What pictures and the report call the network of a run: the name of its checkpoint, else that of the method."""
    return checkpoint_label(run["checkpoint"]) if run.get("checkpoint") else run["model"]


def set_name(run: Mapping[str, Any]) -> str:
    """What pictures call the frames of a run."""
    return f"{run['dataset']}, {run['split']}" if run.get("split") else run["dataset"]


def read_finished(output: Path, run: dict[str, Any]) -> dict[str, dict] | None:
    """The metrics by protocol that a run like `run` wrote to `output`, NaN as None; None if it was not finished."""
    try:
        content = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("protocols"), dict):
        return None
    facts = content | {"protocols": list(content["protocols"])}
    same = all(facts.get(name) == value for name, value in run.items() if name not in NOT_COMPARED)
    return content["protocols"] if same and (output / "report.html").is_file() else None


def write_dataset_table(path: Path, metrics: Mapping[str, Mapping[str, dict]]) -> None:
    """Write and print a row for each protocol and dataset; `metrics`: dataset -> protocol -> metrics."""
    rows = []
    tables = []
    for protocol in dict.fromkeys(name for by_protocol in metrics.values() for name in by_protocol):
        datasets = {
            dataset: by_protocol[protocol] for dataset, by_protocol in metrics.items() if protocol in by_protocol
        }
        tables.append(metrics_table(datasets, f"dataset ({protocol})"))
        for dataset, values in datasets.items():
            rows.append({"protocol": protocol, "dataset": dataset} | single_numbers(values))
    write_table(path, rows)
    print("\n".join(tables))


def halves_by_snr(metric: MetricAccumulator, snr: dict[tuple[str, str], float]) -> dict[str, dict[str, float | None]]:
    """The metrics over the dimmer and over the brighter half of the frames, by the SNR of their dimmest targets."""
    known = {row: snr[key] for row in metric.rows if (key := (row.sequence, row.frame)) in snr}
    if not known:
        return {}
    middle = sorted(known.values())[(len(known) - 1) // 2]
    names = (f"SNR up to {middle:.1f}", f"SNR above {middle:.1f}")
    halves = metric.split(lambda row: names[known[row] > middle] if row in known else None)
    return {name: halves[name] for name in names if name in halves}


def print_metrics(metrics: Mapping[str, dict], published: Iterable[PublishedMetrics] = ()) -> None:
    """Print the metrics of all protocols beside published ones, of boxes, their intervals, and the errors of hIoU."""
    first = next(iter(metrics.values()))
    print(f"{counted(first['images'], 'image')}, {counted(first['targets'], 'target')}")
    print(metrics_table(metrics | published_lines(published), "protocol"))
    if "boxes" in first:
        print(box_line(first["boxes"]))
    print(interval_table(metrics))
    if errors := error_table(metrics, "protocol"):
        print(f"hIoU and what each error takes from it, in %:\n{errors}")


def published_lines(published: Iterable[PublishedMetrics]) -> dict[str, dict[str, float]]:
    """Published metrics as ratios, by the title of their line, which names model and protocol."""
    units = {"iou": 100, "niou": 100, "pd": 100, "fa": 1e6}
    return {
        f"published: {row.model}, {row.protocol}": {name: getattr(row, name) / unit for name, unit in units.items()}
        for row in published
    }
