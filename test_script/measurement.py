"""The one loop that measures score maps, and everything that is made of what it measures.

Nothing here knows whether the maps come from a network or from files: see `map_sources`.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from istd.datasets.coco_truth import read_boxes
from istd.test_script.map_sources import MappedFrame, MapSource
from istd.test_script.predictor.detections import detection_row, find_detections
from istd.test_script.report.frame_pictures import MAX_PICTURES, picture_stride, write_picture
from istd.test_script.report.report import write_report
from istd.test_script.report.report_cases import KeptFrames
from istd.test_script.report.trails import draw_trails
from istd.test_script.results.frame_set import FrameRef, FrameSet
from istd.test_script.results.result_files import background_calls, frame_file, write_map, write_mask
from istd.test_script.results.run_folder import REPORT_FRAMES, run_key, start_run
from istd.test_script.results.sequence_tracks import keep_long_tracks, link_shards, measure_tracks, write_tracks
from istd.test_script.results.set_results import Results, merge_shards, write_results
from istd.test_script.results.shards import Shard, load_shard, save_shard, split_work
from istd.utils.distributed import barrier, is_main, rank, world_size
from istd.utils.folder_lock import locked_folder
from istd.utils.metrics import MetricAccumulator, Protocol
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import Curves, merge_curves
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import ImagePair, find_regions


class Job(NamedTuple):
    """A set of frames to measure: by which protocols, the source of its maps, and what is said of them.

    `facts`: what decides the results, for run.json and metrics.json; `notes`: lines for the report. `with_curves`: not
    where the maps are masks, of two values. `pictures`: at most so many frames get a picture beside the report.
    """

    frames: FrameSet
    maps: MapSource
    protocols: list[Protocol]
    facts: dict[str, Any]
    notes: list[str]
    with_curves: bool = True
    pictures: int = MAX_PICTURES


class Measured(NamedTuple):
    """What was measured: counts, metrics by protocol, those of tracks (none for single images), and notes on them."""

    results: Results
    metrics: dict[str, dict]
    tracks: list[dict]
    notes: list[str]


def observe_maps(
    source: MapSource,
    shards: list[list[int]],
    observe: Callable[[MappedFrame], None],
    title: str,
    leave: bool = True,
) -> None:
    """The loop: call `observe` with every frame of `shards` in the background, while the source makes the next maps.

    `leave`: the progress bar stays on the terminal.
    """
    hidden = None if is_main() else True  # None: shown on a terminal
    progress = tqdm(total=sum(map(len, shards)), desc=title, unit="frame", leave=leave, disable=hidden)
    with background_calls() as submit, progress:
        for frame in source(shards):
            submit(observe, frame)
            progress.update()


@dataclass
class Measurement:
    """Counts a frame into its shard, by every protocol and for curves; with `files`, writes what belongs to it.

    Detections are counted with `files`, or `with_detections`.
    """

    frames: FrameSet
    protocols: list[Protocol]
    shard_of: dict[int, Shard]
    with_curves: bool = True
    files: "FrameFiles | None" = None
    with_detections: bool = False

    def __call__(self, mapped: MappedFrame) -> None:
        """Measure the next frame of a shard, and save the shard after its last frame."""
        shard, frame, truth = self.shard_of[mapped.item], self.frames.frames[mapped.item], mapped.mask
        scores = {
            scale: mapped.score(scale) for scale in {"probability", *(protocol.scale for protocol in self.protocols)}
        }
        for protocol in self.protocols:
            metric = MetricAccumulator(protocol)
            metric.update(scores[protocol.scale], truth, frame.sequence, frame.name)
            shard.rows.setdefault(protocol.name, []).extend(metric.rows)
        if self.with_curves:
            shard.curves.update(mapped.score("log_odds"), truth, frame.sequence, frame.name, scale="logit")
        if self.files or self.with_detections:
            first = self.protocols[0]
            mask = first.iou_map(scores[first.scale])
            detections = find_detections(mask, mapped.score("log_odds"))
            shard.detections += [detection_row(*frame.row_names, detection) for detection in detections]
        if self.files:
            if frame.sequence is not None:
                pair = ImagePair(mask, truth, find_regions(truth))
                shard.targets.append(pair.targets.centroids[:, ::-1].tolist())
                shard.pairs.append([column.tolist() for column in close_pairs(pair.targets, pair.regions)])
            self.files.write(mapped, frame, mask, shard.rows[first.name][-1])
        shard.sizes.append(truth.shape)
        if self.files and shard.done:
            self.files.save(shard)


class FrameFiles:
    """Writes the files of each frame into `output`: its mask, its maps if `save_maps`, its pictures for the report.

    Every `stride`-th frame has a picture in a file, none if it is 0.
    """

    def __init__(self, output: Path, save_maps: str | None, run: str, stride: int):
        self._output, self._save_maps, self._run, self._stride = output, save_maps, run, stride
        self._kept = KeptFrames(output / REPORT_FRAMES)

    def save(self, shard: Shard) -> None:
        """Save a shard that is done."""
        save_shard(self._output / "parts", shard, self._run)

    def write(self, mapped: MappedFrame, frame: FrameRef, mask: np.ndarray, counts: ImageCounts) -> None:
        """Write the files of a frame, whose counts by the first protocol are `counts`."""

        def file(folder: str, suffix: str) -> Path:
            return frame_file(self._output / folder, frame.sequence, frame.name, suffix)

        write_mask(file("masks", ".png"), mask)
        if self._save_maps:
            write_map(file("probabilities", f".{self._save_maps}"), mapped.score("probability"))
        if self._save_maps == "npy" and mapped.maps.logit is not None:
            write_map(file("logits", ".npy"), mapped.maps.logit)
        if self._stride and mapped.item % self._stride == 0:
            write_picture(self._output / REPORT_FRAMES, mapped.item, frame.image, mask, mapped.mask)
        self._kept.offer(mapped.item, counts, frame.image, mapped.score("log_odds"), mapped.mask)


def measure_maps(job: Job, with_curves: bool) -> Results:
    """Measure a job without writing anything."""
    shards = split_work([frame.sequence for frame in job.frames.frames])
    with_boxes = job.frames.root is not None and read_boxes(job.frames.root) is not None
    measure = Measurement(job.frames, job.protocols, shard_of(shards), with_curves, with_detections=with_boxes)
    observe_maps(job.maps, [shard.items for shard in shards], measure, job.frames.name)
    return merge_shards(shards)


def shard_of(shards: list[Shard]) -> dict[int, Shard]:
    """The shard of each item."""
    return {item: shard for shard in shards for item in shard.items}


def read_curves(job: Job, output: Path) -> Curves | None:
    """The curves over all frames of a job that `measure_set` measured into `output`; None where some are missing."""
    shards = split_work([frame.sequence for frame in job.frames.frames])
    if not all(load_shard(output / "parts", shard, run_key(job.facts)) for shard in shards):
        return None
    return merge_curves(shard.curves for shard in shards).compute()


def measure_set(job: Job, output: Path, resume: bool = False) -> Measured | None:
    """Measure a job and write everything to `output`; called in each process, returns what the main one measured.

    `resume`: go on with the shards that an interrupted run of the same facts finished. `InputError` where another
    command is writing to `output`.
    """
    with locked_folder(output) if is_main() else nullcontext():
        return _measure_locked(job, output, resume)


def _measure_locked(job: Job, output: Path, resume: bool) -> Measured | None:
    frames, facts = job.frames, job.facts
    shards = split_work([frame.sequence for frame in frames.frames])
    record = start_run(output, facts, resume) if is_main() else {}
    barrier()  # no process works before the folder is ready
    todo = [shard for shard in shards if not load_shard(output / "parts", shard, run_key(facts))]
    if is_main() and len(todo) < len(shards):
        print(f"resuming: {len(shards) - len(todo)} of {len(shards)} parts are done")
    barrier()  # every process has looked before any one writes
    mine = todo[rank() :: world_size()]
    files = FrameFiles(output, facts["save_maps"], run_key(facts), picture_stride(len(frames.frames), job.pictures))
    measure = Measurement(frames, job.protocols, shard_of(mine), job.with_curves, files)
    observe_maps(job.maps, [shard.items for shard in mine], measure, frames.name)
    barrier()
    if not is_main():
        return None

    for shard in shards:
        load_shard(output / "parts", shard, run_key(facts))
    results = merge_shards(shards)
    tracks, trails, notes = [], [], list(job.notes)
    if frames.in_sequences:
        shortest = facts["min_track"]
        sequences = link_shards(shards, frames, facts["track_speed"])
        tracks, trails = measure_tracks(sequences, shortest), draw_trails(sequences, shortest)
        if crowded := sum(bool((frame.tracks == 0).any()) for tracked in sequences for frame in tracked.frames):
            notes.append(f"note: {crowded} frames have too many detections to link; they are in no track, and kept")
        sequences = keep_long_tracks(sequences, shortest, output / "masks")
        write_tracks(output / "tracks.csv", sequences)
        single = [row for shard in shards if shard.sequence is None for row in shard.detections]
        results = results._replace(detections=single + [row for sequence in sequences for row in sequence.rows])
    metrics = write_results(output, results, frames, facts | {"provenance": record}, tracks)
    write_report(output, results, metrics, frames.published, facts, notes, tracks, trails)
    return Measured(results, metrics, tracks, notes)
