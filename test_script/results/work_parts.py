"""The work of a run in parts, so that processes share it and an interrupted run can be resumed.

A part is up to `PART_FRAMES` consecutive frames of one sequence (or images of the set), whatever the batch size and the
number of processes. Its results are integers and text in the order of its frames, saved in one file; the results of a
run are those of its parts, in order. Therefore batch size, processes and interruptions do not change a single bit.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from test_script.predictor.predictor import batched
from utils.errors import InputError
from utils.files import write_json
from utils.metrics.accumulator import ImageCounts
from utils.metrics.curves import CurveAccumulator

PART_FRAMES = 32
CURVE_COUNTS = ("target_levels", "other_levels", "matched", "matched_pixels")


@dataclass
class Part:
    """Items `items` of the dataset, and their results."""

    number: int
    items: list[int]
    rows: dict[str, list[ImageCounts]] = field(default_factory=dict)  # by protocol
    curves: CurveAccumulator = field(default_factory=CurveAccumulator)
    detections: list[list] = field(default_factory=list)  # rows of detections.csv
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of the frames measured so far

    @property
    def done(self) -> bool:
        """Whether all its items are measured."""
        return len(self.sizes) == len(self.items)


def split_work(sequence_of_item: list[int], single_images: bool) -> list[Part]:
    """The parts of a dataset whose item i lies in sequence `sequence_of_item[i]`."""
    items = range(len(sequence_of_item))
    groups = (
        [items] if single_images else [list(group) for _, group in groupby(items, key=sequence_of_item.__getitem__)]
    )
    chunks = [chunk for group in groups for chunk in batched(group, PART_FRAMES)]
    return [Part(number, chunk) for number, chunk in enumerate(chunks)]


def loader_batches(parts: list[Part], batch_size: int, num_workers: int) -> Iterator[list[int]]:
    """Batches of items for a `DataLoader`, which deals them to its workers in turn.

    Each worker gets whole parts, so that it decodes the frames that neighbouring clips share once.
    """
    streams = [
        [batch for part in parts[worker :: max(1, num_workers)] for batch in batched(part.items, batch_size)]
        for worker in range(max(1, num_workers))
    ]
    for round_of_batches in zip_longest(*streams):
        yield from (batch for batch in round_of_batches if batch is not None)


def save_part(folder: Path, part: Part) -> None:
    """Write a finished part."""
    content = {
        "rows": part.rows,
        "curves": {name: getattr(part.curves, name).tolist() for name in CURVE_COUNTS}
        | {"targets": part.curves.targets},
        "detections": part.detections,
        "sizes": part.sizes,
    }
    write_json(_part_file(folder, part), content, indent=None)


def load_part(folder: Path, part: Part) -> bool:
    """Fill `part` from its file, unless it is measured already; False if there is no file."""
    if part.done:
        return True
    file = _part_file(folder, part)
    if not file.exists():
        return False
    content = json.loads(file.read_text(encoding="utf-8"))
    part.rows = {
        name: [ImageCounts(*(tuple(value) if isinstance(value, list) else value for value in row)) for row in rows]
        for name, rows in content["rows"].items()
    }
    for name in CURVE_COUNTS:
        setattr(part.curves, name, np.array(content["curves"][name], np.int64))
    part.curves.targets = content["curves"]["targets"]
    part.detections = content["detections"]
    part.sizes = content["sizes"]
    return True


def _part_file(folder: Path, part: Part) -> Path:
    return folder / f"{part.number:06d}.json"


def start_run(output: Path, run: dict[str, Any], resume: bool) -> None:
    """Save what decides the results, `run`, in `output`/run.json; without `resume` delete the parts of an earlier run.

    Raises `InputError` where `output` holds another dataset's results, or where a run to be resumed had other settings.
    The checkpoint may have moved: its content counts.
    """
    file, parts = output / "run.json", output / "parts"
    earlier = _read_run(file) if file.exists() else None
    if earlier is not None:
        names = run.keys() - {"checkpoint"} if resume else {"dataset", "split"}
        different = [name for name in run if name in names and earlier.get(name) != run[name]]
        if different:
            listing = ", ".join(f"{name} {earlier.get(name)!r}, now {run[name]!r}" for name in different)
            remedy = "give the same options, or leave --resume out" if resume else "choose another --output_dir"
            raise InputError(f"{output} holds a run with {listing}; {remedy}")
    if not resume or earlier is None:
        for old in parts.glob("*.json"):
            old.unlink()
    write_json(file, run)


def _read_run(file: Path) -> dict[str, Any]:
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}; remove it, or choose another --output_dir") from error
    if not isinstance(earlier, dict):
        raise InputError(f"{file} was not written by an inference run; remove it, or choose another --output_dir")
    return earlier


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
