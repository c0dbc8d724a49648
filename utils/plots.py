"""Plots of metrics: curves of one or several runs (with a csv of a row per threshold) and heat maps."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from istd.utils.files import atomic_path, write_csv
from istd.utils.metrics.curves import MIDDLE, Curves
from istd.utils.names import printable

COLUMNS = ("logit", "threshold", "precision", "recall", "false_positive_rate", "pd", "fa")
FA_LIMITS = (1e-7, 1e-3)  # of the axis, at least; a lower Fa, 0 included, is drawn at the left limit
FPR_LIMITS = (1e-6, 1.0)
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito 2008
STYLES = ("-", "--", "-.", ":")  # a style for each round of the colours
F1_LINES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of equal F1 behind precision over recall
GREY = "0.75"
PLOT_SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # of the formats that can be written
PLOT_HEIGHT = 4.2  # inches
LEGEND_LINE = 0.2  # inches of an entry below the axes
UNIT_RANGE = (-0.02, 1.02)  # limits of an axis for values in 0..1
BETTER = {False: ("YlGnBu", "higher is better"), True: ("OrRd", "lower is better")}  # colours and text of heat maps


def write_curves(runs: Mapping[str, Curves], folder: str | Path, title: str = "") -> list[Path]:
    """Write curves.csv, precision_recall.png, roc.png and pd_over_fa.png into `folder`; returns the paths.

    runs: curves by their name in the legend, such as a network; title: what they have in common, such as dataset and
    protocol. The csv has ratios, empty for NaN, and a column "run" for several runs. Points mark the threshold 0.5.
    """
    folder, runs = Path(folder), {plot_text(name): curves for name, curves in runs.items()}
    names = ("curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png")
    files = [folder / name for name in names]
    rows = [
        [name, *values]
        for name, curves in runs.items()
        for values in zip(*(getattr(curves, column).tolist() for column in COLUMNS), strict=True)
    ]
    several = len(runs) > 1
    write_csv(files[0], ("run", *COLUMNS) if several else COLUMNS, rows if several else (row[1:] for row in rows))
    _draw_precision_recall(files[1], runs, title)
    _draw_roc(files[2], runs, title)
    _draw_pd_over_fa(files[3], runs, title)
    return files


def _draw_precision_recall(path: Path, runs: Mapping[str, Curves], title: str) -> None:
    labels = {"xlabel": "recall of pixels", "ylabel": "precision of pixels", "xlim": UNIT_RANGE}
    with plot(path, title, lines=len(runs), **labels) as axes:
        recall = np.linspace(0.01, 1, 200)
        for f1 in F1_LINES:
            precision = f1 * recall / np.maximum(2 * recall - f1, 1e-9)
            inside = (2 * recall > f1) & (precision <= 1)
            axes.plot(recall[inside], precision[inside], color=GREY, linewidth=0.7, zorder=1)
            axes.annotate(f"F1 {f1}", (1.0, f1 / (2 - f1)), color="0.5", fontsize=7, ha="right", va="bottom")
        for (name, curves), style in zip(runs.items(), _styles(runs), strict=True):
            label, pixels = f"{name}: AP {_percent(curves.ap)}", curves.pixels
            _draw_line(axes, curves, pixels.recall, pixels.precision, MIDDLE, label, style)


def _draw_roc(path: Path, runs: Mapping[str, Curves], title: str) -> None:
    labels = {"xlabel": "false-positive rate of pixels", "ylabel": "true-positive rate of pixels"}
    with plot(path, title, lines=len(runs), **labels, xlim=FPR_LIMITS) as axes:
        axes.set_xscale("log")
        chance = np.logspace(-6, 0, 100)
        axes.plot(chance, chance, color=GREY, linewidth=1, linestyle=":", zorder=1)
        for (name, curves), style in zip(runs.items(), _styles(runs), strict=True):
            # the ROC ends at (1, 1): the map of all pixels, which no threshold reaches
            rates = [np.append(1.0, rate) for rate in (curves.pixels.false_positive_rate, curves.pixels.recall)]
            rates[0] = np.maximum(rates[0], FPR_LIMITS[0])
            _draw_line(axes, curves, *rates, MIDDLE + 1, f"{name}: AUC {_percent(curves.auc)}", style)


def _draw_pd_over_fa(path: Path, runs: Mapping[str, Curves], title: str) -> None:
    right = FA_LIMITS[1]
    labels = {"xlabel": "Fa (false-alarm pixels / all pixels)", "ylabel": "Pd"}
    with plot(path, title, lines=len(runs), **labels) as axes:
        axes.set_xscale("log")
        for (name, curves), style in zip(runs.items(), _styles(runs), strict=True):
            fa, pd = best_pd(curves)
            middle = curves.middle
            point = (max(curves.fa[middle], FA_LIMITS[0]), curves.pd[middle])
            label = f"{name}: Pd {_percent(curves.pd[middle])}, Fa {_millionths(curves.fa[middle])} at 0.5"
            right = max(right, 10.0 ** math.ceil(math.log10(point[0]))) if math.isfinite(point[0]) else right
            if curves.ap is not None:
                axes.plot(np.maximum(fa, FA_LIMITS[0]), pd, drawstyle="steps-post", linewidth=1.8, **style)
            axes.plot(*point, "o", markersize=6, color=style["color"], label=label)
        axes.set_xlim(FA_LIMITS[0], right)


def best_pd(curves: Curves) -> tuple[np.ndarray, np.ndarray]:
    """Fa, ascending, and the highest Pd of all thresholds whose Fa is no higher.

    Fa is not monotonic over the thresholds: a region that splits leaves parts that match no target.
    """
    order = np.lexsort((-curves.pd, curves.fa))
    return curves.fa[order], np.maximum.accumulate(np.nan_to_num(curves.pd[order]))


def _draw_line(axes: Any, curves: Curves, x: np.ndarray, y: np.ndarray, middle: int, label: str, style: dict) -> None:
    """A line with a point at index `middle`, or the point alone where the scores rank nothing."""
    if curves.ap is None:
        axes.plot(x[middle], y[middle], "o", markersize=6, color=style["color"], label=label)
        return
    known = np.isfinite(x) & np.isfinite(y)
    axes.plot(x[known], y[known], linewidth=1.8, label=label, **style)
    axes.plot(x[middle], y[middle], "o", markersize=6, color=style["color"])


def _styles(runs: Mapping[str, Curves]) -> list[dict[str, str]]:
    count = len(COLORS)
    return [{"color": COLORS[i % count], "linestyle": STYLES[i // count % len(STYLES)]} for i in range(len(runs))]


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _millionths(value: float) -> str:
    return "-" if math.isnan(value) else f"{1e6 * value:.1f} × $10^{{-6}}$"


@contextmanager
def saved_axes(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield the axes of a matplotlib figure of this size in inches, and save it if the block succeeds."""
    from matplotlib.figure import Figure  # imported here, since only plots need matplotlib

    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    yield figure.add_subplot()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def plot_text(text: str) -> str:
    """The text for matplotlib: without control characters, and with dollars that do not begin a formula."""
    return printable(text).replace("$", r"\$")


