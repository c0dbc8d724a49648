"""report.html: one self-contained page that shows which frames a network fails on, and how good it is."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from istd.datasets.catalog import PublishedMetrics
from istd.test_script.report.frame_pictures import picture_rows
from istd.test_script.report.report_cases import MIDDLE_STEP, STEPS, choose_items, data_url, frame_picture, show_case
from istd.test_script.results.run_folder import REPORT_FRAMES
from istd.test_script.results.set_results import published_lines, run_name
from istd.test_script.results.shards import Results
from istd.utils.drawing import PREDICTED, TRUTH
from istd.utils.files import json_ready, write_text
from istd.utils.metrics import MetricAccumulator
from istd.utils.metrics.accumulator import group_rows
from istd.utils.metrics.boxes import BOX_HEADINGS, box_cells
from istd.utils.metrics.curves import Curves, merge_curves
from istd.utils.metrics.hierarchical import LOC_ERRORS, hierarchical_parts
from istd.utils.metrics.tables import ERRORS, HEADINGS, format_interval, format_metric, interval_facts
from istd.utils.metrics.track_metrics import track_cells
from istd.utils.plots import COLUMNS, best_pd
from istd.utils.provenance import ROOT, commit

TEMPLATES = FileSystemLoader(Path(__file__).parent)
PAGES = Environment(loader=TEMPLATES, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


class Cell(NamedTuple):
    """The text of a table's cell, the value to sort by, and the interval below the text."""

    text: str
    value: Any
    interval: str = ""


def write_report(
    output: Path,
    results: Results,
    metrics: dict[str, dict],
    published: Iterable[PublishedMetrics],
    facts: dict[str, Any],
    notes: list[str],
    tracks: list[dict],
    trails: list[dict],
) -> None:
    """Write report.html into `output`, whose curves/ and `REPORT_FRAMES` it shows, and delete the frames not shown.

    metrics: from `set_metrics`; tracks, trails: from `measure_tracks` and `draw_trails`, [] for single images.
    """
    kept = output / REPORT_FRAMES
    first, metric = next(iter(results.metrics.items()))
    main = metrics[first]
    items = choose_items(dict(enumerate(metric.rows)))
    worst, best = ([show_case(metric.rows[item], frame_picture(kept, item)) for item in chosen] for chosen in items)
    for file in set(kept.glob("*.png")) - {frame_picture(kept, item) for chosen in items for item in chosen}:
        file.unlink()

    def target_counts(values: Mapping) -> dict[str, int]:
        return {"targets": values["targets"], "found": values["matched"]}

    areas = [(f"{name} px", {"pd": values["pd"]}, target_counts(values)) for name, values in main["by_area"].items()]
    if None in results.curves:  # single images
        details = table("image", [(row["frame"], row, target_counts(row)) for row in metric.image_metrics()])
    else:
        details = table("sequence", sequence_rows(metric, main["sequences"]))
    protocols = [(name, values, {}) for name, values in (metrics | published_lines(published)).items()]
    intervals = {name: values["intervals"]["metrics"] for name, values in metrics.items()}
    page = PAGES.get_template("report.html").render(
        run=facts,
        metrics=main,
        format_metric=format_metric,
        sequences=0 if None in results.curves else len(results.curves),
        first=first,
        steps=STEPS,
        middle=MIDDLE_STEP,
        name=run_name(facts),
        date=datetime.now(timezone.utc).date().isoformat(),
        commit=commit(ROOT),
        truth=css_color(TRUTH),
        prediction=css_color(PREDICTED),
        set_curves=curve_lists(merge_curves(results.curves.values()).compute()),
        false_tracks=any(row["false_tracks"] for row in tracks),
        missed=any(row["found"] < row["targets"] for row in tracks),
        worst=worst,
        best=best,
        notes=notes,
        protocols=table("protocol", protocols, intervals),
        measured=len(metrics),
        intervals=interval_facts(main["intervals"]),
        boxes=text_cells(box_rows(main)),
        errors=error_rows(results.metrics, metrics),
        areas=table("target area", areas),
        tracks=text_cells(track_cells(tracks)) if tracks else None,
        trails=trails,
        curve=lambda name: data_url((output / "curves" / name).read_bytes()),
        details=details,
        pictures=picture_rows(kept, metric.rows),
    )
    write_text(output / "report.html", page)


