"""targets.csv: where the targets of a rendered dataset are, and how bright."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.errors import InputError

TARGET_TABLE = "targets.csv"


class TargetRow(NamedTuple):
    """One target in one frame: x, y in pixels (pixel centres at whole numbers); box and area are the mask's."""

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
    """Rows of `targets.csv` in a dataset's folder. Raises `InputError` where there is none or it has other columns."""
    path = Path(root) / TARGET_TABLE
    if not path.is_file():
        raise InputError(f"no {TARGET_TABLE} in {root}; expected a dataset rendered by python -m datasets.synthetic")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != TargetRow._fields:
            raise InputError(f"{path} has columns {reader.fieldnames}; expected {', '.join(TargetRow._fields)}")
        kinds = TargetRow.__annotations__
        return [TargetRow(**{name: kinds[name](cell) for name, cell in row.items()}) for row in reader]


def read_frame_snr(root: str | Path) -> dict[tuple[str, str], float]:
    """(sequence, frame) -> SNR of the frame's dimmest target; frames without a target are left out.

    Splits results into a dim and a bright half: compare each frame's SNR with the median of the values.
    """
    snr: dict[tuple[str, str], float] = {}
    for row in read_targets(root):
        key = (row.sequence, row.frame)
        snr[key] = min(row.snr, snr.get(key, row.snr))
    return snr
