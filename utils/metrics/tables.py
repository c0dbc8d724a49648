"""Metrics and protocols as text tables."""

import inspect
import math
from collections.abc import Mapping, Sequence

from istd.utils.metrics.bootstrap import MIN_UNITS
from istd.utils.metrics.hierarchical import hierarchical_parts
from istd.utils.metrics.protocols import PROTOCOLS, Protocol
from istd.utils.names import printable

HEADINGS = {  # metric -> column heading and factor
    "iou": ("IoU %", 100),
    "niou": ("nIoU %", 100),
    "hiou": ("hIoU %", 100),
    "pd": ("Pd %", 100),
    "fa": ("Fa x1e-6", 1e6),
    "target_precision": ("target prec. %", 100),
    "target_recall": ("target rec. %", 100),
    "target_f1": ("target F1 %", 100),
    "precision": ("pixel prec. %", 100),
    "recall": ("pixel rec. %", 100),
    "f1": ("pixel F1 %", 100),
    "ap": ("pixel AP %", 100),
    "auc": ("pixel AUC %", 100),
    "video_mean": ("Video %", 100),
}
MAIN = ("iou", "niou", "pd", "fa", "f1")

ERRORS = {  # part of `hierarchical_parts` -> column heading, and its meaning
    "hiou": ("hIoU", "located and outlined correctly"),
    "seg_missed": ("outline too small", "outlines of located targets miss some of their pixels"),
    "seg_merged": ("outline into others", "outlines of located targets reach into other targets"),
    "seg_false": ("outline too large", "outlines of located targets cover background"),
    "loc_missed": ("missed", "targets without any region close enough to match"),
    "loc_merged": ("merged", "targets whose region is matched with another target"),
    "loc_split": ("split", "regions whose target is matched with another region"),
    "loc_false": ("false", "regions without any target close enough to match"),
}


def text_table(rows: list[list[str]]) -> str:
    """Align rows of cells in columns, the first of them to the left; the first row is the heading."""
    rows = [list(map(printable, row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def format_metric(name: str, value: float | None) -> str:
    """A metric in the unit of its column; '-' if it is undefined or NaN."""
    return "-" if value is None or math.isnan(value) else f"{value * HEADINGS[name][1]:.2f}"


def with_interval(value: float | None, ends: Sequence[float] | None, factor: float = 100) -> str:
    """A number times `factor`, with its interval: "94.68 (91.88-97.36)"; '-' if it is undefined or NaN."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value * factor:.2f}" + (f" ({ends[0] * factor:.2f}-{ends[1] * factor:.2f})" if ends else "")


def metrics_line(metrics: Mapping[str, float | None]) -> str:
    """The MAIN metrics that are defined, in a line: "IoU 86.42 %, Fa 10.81 x1e-6"."""
    defined = {name: metrics.get(name) for name in MAIN if format_metric(name, metrics.get(name)) != "-"}
    return ", ".join(metric_text(name, value) for name, value in defined.items())


def metric_text(name: str, value: float | None) -> str:
    """A metric with its heading and its unit: "IoU 86.42 %"."""
    heading, unit = HEADINGS[name][0].rsplit(maxsplit=1)
    return f"{heading} {format_metric(name, value)} {unit}"


def metrics_table(results: Mapping[str, Mapping[str, float | None]], title: str) -> str:
    """A table of sets of metrics, one per line; columns without any value are left out."""
    names = [name for name in HEADINGS if any(result.get(name) is not None for result in results.values())]
    rows = [[title, *(HEADINGS[name][0] for name in names)]]
    rows += [[key, *(format_metric(name, result.get(name)) for name in names)] for key, result in results.items()]
    return text_table(rows)


def interval_facts(intervals: Mapping) -> str:
    """What `bootstrap_intervals` resampled, or why there are no intervals."""
    facts, units, unit = f"{100 * intervals['coverage']:g} % intervals", intervals["units"], intervals["unit"]
    if units < MIN_UNITS:
        return f"no {facts}: resampling needs at least {MIN_UNITS} {unit}, and this set has {units}"
    return f"{facts} over {units} {unit}" if intervals["metrics"] else f"no {facts}: all resamples of {unit} agree"


def interval_table(results: Mapping[str, Mapping]) -> str:
    """A table of the bootstrap intervals of sets of metrics, or a line that says why there are none."""
    known = {name: result["intervals"]["metrics"] for name, result in results.items()}
    facts = interval_facts(results[max(known, key=lambda name: len(known[name]))]["intervals"])
    metrics = [name for name in HEADINGS if any(name in intervals for intervals in known.values())]
    rows = [[facts, *(HEADINGS[name][0] for name in metrics)]]
    for name, intervals in known.items():
        rows.append([name, *(format_interval(metric, intervals.get(metric, ())) or "-" for metric in metrics)])
    return text_table(rows) if metrics else facts


def format_interval(name: str, ends: Sequence[float], dash: str = "-") -> str:
    """The low and the high end of a metric's interval in the unit of its column; "" without ends."""
    return dash.join(format_metric(name, end) for end in ends)


def error_table(results: Mapping[str, Mapping[str, float | None]], title: str = "") -> str:
    """A table of hIoU and the share that each error takes from it, in percent; "" if no set of metrics has hIoU."""
    known = {name: hierarchical_parts(metrics) for name, metrics in results.items() if metrics.get("hiou") is not None}
    heading = [title, *(heading for heading, _ in ERRORS.values())]
    rows = [[name, *(format_metric("hiou", parts[part]) for part in ERRORS)] for name, parts in known.items()]
    return text_table([heading, *rows]) if rows else ""


def areas_table(by_area: Mapping[str, Mapping[str, float | int]]) -> str:
    """A table of `area_metrics`, with a column for each class of area."""
    rows = [["area", *by_area]]
    rows += [[name, *(str(area[name]) for area in by_area.values())] for name in ("targets", "matched")]
    return text_table([*rows, [HEADINGS["pd"][0], *(format_metric("pd", area["pd"]) for area in by_area.values())]])


def protocols_text() -> str:
    """The rules of all protocols."""
    return "\n\n".join(map(_protocol_text, PROTOCOLS.values()))


def _protocol_text(protocol: Protocol) -> str:
    """The rules of a protocol, one per line."""
    score = "logit" if protocol.scale == "logit" else "P"

    def rule(function) -> str:
        return "not defined" if function is None else inspect.getdoc(function).format(score=score)

    parts = {
        "score": "probability P" if protocol.scale == "probability" else protocol.scale,
        "map for IoU": rule(protocol.iou_map) if protocol.iou or protocol.niou else "not defined",
        "map for Pd, Fa, F1": rule(protocol.target_map),
        "IoU": rule(protocol.iou),
        "nIoU": rule(protocol.niou),
        "hIoU": rule(protocol.hiou),
        "targets matched": rule(protocol.matching),
        "Pd": rule(protocol.pd),
        "Fa": rule(protocol.false_pixels),
        "pixel precision, recall, F1": "over all pixels of the set" if protocol.pixel_scores else "not defined",
    }
    if protocol.target_scores:
        parts["target precision, recall, F1"] = (
            "matched regions / regions, matched targets / targets, their harmonic mean"
        )
    if protocol.video_mean:
        parts["video mean"] = "mean over videos of the mean over their frames of the frame IoU"
    width = max(map(len, parts))
    return "\n".join([f"{protocol.name}: {protocol.source}", *(f"  {k.ljust(width)}  {v}" for k, v in parts.items())])
