"""report.html: one page without any other file, that shows in a minute how good a network is and where it fails."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from datasets import ClipDataset
from datasets.catalog import DatasetInfo
from test_script.predictor import Predictor
from test_script.report.report_cases import Case, choose_items, show_case
from test_script.results.inference_results import Results, published_lines
from utils.files import atomic_path
from utils.metrics import MetricAccumulator
from utils.metrics.tables import HEADINGS, format_metric

TEMPLATE = Path(__file__).with_name("report_template.html")
HEADLINE = {  # metric -> what the tile says
    "iou": "IoU, %",
    "niou": "nIoU, %",
    "pd": "Pd: targets found, %",
    "fa": "Fa: false pixels, × 1e-6",
    "f1": "F1 of pixels, %",
    "ap": "average precision, %",
}


def write_report(
    path: Path,
    results: Results,
    metrics: dict[str, dict],
    info: DatasetInfo,
    facts: dict[str, Any],
    dataset: ClipDataset,
    predictor: Predictor,
) -> None:
    """Write the page.

    `metrics` are those of `write_results`, `facts` what the run was. The curves' pictures come from the folder curves/
    beside `path`; the network runs once more on the frames that are shown.
    """
    first, metric = next(iter(results.metrics.items()))
    worst, best = choose_items(metric.rows)
    shown = {item: show_case(item, metric.rows[item], dataset, predictor, metric.protocol) for item in [*worst, *best]}
    single_images = not results.sequence_curves
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{facts['model']} on {facts['dataset']}"),
        subtitle=escape(subtitle(metrics[first], facts, len(results.sequence_curves))),
        tiles=tiles(metrics[first]),
        notes="".join(f'<p class="hint">{escape(note)}</p>' for note in facts["notes"]),
        metrics=metrics_table_html(metrics, published_lines(info)),
        areas=areas_table_html(metrics[first]["by_area"]),
        curves="".join(
            f'<img class="card" alt="{alt}" src="{data_url(path.parent / "curves" / name)}">'
            for name, alt in (
                ("precision_recall.png", "precision over recall"),
                ("roc.png", "ROC curve"),
                ("pd_over_fa.png", "Pd over Fa"),
            )
        ),
        table_title="Images" if single_images else "Sequences",
        first=escape(first),
        table=images_table(metric) if single_images else sequences_table(metric, metrics[first]["sequences"]),
        worst="".join(case_html(shown[item]) for item in worst),
        best="".join(case_html(shown[item]) for item in best) or '<p class="hint">No frame with a target.</p>',
        footer=escape(f"checkpoint {facts['checkpoint']}; all metrics with their digits in metrics.json"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def subtitle(metrics: dict[str, Any], facts: dict[str, Any], sequences: int) -> str:
    """The line below the title."""
    scales = [] if tuple(facts["scales"]) == (1.0,) else [f"scales {', '.join(map(str, facts['scales']))}"]
    averaging = " and ".join([*(["flip"] if facts["flip"] else []), *scales])
    counts = [f"{sequences} sequences"] * (sequences > 0) + [
        f"{metrics['images']} frames",
        f"{metrics['targets']} targets",
    ]
    parts = [f"{facts['split']} split", *counts]
    return " · ".join([*parts, f"averaged over {averaging}" if averaging else "no averaging over flips or scales"])


def tiles(metrics: dict[str, Any]) -> str:
    """The first protocol's metrics, large."""
    return "".join(
        f'<div class="card tile"><b>{format_metric(name, metrics[name])}</b><span>{text}</span></div>'
        for name, text in HEADLINE.items()
        if metrics.get(name) is not None
    )


