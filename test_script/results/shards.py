"""The work of a run in shards, so that processes share it and an interrupted run can be resumed.

A shard is up to `SHARD_FRAMES` consecutive frames of a sequence (or images of the set), whatever the batch size and the
number of processes. Its results are integers and text in the order of its frames, saved in one file; the results of a
run are those of its shards, in order. Therefore batch size, processes and interruptions do not change a single bit.
"""

import json
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from istd.test_script.results.frame_set import FrameSet
from istd.test_script.results.run_folder import run_key
from istd.utils.files import write_json
from istd.utils.items import batched
from istd.utils.metrics import PROTOCOLS, MetricAccumulator
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


class Results(NamedTuple):
    """What was measured over a set, in the order of its frames."""

    metrics: dict[str, MetricAccumulator]  # by protocol; the first protocol also makes the masks
    curves: dict[str | None, CurveAccumulator]  # by sequence, None for single images
    detections: list[list]  # rows of detections.csv


def split_work(frame_set: FrameSet) -> list[Shard]:
    """The shards of a set, not measured yet."""
    sequences = [frame.sequence for frame in frame_set.frames]
    groups = groupby(range(len(sequences)), sequences.__getitem__)
    chunks = [(sequence, chunk) for sequence, group in groups for chunk in batched(group, SHARD_FRAMES)]
    return [Shard(number, *chunk) for number, chunk in enumerate(chunks)]


def merge_shards(shards: list[Shard]) -> Results:
    """The results of measured shards."""
    metrics = {
        name: MetricAccumulator(PROTOCOLS[name], [row for shard in shards for row in shard.rows[name]])
        for name in shards[0].rows
    }
    curves: dict[str | None, CurveAccumulator] = {}
    for shard in shards:
        curves.setdefault(shard.sequence, CurveAccumulator()).merge(shard.curves)
    return Results(metrics, curves, [row for shard in shards for row in shard.detections])


def save_shard(output: Path, shard: Shard, facts: dict[str, Any]) -> None:
    """Save a measured shard in the folder `output` of the run with these `facts`."""
    content = {"run": run_key(facts), "rows": shard.rows, "curves": shard.curves.counts()}
    content |= {name: getattr(shard, name) for name in FRAME_LISTS}
    write_json(_shard_file(output, shard), content, indent=None)


def load_shards(output: Path, shards: list[Shard], facts: dict[str, Any]) -> list[Shard]:
    """Fill unmeasured shards from their files in the folder `output` of a run; returns the shards without a file.

    Files of a run with other `facts` do not count, nor do damaged files, which are reported.
    """
    return [shard for shard in shards if not shard.done and not _load_shard(output, shard, run_key(facts))]


def _load_shard(output: Path, shard: Shard, run: str) -> bool:
    """Whether `shard` could be filled from its file."""
    file = _shard_file(output, shard)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["run"] != run:
            return False
        rows = {name: [ImageCounts(*_as_tuple(row)) for row in rows] for name, rows in content["rows"].items()}
        curves = CurveAccumulator.from_counts(content["curves"])
        lists = {name: list(content[name]) for name in FRAME_LISTS}
        of_frames = [lists["sizes"], *rows.values()]
        if shard.sequence is not None:
            of_frames += [lists["targets"], lists["pairs"]]
        if {*map(len, of_frames)} != {len(shard.items)}:
            raise ValueError("it lacks frames")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"{file} is damaged ({error}); its frames are measured again")
        return False
    shard.rows, shard.curves = rows, curves
    for name, values in lists.items():
        setattr(shard, name, values)
    return True


def _as_tuple(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _shard_file(output: Path, shard: Shard) -> Path:
    return output / "parts" / f"{shard.number:06d}.json"
