"""Pictures of metrics: curves (with a csv of a row per threshold) and heat maps."""

import csv
import math
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.curves import Curves

COLUMNS = ("threshold", "precision", "recall", "false_positive_rate", "pd", "fa")
FA_UNIT = 1e-6  # false-alarm rates are shown in millionths
PLOT_INCHES = (5.0, 4.2)
PLOT_DPI = 120


def write_curves(curves: Curves, folder: str | Path) -> list[Path]:
    """Write curves.csv (ratios, empty for NaN), precision_recall.png, roc.png and pd_over_fa.png; returns the paths."""
    folder = Path(folder)
    files = [folder / name for name in ("curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png")]
    with atomic_path(files[0]) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for values in zip(*(getattr(curves, name).tolist() for name in COLUMNS), strict=True):
            writer.writerow("" if math.isnan(value) else value for value in values)
    ap, auc = ("-" if math.isnan(area) else f"{area:.4f}" for area in (curves.ap, curves.auc))
    _write_plot(files[1], curves.recall, curves.precision, ("recall", "precision", f"average precision {ap}"))
    # the ROC ends at (1, 1): the map of all pixels, which no threshold reaches where scores are 0
    roc = (np.append(1.0, values) for values in (curves.false_positive_rate, curves.recall))
    _write_plot(files[2], *roc, ("false positive rate", "true positive rate", f"area under the curve {auc}"))
    texts = ("Fa (x 1e-6)", "Pd", f"{len(curves.threshold)} thresholds from 0 to 1")
    _write_plot(files[3], curves.fa / FA_UNIT, curves.pd, texts, log_x=True)
    return files


def _write_plot(path: Path, x, y, texts: tuple[str, str, str], log_x: bool = False) -> None:
    """Plot y in 0..1 over x, on a symmetric logarithmic axis with `log_x`; `texts` are of x, of y, and the title."""
    from matplotlib.figure import Figure  # imported here, since only plots need matplotlib

    figure = Figure(figsize=PLOT_INCHES, dpi=PLOT_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, y, marker=".", markersize=4, linewidth=1.2, color="tab:blue")
    axes.set(xlabel=texts[0], ylabel=texts[1], title=texts[2], ylim=(-0.02, 1.02))
    if log_x:
        axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(*((0, None) if log_x else (-0.02, 1.02)))
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def write_heat_map(path: Path, table: list[list[str]], lower_is_better: bool = False) -> None:
    """Draw a table of numbers ('-' for none): the title, then the columns' names; rows that begin with their name.

    The best numbers are the brightest; where lower is better, colours are logarithmic.
    """
    from matplotlib.figure import Figure

    (title, *columns), rows = table[0], table[1:]
    values = np.array([[math.nan if text == "-" else float(text) for text in row[1:]] for row in rows])
    goodness = -np.log1p(values) if lower_is_better else values
    figure = Figure(figsize=(3.4 + 1.25 * len(columns), 1.6 + 0.5 * len(rows)), dpi=PLOT_DPI, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(goodness, aspect="auto")
    dark = picture.norm(np.ma.masked_invalid(goodness)).filled(1) < 0.6
    for (row, column), is_dark in np.ndenumerate(dark):
        ink = "white" if is_dark else "black"
        axes.text(column, row, rows[row][column + 1], ha="center", va="center", color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=20 if len(columns) > 3 else 0)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_title(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
