"""The work of a run in shards, so that processes share it and an interrupted run can be resumed.

A shard is up to `SHARD_FRAMES` consecutive frames of a sequence (or images of the set), whatever the batch size and the
number of processes. Its results are integers and text in the order of its frames, saved in one file; the results of a
run are those of its shards, in order. Therefore batch size, processes and interruptions do not change a single bit.
"""

import json
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from istd.test_script.predictor.preparation import batched
from istd.utils.errors import InputError
from istd.utils.files import write_json
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import CurveAccumulator

SHARD_FRAMES = 32
FRAME_LISTS = ("detections", "targets", "pairs", "sizes")


@dataclass
class Shard:
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


def split_work(sequences: list[str | None]) -> list[Shard]:
    """The shards of a dataset whose item i lies in the sequence `sequences[i]`; None for single images."""
    groups = groupby(range(len(sequences)), sequences.__getitem__)
    chunks = [(sequence, chunk) for sequence, group in groups for chunk in batched(group, SHARD_FRAMES)]
    return [Shard(number, *chunk) for number, chunk in enumerate(chunks)]


def save_shard(folder: Path, shard: Shard) -> None:
    content = {"rows": shard.rows, "curves": shard.curves.counts()} | {
        name: getattr(shard, name) for name in FRAME_LISTS
    }
    write_json(_shard_file(folder, shard), content, indent=None)


def load_shard(folder: Path, shard: Shard) -> bool:
    """Fill `shard` from its file, unless it is measured already; False if there is no file."""
    if shard.done:
        return True
    file = _shard_file(folder, shard)
    if not file.exists():
        return False
    content = json.loads(file.read_text(encoding="utf-8"))
    shard.rows = {name: [ImageCounts(*_as_tuple(row)) for row in rows] for name, rows in content["rows"].items()}
    shard.curves = CurveAccumulator.from_counts(content["curves"])
    for name in FRAME_LISTS:
        setattr(shard, name, content[name])
    return True


def _as_tuple(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _shard_file(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.number:06d}.json"


def start_run(output: Path, run: dict[str, Any], resume: bool) -> None:
    """Save what decides the results, `run`, in `output`/run.json; without `resume` delete the shards of an earlier run.

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
