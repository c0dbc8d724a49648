"""report.html: one self-contained page that shows which frames a network fails on, and how good it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datasets.catalog import DatasetInfo
from test_script.report.report_cases import STEPS, choose_items, data_url, frame_picture, show_case
from test_script.results.inference_results import Results, published_lines
from utils.files import atomic_path, json_ready
from utils.metrics import MetricAccumulator
from utils.metrics.tables import HEADINGS, format_metric

HEADLINE = {  # metric -> the label of its tile
    "iou": "IoU, %",
    "niou": "nIoU, %",
    "pd": "Pd, %",
    "fa": "Fa, × 1e-6",
    "f1": "pixel F1, %",
    "ap": "average precision, %",
}
CURVES = {
    "precision_recall.png": "Precision over recall",
    "roc.png": "ROC curve",
    "pd_over_fa.png": "Pd over Fa",
}


def write_report(
    path: Path,
    results: Results,
    metrics: dict[str, dict],
    info: DatasetInfo,
    run: Mapping[str, Any],
    notes: list[str],
    kept: Path,
) -> None:
    """Write the page.

    `metrics` are those of `write_results`, `run` the settings of the run, and `kept` the folder of `KeptFrames`, which
    holds only the frames shown afterwards. The pictures of the curves are read from the folder curves/ beside `path`.
    """
    first, metric = next(iter(results.metrics.items()))
    items = choose_items(dict(enumerate(metric.rows)))
    worst, best = ([show_case(metric.rows[item], frame_picture(kept, item)) for item in some] for some in items)
    for file in set(kept.glob("*.png")) - {frame_picture(kept, item) for some in items for item in some}:
        file.unlink()
    areas = [
        (f"{name} px", {"pd": one["pd"]}, {"targets": one["targets"], "found": one["matched"]})
        for name, one in metrics[first]["by_area"].items()
    ]
    sequences = [name for name in results.curves if name is not None]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        title=f"{run['model']} on {run['dataset']}",
        subtitle=subtitle(metrics[first], run, len(sequences)),
        tiles=[
            (text, format_metric(name, metrics[first][name]))
            for name, text in HEADLINE.items()
            if metrics[first].get(name) is not None
        ],
        first=first,
        steps=STEPS,
        worst=worst,
        best=best,
        notes=notes,
        protocols=table("protocol", [(name, one, {}) for name, one in (metrics | published_lines(info)).items()]),
        measured=len(metrics),
        areas=table("target area", areas),
        curves=[(text, data_url((path.parent / "curves" / name).read_bytes())) for name, text in CURVES.items()],
        details=table("sequence", sequence_rows(metric, metrics[first]["sequences"]))
        if sequences
        else table("image", image_rows(metric)),
        checkpoint=run["checkpoint"],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def subtitle(metrics: Mapping[str, Any], run: Mapping[str, Any], sequences: int) -> str:
    """The line below the title."""
    averaged = ["flips"] * run["flip"] + [f"scales {', '.join(map(str, run['scales']))}"] * (len(run["scales"]) > 1)
    parts = [f"{run['split']} split", *([f"{sequences} sequences"] if sequences else [])]
    parts += [f"{metrics['images']} frames", f"{metrics['targets']} targets"]
    return " · ".join([*parts, f"averaged over {' and '.join(averaged)}" if averaged else "no test-time augmentation"])


def table(title: str, rows: list[tuple[str, Mapping[str, float | None], Mapping[str, int]]]) -> dict[str, list]:
    """Rows of (name, metrics, counts) as `head` and `rows`; a cell is its text and its value to sort by."""
    names = [name for name in HEADINGS if any(values.get(name) is not None for _, values, _ in rows)]
    return {
        "head": [title, *(HEADINGS[name][0] for name in names), *(rows[0][2] if rows else ())],
        "rows": [
            [
                (name, name),
                *((format_metric(key, values.get(key)), json_ready(values.get(key))) for key in names),
                *((count, count) for count in counts.values()),
            ]
            for name, values, counts in rows
        ],
    }


def sequence_rows(metric: MetricAccumulator, sequences: Mapping[str, dict]) -> list[tuple]:
    """A row for each sequence, for `table`."""
    counts = {name: {"frames": 0, "targets": 0, "found": 0} for name in sequences}
    for row in metric.rows:
        for name, value in (("frames", 1), ("targets", row.targets), ("found", row.matched)):
            counts[row.sequence][name] += value
    return [(name, one, counts[name]) for name, one in sequences.items()]


def image_rows(metric: MetricAccumulator) -> list[tuple]:
    """A row for each image, for `table`."""
    return [(one["frame"], one, {"targets": one["targets"], "found": one["matched"]}) for one in metric.image_metrics()]
