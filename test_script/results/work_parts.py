"""The work of a run in parts, so that processes share it and an interrupted run can be resumed.

A part is up to `PART_FRAMES` consecutive frames of one sequence (or images of the set), whatever the batch size and the
number of processes. Its results are integers and text in the order of its frames, saved in one file; the results of a
run are those of its parts, in order. Therefore batch size, processes and interruptions do not change a single bit.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from istd.test_script.predictor.preparation import batched
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import CurveAccumulator

PART_FRAMES = 32
FRAME_LISTS = ("detections", "targets", "pairs", "sizes")
CURVE_COUNTS = ("target_levels", "other_levels", "matched", "matched_pixels")


@dataclass
class Part:
    """Items `items` of the dataset, and their results. `sequence` is None for single images."""

    number: int
    sequence: str | None
    items: list[int]
    rows: dict[str, list[ImageCounts]] = field(default_factory=dict)  # by protocol
    curves: CurveAccumulator = field(default_factory=CurveAccumulator)
    detections: list[list] = field(default_factory=list)  # rows of detections.csv
    targets: list[list] = field(default_factory=list)  # by frame, in sequences: true centroids (x, y)
    pairs: list[list] = field(default_factory=list)  # by frame, in sequences: `close_pairs` of targets and detections
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of the frames measured so far

    @property
    def done(self) -> bool:
        return len(self.sizes) == len(self.items)


def split_work(sequences: list[str | None]) -> list[Part]:
    """The parts of a dataset whose item i lies in the sequence `sequences[i]`; None for single images."""
    groups = groupby(range(len(sequences)), sequences.__getitem__)
    chunks = [(sequence, chunk) for sequence, group in groups for chunk in batched(group, PART_FRAMES)]
    return [Part(number, *chunk) for number, chunk in enumerate(chunks)]


def loader_batches(parts: list[Part], batch_size: int, num_workers: int) -> Iterator[list[int]]:
    """Batches of items for a `DataLoader`, which deals them to its workers in turn.

    Each worker gets whole parts, so that it decodes the frames that neighbouring clips share once.
    """
    step = max(1, num_workers)
    shares = (parts[worker::step] for worker in range(step))
    streams = [[batch for part in share for batch in batched(part.items, batch_size)] for share in shares]
    return (batch for batches in zip_longest(*streams) for batch in batches if batch is not None)


def save_part(folder: Path, part: Part) -> None:
    curves = {name: getattr(part.curves, name).tolist() for name in CURVE_COUNTS} | {"targets": part.curves.targets}
    content = {"rows": part.rows, "curves": curves} | {name: getattr(part, name) for name in FRAME_LISTS}
    write_json(_part_file(folder, part), content, indent=None)


def load_part(folder: Path, part: Part) -> bool:
    """Fill `part` from its file, unless it is measured already; False if there is no file."""
    if part.done:
        return True
    file = _part_file(folder, part)
    if not file.exists():
        return False
    content = json.loads(file.read_text(encoding="utf-8"))
    part.rows = {name: [ImageCounts(*_as_tuple(row)) for row in rows] for name, rows in content["rows"].items()}
    for name in CURVE_COUNTS:
        setattr(part.curves, name, np.array(content["curves"][name], np.int64))
    part.curves.targets = content["curves"]["targets"]
    for name in FRAME_LISTS:
        setattr(part, name, content[name])
    return True


def _as_tuple(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _part_file(folder: Path, part: Part) -> Path:
    return folder / f"{part.number:06d}.json"


def start_run(output: Path, run: dict[str, Any], resume: bool) -> None:
    """Save what decides the results, `run`, in `output`/run.json; without `resume` delete the parts of an earlier run.

    Raises `InputError` as `check_run` does.
    """
    if not check_run(output, run, resume) or not resume:
        for old in (output / "parts").glob("*.json"):
            old.unlink()
    write_json(output / "run.json", run)


def check_run(output: Path, run: dict[str, Any], resume: bool) -> bool:
    """Whether `output` holds an earlier run.

    Raises `InputError` if it is of another dataset, or if it is to be resumed and had other settings. The checkpoint
    may have moved: its content counts.
    """
    file = output / "run.json"
    if not file.exists():
        return False
    try:
        earlier = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {file}: {error}; remove it, or choose another --output_dir") from error
    names = run.keys() - {"checkpoint"} if resume else {"dataset", "split"}
    different = [name for name in run if name in names and earlier.get(name) != run[name]]
    if different:
        listing = ", ".join(f"{name} {earlier.get(name)!r}, now {run[name]!r}" for name in different)
        remedy = "give the same options, or choose another --output_dir" if resume else "choose another --output_dir"
        raise InputError(f"{output} holds a run with {listing}; {remedy}")
    return True