def metrics_table_html(metrics: dict[str, dict], published: dict[str, dict]) -> str:
    """Ours by protocol, then the published ones."""
    names = [name for name in HEADINGS if any(one.get(name) is not None for one in metrics.values())]
    rows = [("", title, one) for title, one in metrics.items()]
    rows += [(' class="published"', title, one) for title, one in published.items()]
    head = "".join(f"<th>{escape(HEADINGS[name][0])}</th>" for name in names)
    body = "".join(
        f"<tr{kind}><td>{escape(title)}</td>"
        + "".join(f"<td>{format_metric(n, one.get(n))}</td>" for n in names)
        + "</tr>"
        for kind, title, one in rows
    )
    return f"<table><thead><tr><th>protocol</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def areas_table_html(by_area: dict[str, dict]) -> str:
    """Pd by the targets' area."""
    head = "".join(f"<th>{escape(name)} px</th>" for name in by_area)
    body = "".join(
        f"<tr><td>{title}</td>" + "".join(f"<td>{show(one)}</td>" for one in by_area.values()) + "</tr>"
        for title, show in (
            ("targets", lambda one: one["targets"]),
            ("found", lambda one: one["matched"]),
            ("Pd %", lambda one: format_metric("pd", one["pd"])),
        )
    )
    return f"<table><thead><tr><th>target area</th>{head}</tr></thead><tbody>{body}</tbody></table>"


def sequences_table(metric: MetricAccumulator, sequences: dict[str, dict]) -> str:
    """A sortable row for each sequence."""
    counts = {name: [0, 0, 0] for name in sequences}
    for row in metric.rows:
        counts[row.sequence] = [a + b for a, b in zip(counts[row.sequence], (1, row.targets, row.matched), strict=True)]
    titles = ("frames", "targets", "found")
    return sortable_table("sequence", titles, ((name, one, counts[name]) for name, one in sequences.items()))


def images_table(metric: MetricAccumulator) -> str:
    """A sortable row for each image."""
    rows = ((one["frame"], one, [one["targets"], one["matched"]]) for one in metric.image_metrics())
    return sortable_table("image", ("targets", "found"), rows)


def sortable_table(title: str, count_titles: tuple[str, ...], rows: Iterable[tuple[str, dict, list[int]]]) -> str:
    """Rows of (name, metrics, counts), with each cell's plain value for sorting."""
    rows = list(rows)
    names = [name for name in HEADINGS if any(one.get(name) is not None for _, one, _ in rows)]

    def cell(text: object, value: object) -> str:
        return f'<td data-v="{escape(str(value))}">{escape(str(text))}</td>'

    def metric(name: str, value: float | None) -> str:
        return cell(format_metric(name, value), "" if value is None or np.isnan(value) else value)

    head = "".join(
        f"<th><button>{text}</button></th>" for text in (title, *(HEADINGS[n][0] for n in names), *count_titles)
    )
    body = "".join(
        f"<tr>{cell(key, key)}"
        + "".join(metric(n, one.get(n)) for n in names)
        + "".join(cell(n, n) for n in counts)
        + "</tr>"
        for key, one, counts in rows
    )
    return f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def case_html(case: Case) -> str:
    """One frame's pictures."""
    counts = case.counts
    iou = f"{100 * counts.intersection / counts.union:.1f} %" if counts.union else "- (nothing there, nothing found)"
    name = "/".join(part for part in (counts.sequence, counts.frame) if part)
    facts = f"IoU {iou}, {counts.matched} of {counts.targets} targets found, {counts.false_pixels} false px"
    pictures = (
        ("frame, and the part shown beside", "whole", case.frame),
        ("image", "crop", case.image),
        ("prediction (score)", "crop", case.prediction),
        ("mask", "crop", case.mask),
    )
    panels = "".join(
        f'<figure><img class="{kind}" alt="{text}" src="{png_url(picture)}"><figcaption>{text}</figcaption></figure>'
        for text, kind, picture in pictures
    )
    rows, columns = case.surface.shape
    scores = base64.b64encode(case.surface.tobytes()).decode()
    return (
        f'<section class="card case"><h3>{escape(name)}<small>{escape(facts)}</small></h3><div class="panels">{panels}'
        f'<figure><canvas class="surface" data-rows="{rows}" data-columns="{columns}" data-scores="{scores}"></canvas>'
        "<figcaption>score as a surface</figcaption></figure></div></section>"
    )


def png_url(picture: np.ndarray) -> str:
    """RGB uint8 [H, W, 3] -> data URL of a png."""
    data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def data_url(file: Path) -> str:
    """Data URL of a png file."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
