"""The metrics of a measured set of frames, and the files and lines that report them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from istd.datasets.catalog import PublishedMetrics
from istd.datasets.targets import TARGET_TABLE, read_frame_snr
from istd.test_script.predictor.detections import DETECTION_COLUMNS
from istd.test_script.results.coco_results import box_metrics, set_entries
from istd.test_script.results.frame_set import FrameSet
from istd.test_script.results.result_files import single_numbers, write_image_metrics, write_table
from istd.test_script.results.run_folder import checkpoint_label
from istd.test_script.results.shards import Results
from istd.utils.files import write_csv, write_json
from istd.utils.metrics import MetricAccumulator
from istd.utils.metrics.accumulator import METRICS
from istd.utils.metrics.boxes import box_line
from istd.utils.metrics.curves import CURVE_AREAS, merge_curves
from istd.utils.metrics.summary import collect_metrics
from istd.utils.metrics.tables import error_table, interval_table, metrics_table, text_table
from istd.utils.metrics.track_metrics import track_cells
from istd.utils.names import counted
from istd.utils.plots import write_curves


def set_metrics(results: Results, frame_set: FrameSet) -> dict[str, dict]:
    """All metrics of each protocol, with their bootstrap intervals.

    With boxes.json, the first protocol also has `box_metrics`; with targets.csv, "by_snr" holds `halves_by_snr`.
    """
    metrics = {name: collect_metrics(metric, results.curves) for name, metric in results.metrics.items()}
    metrics[next(iter(metrics))] |= box_metrics(frame_set, results.detections)
    if frame_set.root and (frame_set.root / TARGET_TABLE).is_file():
        snr = read_frame_snr(frame_set.root)
        for name, metric in results.metrics.items():
            metrics[name]["by_snr"] = halves_by_snr(metric, snr)
    return metrics


def write_results(
    output: Path,
    results: Results,
    metrics: dict[str, dict],
    frame_set: FrameSet,
    facts: dict[str, Any],
    tracks: list[dict],
) -> None:
    """Write metrics.json (which begins with `facts`), the tables and the curves.

    `metrics`: from `set_metrics`. `tracks`: the rows of `measure_tracks`, [] for single images, which count as a
    sequence "all images".
    """
    sequences = {
        name: values.get("sequences") or {"all images": {key: values[key] for key in (*METRICS, *CURVE_AREAS)}}
        for name, values in metrics.items()
    }
    protocols = {name: values | {"sequences": sequences[name]} for name, values in metrics.items()}
    published = [row._asdict() for row in frame_set.published]
    write_json(output / "metrics.json", facts | {"protocols": protocols, "tracks": tracks, "published": published})
    rows = (
        {"protocol": name, "sequence": sequence} | values
        for name, by_sequence in sequences.items()
        for sequence, values in by_sequence.items()
    )
    write_table(output / "per_sequence.csv", rows)
    write_image_metrics(output / "per_image.csv", results.metrics)
    write_csv(output / "detections.csv", DETECTION_COLUMNS, results.detections)
    entries = set_entries(frame_set, results.detections, output / "masks")
    write_json(output / "detections_coco.json", entries, indent=None)
    write_set_curves(output / "curves", results, facts)


def write_set_curves(folder: Path, results: Results, facts: Mapping[str, Any]) -> list[Path]:
    """Write the curves over all frames into `folder`, as `write_curves` does; returns the files."""
    curves = merge_curves(results.curves.values()).compute()
    return write_curves({run_name(facts): curves}, folder, f"{facts['dataset']}, {facts['split']}, protocol standard")


def run_name(facts: Mapping[str, Any]) -> str:
    """A run's name in pictures and the report: the checkpoint's name, or the method without a checkpoint."""
    return checkpoint_label(facts["checkpoint"]) if facts.get("checkpoint") else facts["model"]


def write_dataset_table(path: Path, metrics: Mapping[str, Mapping[str, dict]]) -> None:
    """Write and print a row for each protocol and dataset; `metrics`: dataset -> protocol -> metrics."""
    rows, tables = [], []
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


def print_metrics(
    metrics: Mapping[str, dict],
    published: Iterable[PublishedMetrics] = (),
    notes: Iterable[str] = (),
    tracks: list[dict] | None = None,
) -> None:
    """Print the metrics of all protocols beside published metrics, with their details, notes, and metrics of tracks."""
    protocol, first = next(iter(metrics.items()))
    print(f"{counted(first['images'], 'image')}, {counted(first['targets'], 'target')}")
    print(metrics_table(metrics | published_lines(published), "protocol"))
    if "boxes" in first:
        print(box_line(first["boxes"]))
    print(interval_table(metrics))
    if errors := error_table(metrics, "protocol"):
        print(f"hIoU and what each error takes from it, in %:\n{errors}")
    if first.get("by_snr"):
        print(f"dimmer and brighter half of the frames with targets, {protocol}:")
        print(metrics_table(first["by_snr"], "dimmest target"))
    for note in notes:
        print(note)
    if tracks:
        print(f"tracks, protocol standard:\n{text_table(track_cells(tracks))}")


def published_lines(published: Iterable[PublishedMetrics]) -> dict[str, dict[str, float]]:
    """Published metrics as ratios, by the title of their line, which names model and protocol."""
    units = {"iou": 100, "niou": 100, "pd": 100, "fa": 1e6}
    return {
        f"published: {row.model}, {row.protocol}": {name: getattr(row, name) / unit for name, unit in units.items()}
        for row in published
    }
