"""Curves as files: a csv with a row per threshold, and plots of precision-recall, ROC and Pd over Fa."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import atomic_path, write_csv
from utils.metrics.curves import Curves

COLUMNS = ("threshold", "precision", "recall", "false_positive_rate", "pd", "fa")
FA_UNIT = 1e-6  # false-alarm rates are shown in millionths
LINE = {"marker": ".", "markersize": 4, "linewidth": 1.2, "color": "tab:blue"}
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
def plot(path: Path, title: str = "", width: float = 5.0, **settings: Any) -> Iterator[Any]:
    """Yield matplotlib axes for y in 0..1 and save them, `width` inches wide, with `settings` as for `Axes.set`."""
    from matplotlib.figure import Figure  # imported here, since only plots need matplotlib

    figure = Figure(figsize=(width, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    yield axes
    axes.set(title=title, ylim=UNIT_RANGE, **settings)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
