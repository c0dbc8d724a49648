"""Curves as files: a csv with a row per threshold, and plots of precision-recall, ROC and Pd over Fa."""

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
    _write_plot(
        files[1], curves.recall, curves.precision, "recall", "precision", f"average precision {_number(curves.ap)}"
    )
    _write_plot(
        files[2],
        *_with_end(curves.false_positive_rate, curves.recall),
        "false positive rate",
        "true positive rate",
        f"area under the curve {_number(curves.auc)}",
    )
    _write_plot(
        files[3],
        curves.fa / FA_UNIT,
        curves.pd,
        "Fa (x 1e-6)",
        "Pd",
        f"{len(curves.threshold)} thresholds from 0 to 1",
        log_x=True,
    )
    return files


def _with_end(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add (1, 1), where the ROC ends: the map of all pixels, which no threshold reaches where scores are 0."""
    return np.concatenate([[1.0], x]), np.concatenate([[1.0], y])


def _write_plot(path: Path, x, y, x_name: str, y_name: str, title: str, log_x: bool = False) -> None:
    """Plot y in 0..1 over x: on a symmetric logarithmic axis from 0 with `log_x`, else from 0 to 1."""
    from matplotlib.figure import Figure  # imported here, since only plots need matplotlib

    figure = Figure(figsize=PLOT_INCHES, dpi=PLOT_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, y, marker=".", markersize=4, linewidth=1.2, color="tab:blue")
    axes.set(xlabel=x_name, ylabel=y_name, title=title, ylim=(-0.02, 1.02))
    if log_x:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(left=0)
    else:
        axes.set_xlim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