@contextmanager
def plot(path: Path, title: str = "", width: float = 5.0, lines: int = 0, **settings: Any) -> Iterator[Any]:
    """Yield matplotlib axes for y in 0..1 and save them, `width` inches wide, with `settings` as for `Axes.set`.

    A legend of `lines` entries stands below the axes, where it hides no curve.
    """
    with saved_axes(path, width, PLOT_HEIGHT + LEGEND_LINE * lines) as axes:
        yield axes
        if lines:
            axes.figure.legend(loc="outside lower center", fontsize=8, frameon=False)
        axes.set(title=plot_text(title), ylim=UNIT_RANGE, **settings)
        axes.grid(alpha=0.25)


def write_heat_map(path: Path, table: list[list[str]], lower_is_better: bool = False) -> None:
    """Draw a table of numbers ('-' for none) with the columns' names, after the title, and the rows' names.

    The largest numbers are the darkest: blue where higher is better; red, and logarithmic, where lower is better.
    """
    (title, *columns), *rows = [list(map(plot_text, row)) for row in table]
    values = np.array([[math.nan if text == "-" else float(text) for text in row[1:]] for row in rows])
    levels = np.ma.masked_invalid(np.log1p(values) if lower_is_better else values)
    colors, direction = BETTER[lower_is_better]
    with saved_axes(path, 3.4 + 1.25 * len(columns), 1.6 + 0.5 * len(rows)) as axes:
        picture = axes.imshow(levels, aspect="auto", cmap=colors)
        dark = picture.norm(levels).filled(0) > 0.55
        for (row, column), is_dark in np.ndenumerate(dark):
            ink = "white" if is_dark else "black"
            axes.text(column, row, rows[row][column + 1], ha="center", va="center", color=ink)
        axes.set_xticks(range(len(columns)), columns, rotation=20 if len(columns) > 3 else 0)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_title(f"{title}, {direction}")
