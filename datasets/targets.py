"""The targets of a dataset: measured in its masks, and listed in targets.csv where they were rendered or dimmed."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from skimage.measure import label, regionprops

from utils.errors import InputError
from utils.files import write_csv

SURROUNDINGS = 10  # pixels around a target's box from which its background is measured
GUARD = 2  # pixels around every target that are excluded from all backgrounds
TARGET_TABLE = "targets.csv"


class TargetStatistics(NamedTuple):
    """`area` in pixels; `contrast` = target mean - background mean (grey levels 0..1); `scr` = |contrast| / background
    standard deviation (signal-to-clutter ratio), None where the background is constant or absent."""

    area: int
    contrast: float | None
    scr: float | None


def measure_targets(grey: np.ndarray, mask: np.ndarray) -> list[TargetStatistics]:
    """Statistics of each 8-connected region of `mask` bool [H, W] in `grey` float [H, W].

    The background is the area within 10 px of the target's box, without all targets and 2 px around them.
    """
    free = cv2.dilate(mask.astype(np.uint8), np.ones((2 * GUARD + 1,) * 2, np.uint8)) == 0
    targets = []
    for region in regionprops(label(mask, connectivity=2), grey):
        window = tuple(slice(max(side.start - SURROUNDINGS, 0), side.stop + SURROUNDINGS) for side in region.slice)
        background = grey[window][free[window]]
        contrast = scr = None
        if background.size:
            contrast = float(region.intensity_mean - background.mean())
            deviation = float(background.std())
            scr = abs(contrast) / deviation if deviation > 0 else None
        targets.append(TargetStatistics(int(region.area), contrast, scr))
    return targets


class TargetRow(NamedTuple):
    """One target in one frame: x, y in pixels (integers at pixel centres); box and area are those of its mask."""

    sequence: str
    frame: str
    target: int
    x: float
    y: float
    x0: int
    y0: int
    width: int
    height: int
    area: int
    snr: float


def write_targets(path: Path, rows: Iterable[TargetRow]) -> None:
    """Write rows as csv with three decimals."""
    cells = ([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_csv(path, TargetRow._fields, cells)


def read_targets(root: str | Path) -> list[TargetRow]:
    """Rows of `targets.csv` in a dataset's folder. Raises `InputError` if it is missing or has other columns."""
    path = Path(root) / TARGET_TABLE
    if not path.is_file():
        made = "a dataset made by datasets.synthetic or datasets.dim"
        raise InputError(f"there is no {TARGET_TABLE} in {root}; expected {made}")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != TargetRow._fields:
            raise InputError(f"{path} has columns {reader.fieldnames}; expected {', '.join(TargetRow._fields)}")
        kinds = TargetRow.__annotations__
        return [TargetRow(**{name: kinds[name](cell) for name, cell in row.items()}) for row in reader]


def read_frame_snr(root: str | Path) -> dict[tuple[str, str], float]:
    """(sequence, frame) -> lowest SNR of the frame's targets; frames without a target are left out."""
    dimmest_last = sorted(read_targets(root), key=lambda row: -row.snr)
    return {(row.sequence, row.frame): row.snr for row in dimmest_last}