def css_color(color: tuple[int, int, int]) -> str:
    """An RGB colour in the notation of CSS."""
    return "#" + bytes(color).hex()


def curve_lists(curves: Curves) -> dict[str, Any]:
    """The curves that the page draws: their `COLUMNS`, `best_pd`, and whether the scores rank pixels at all."""
    lists = {name: getattr(curves, name).tolist() for name in COLUMNS}
    fa, pd = best_pd(curves)
    return json_ready(lists | {"best_fa": fa.tolist(), "best_pd": pd.tolist(), "ranks": curves.ap is not None})


def table(
    title: str,
    rows: list[tuple[str, Mapping[str, float | None], Mapping[str, int]]],
    intervals: Mapping[str, Mapping[str, list[float]]] | None = None,
) -> dict[str, list]:
    """Rows of (name, metrics, counts) as `head` and `rows` of `Cell`; `intervals`: [low, high] by name and metric."""
    intervals = intervals or {}
    keys = [key for key in HEADINGS if any(values.get(key) is not None for _, values, _ in rows)]
    head = [title, *(HEADINGS[key][0] for key in keys), *(rows[0][2] if rows else ())]
    cells = []
    for name, values, counts in rows:
        ends = [intervals.get(name, {}).get(key, ()) for key in keys]
        metrics = [
            Cell(format_metric(key, values.get(key)), json_ready(values.get(key)), format_interval(key, pair, "–"))
            for key, pair in zip(keys, ends, strict=True)
        ]
        cells.append([Cell(name, name), *metrics, *(Cell(str(count), count) for count in counts.values())])
    return {"head": head, "rows": cells}


def error_rows(accumulators: Mapping[str, MetricAccumulator], metrics: Mapping[str, dict]) -> list[dict[str, Any]]:
    """hIoU, and the share of each error with its number of objects, by the first protocol that defines hIoU.

    [] if no protocol does, or if there are neither targets nor predicted regions.
    """
    name = next((name for name, values in metrics.items() if values["hiou"] is not None), None)
    if name is None or math.isnan(metrics[name]["hiou"]):
        return []
    rows = accumulators[name].rows
    counts = {error: sum(row.unmatched[kind] for row in rows) for kind, error in enumerate(LOC_ERRORS)}
    counts["hiou"] = sum(len(row.pairs) for row in rows)
    return [
        {"part": part, "name": ERRORS[part][0], "meaning": ERRORS[part][1], "share": share, "count": counts.get(part)}
        for part, share in hierarchical_parts(metrics[name]).items()
    ]


def text_cells(lines: list[list[str]]) -> dict[str, list]:
    """Lines of text, the heading first, in the form that `table` returns; metrics are texts of `with_interval`."""
    rows = []
    for name, *metrics in lines[1:]:
        parts = [text.rstrip(")").partition(" (") for text in metrics]
        rows.append([Cell(name, name), *(Cell(text, text, ends.replace("-", "–")) for text, _, ends in parts)])
    return {"head": lines[0] if lines else [], "rows": rows}


def box_rows(metrics: Mapping) -> list[list[str]]:
    """The metrics of boxes, the heading first; [] if the dataset has no annotated boxes."""
    if "boxes" not in metrics:
        return []
    boxes = metrics["boxes"]
    head = ["boxes, IoU 0.5", *(f"{name} %" for name in BOX_HEADINGS.values()), "annotated", "detected"]
    return [head, ["all frames", *box_cells(boxes), str(boxes["boxes"]), str(boxes["detections"])]]


def sequence_rows(metric: MetricAccumulator, sequences: Mapping[str, dict]) -> list[tuple]:
    """A row for each sequence, for `table`."""
    groups = group_rows(metric.rows, lambda row: row.sequence)
    rows = []
    for name, values in sequences.items():
        targets, matched = (sum(getattr(row, count) for row in groups[name]) for count in ("targets", "matched"))
        rows.append((name, values, {"frames": len(groups[name]), "targets": targets, "found": matched}))
    return rows
