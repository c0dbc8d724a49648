"""Curves as files: one csv with every threshold, and a picture each of PR, ROC and Pd over Fa."""

import csv
import math
from pathlib import Path

import numpy as np

from utils.files import atomic_path
from utils.metrics.curves import Curves

COLUMNS = ("threshold", "precision", "recall", "false_positive_rate", "pd", "fa")
FA_UNIT = 1e-6  # false-alarm rates are shown in millionths
PICTURE_INCHES = (5.0, 4.2)
PICTURE_DPI = 120


def write_curves(curves: Curves, folder: str | Path) -> list[Path]:
    """Write curves.csv (ratios, empty for NaN), precision_recall.png, roc.png, pd_over_fa.png; returns their paths."""
    folder = Path(folder)
    files = [folder / name for name in ("curves.csv", "precision_recall.png", "roc.png", "pd_over_fa.png")]
    with atomic_path(files[0]) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for values in zip(*(getattr(curves, name).tolist() for name in COLUMNS), strict=True):
            writer.writerow("" if math.isnan(value) else value for value in values)
    _write_picture(
        files[1], curves.recall, curves.precision, "recall", "precision", f"average precision {_figure(curves.ap)}"
    )
    _write_picture(
        files[2],
        *_with_end(curves.false_positive_rate, curves.recall),
        "false positive rate",
        "true positive rate",
        f"area under the curve {_figure(curves.auc)}",
    )
    _write_picture(
        files[3],
        curves.fa / FA_UNIT,
        curves.pd,
        "Fa (x 1e-6)",
        "Pd",
        f"{len(curves.threshold)} thresholds from 0 to 1",
        small_to_large=True,
    )
    return files


def _with_end(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC ends in (1, 1), the map of all pixels, which no threshold reaches where scores are 0."""
    return np.concatenate([[1.0], x]), np.concatenate([[1.0], y])


def _write_picture(path: Path, x, y, x_name: str, y_name: str, title: str, small_to_large: bool = False) -> None:
    """Draw y (0..1) over x; `small_to_large`: x from 0 over many powers of ten, else 0..1."""
    from matplotlib.figure import Figure  # here, so that nothing but a picture needs matplotlib

    figure = Figure(figsize=PICTURE_INCHES, dpi=PICTURE_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(x, y, marker=".", markersize=4, linewidth=1.2, color="tab:blue")
    axes.set(xlabel=x_name, ylabel=y_name, title=title, ylim=(-0.02, 1.02))
    if small_to_large:
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(left=0)
    else:
        axes.set_xlim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
