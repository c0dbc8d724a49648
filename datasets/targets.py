"""The targets of a dataset: measured in its masks, and listed in targets.csv where they were rendered or dimmed."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.errors import InputError

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
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    free = cv2.dilate(mask.astype(np.uint8), np.ones((2 * GUARD + 1,) * 2, np.uint8)) == 0
    targets = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in boxes[label])
        rows = slice(max(y - SURROUNDINGS, 0), y + height + SURROUNDINGS)
        window = (rows, slice(max(x - SURROUNDINGS, 0), x + width + SURROUNDINGS))
        background = grey[window][free[window]]
        contrast = scr = None
        if background.size:
            contrast = float(grey[window][labels[window] == label].mean() - background.mean())
            deviation = float(background.std())
            scr = abs(contrast) / deviation if deviation > 0 else None
        targets.append(TargetStatistics(area, contrast, scr))
    return targets


class TargetRow(NamedTuple):
    """One target in one frame: x, y in pixels (integers at pixel centres); box and area are those of its mask.

    `target` is its number, the same in all frames of the sequence.
    """

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
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TargetRow._fields)
        writer.writerows([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows)


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


def read_identities(root: str | Path) -> dict[tuple[str, str], dict[int, np.ndarray]] | None:
    """(sequence, frame) -> position (x, y) of each target by its number; None if the dataset has no targets.csv."""
    if not (Path(root) / TARGET_TABLE).is_file():
        return None
    places: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for row in read_targets(root):
        places.setdefault((row.sequence, row.frame), {})[row.target] = np.array([row.x, row.y])
    return places


def read_frame_snr(root: str | Path) -> dict[tuple[str, str], float]:
    """(sequence, frame) -> lowest SNR of the frame's targets; frames without a target are left out."""
    snr: dict[tuple[str, str], float] = {}
    for row in read_targets(root):
        key = (row.sequence, row.frame)
        snr[key] = min(row.snr, snr.get(key, row.snr))
    return snr
