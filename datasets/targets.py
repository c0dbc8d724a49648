"""targets.csv: the targets of a dataset that was rendered or dimmed."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.files import read_table, write_csv
from istd.utils.names import original_cell

TARGET_TABLE = "targets.csv"


class TargetRow(NamedTuple):
    """A target in a frame: x, y in pixels (integers at pixel centres), box and area of its mask.

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
    cells = ([f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_csv(path, TargetRow._fields, cells)


def read_targets(root: str | Path) -> list[TargetRow]:
    """Rows of `targets.csv` in a dataset's folder.

    Raises `InputError` if it is missing, has other columns, or lacks a number.
    """
    path = Path(root) / TARGET_TABLE
    if not path.is_file():
        made = "a dataset made by datasets.synthetic or datasets.dim"
        raise InputError(f"there is no {TARGET_TABLE} in {root}; expected {made}")
    rows = read_table(path)
    _, columns = next(rows, (0, None))
    if columns != list(TargetRow._fields):
        raise InputError(f"{path} has columns {columns}; expected {', '.join(TargetRow._fields)}")
    types, targets = TargetRow.__annotations__.values(), []
    for line, cells in rows:
        texts = [original_cell(cell) for cell in cells]
        try:
            if texts:
                targets.append(TargetRow(*(convert(text) for convert, text in zip(types, texts, strict=True))))
        except ValueError as error:
            expected = f"two names, then a number for each of {', '.join(TargetRow._fields[2:])}"
            raise InputError(f"line {line} of {path} is {','.join(texts)}; expected {expected}; correct it") from error
    return targets


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
    dimmest_last = sorted(read_targets(root), key=lambda row: -row.snr)
    return {(row.sequence, row.frame): row.snr for row in dimmest_last}
