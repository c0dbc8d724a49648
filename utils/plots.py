"""Pictures of metrics: curves (with a csv of a row per threshold) and heat maps."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from istd.utils.files import atomic_path, write_csv
from istd.utils.metrics.curves import Curves

COLUMNS = ("threshold", "precision", "recall", "false_positive_rate", "pd", "fa")
FA_UNIT = 1e-6  # false-alarm rates are shown in millionths
LINE = {"marker": ".", "markersize": 4, "linewidth": 1.2, "color": "tab:blue"}
PLOT_SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")  # of the formats that are written
UNIT_RANGE = (-0.02, 1.02)  # limits of an axis for values in 0..1


def write_curves(curves: Curves, folder: str | Path) -> list[Path]:
    """Write curves.csv (ratios, empty for NaN), precision_recall.png, roc.png and pd_over_fa.png; returns the paths."""
    folder = Path(folder)
    files = [folder / name for name in ("curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png")]
    write_csv(files[0], COLUMNS, zip(*(getattr(curves, name).tolist() for name in COLUMNS), strict=True))
    ap, auc = ("-" if math.isnan(area) else f"{area:.4f}" for area in (curves.ap, curves.auc))
    with plot(files[1], f"average precision {ap}", xlabel="recall", ylabel="precision", xlim=UNIT_RANGE) as axes:
        axes.plot(curves.recall, curves.precision, **LINE)
    labels = {"xlabel": "false positive rate", "ylabel": "true positive rate"}
    with plot(files[2], f"area under the curve {auc}", **labels, xlim=UNIT_RANGE) as axes:
        # the ROC ends at (1, 1): the map of all pixels, which no threshold reaches where scores are 0
        axes.plot(*(np.append(1.0, values) for values in (curves.false_positive_rate, curves.recall)), **LINE)
    title = f"{len(curves.threshold)} thresholds from 0 to 1"
    with plot(files[3], title, xlabel="Fa (x 1e-6)", ylabel="Pd", xlim=(0, None)) as axes:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.plot(curves.fa / FA_UNIT, curves.pd, **LINE)
    return files


@contextmanager
def saved_axes(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield matplotlib axes of a figure of this size in inches, which is saved if the block succeeds."""
    from matplotlib.figure import Figure  # imported here, since only plots need matplotlib

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    yield figure.add_subplot()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


@contextmanager
def plot(path: Path, title: str = "", width: float = 5.0, **settings: Any) -> Iterator[Any]:
    """Yield matplotlib axes for y in 0..1 and save them, `width` inches wide, with `settings` as for `Axes.set`."""
    with saved_axes(path, width, 4.2) as axes:
        yield axes
        axes.set(title=title, ylim=UNIT_RANGE, **settings)
        axes.grid(alpha=0.3)


def write_heat_map(path: Path, table: list[list[str]], lower_is_better: bool = False) -> None:
    """Draw a table of numbers ('-' for none): the title, then the columns' names; rows that begin with their name.

    The best numbers are the brightest; where lower is better, colours are logarithmic.
    """
    (title, *columns), rows = table[0], table[1:]
    values = np.array([[math.nan if text == "-" else float(text) for text in row[1:]] for row in rows])
    goodness = -np.log1p(values) if lower_is_better else values
    with saved_axes(path, 3.4 + 1.25 * len(columns), 1.6 + 0.5 * len(rows)) as axes:
        picture = axes.imshow(goodness, aspect="auto")
        dark = picture.norm(np.ma.masked_invalid(goodness)).filled(1) < 0.6
        for (row, column), is_dark in np.ndenumerate(dark):
            ink = "white" if is_dark else "black"
            axes.text(column, row, rows[row][column + 1], ha="center", va="center", color=ink)
        axes.set_xticks(range(len(columns)), columns, rotation=20 if len(columns) > 3 else 0)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows])
        axes.set_title(title)
