"""The loop that measures score maps, and all results that are computed from its measurements.

Nothing here depends on whether the maps come from a network or from files: see `map_sources`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from istd.test_script.map_sources import MappedFrame, MapSource
from istd.test_script.predictor.detections import detection_row, find_detections
from istd.test_script.report.frame_pictures import MAX_PICTURES, picture_stride, write_picture
from istd.test_script.report.report import write_report
from istd.test_script.report.report_cases import KeptFrames
from istd.test_script.report.trails import draw_trails
from istd.test_script.results.frame_set import FrameRef, FrameSet
from istd.test_script.results.result_files import background_calls, frame_file, write_map, write_mask
from istd.test_script.results.run_folder import REPORT_FRAMES, start_run
from istd.test_script.results.sequence_tracks import keep_long_tracks, link_shards, measure_tracks, write_tracks
from istd.test_script.results.set_results import set_metrics, write_results
from istd.test_script.results.shards import Results, Shard, load_shards, merge_shards, save_shard, split_work
from istd.utils.folder_lock import locked_folder
from istd.utils.metrics import MetricAccumulator, Protocol
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import Curves, merge_curves
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import ImagePair, find_regions
from istd.utils.names import counted
from istd.utils.ranks import barrier, is_main, rank, world_size


class Job(NamedTuple):
    """A set of frames to measure, the source of its maps, and the protocols.

    facts: everything that determines the results, for run.json and metrics.json. notes: lines for the report.
    with_curves: whether curves, AP or AUC are wanted. pictures: at most so many frames get a picture beside the report.
    """

    frame_set: FrameSet
    maps: MapSource
    protocols: list[Protocol]
    facts: dict[str, Any]
    notes: list[str]
    with_curves: bool = True
    pictures: int = MAX_PICTURES


class Measured(NamedTuple):
    """The counts of a measured set, its metrics by protocol and of tracks ([] for single images), and notes."""

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
    """Call `observe` with every frame of `shards`, in the background while the source computes the next maps.

    `leave`: the progress bar stays on the terminal.
    """
    hidden = None if is_main() else True  # None: shown on a terminal
    progress = tqdm(total=sum(map(len, shards)), desc=title, unit="frame", leave=leave, disable=hidden)
    with background_calls() as submit, progress:
        for frame in source(shards):
            submit(observe, frame)
            progress.update()


def count_frame(mapped: MappedFrame, frame: FrameRef, shard: Shard, job: Job) -> None:
    """Add the next frame of a shard to the shard's counts for every protocol and its curves."""
    names = frame.sequence, frame.name
    scores = {scale: mapped.score(scale) for scale in {protocol.scale for protocol in job.protocols}}
    for protocol in job.protocols:
        metric = MetricAccumulator(protocol)
        metric.update(scores[protocol.scale], mapped.mask, *names)
        shard.rows.setdefault(protocol.name, []).extend(metric.rows)
    if job.with_curves:
        shard.curves.update(mapped.score("log_odds"), mapped.mask, *names, scale="logit")
    shard.sizes.append(mapped.mask.shape)


def detect_targets(mapped: MappedFrame, frame: FrameRef, shard: Shard, protocol: Protocol) -> np.ndarray:
    """Add the next frame's detections, and for tracks its targets and close pairs; returns the mask, bool [H, W]."""
    mask = protocol.iou_map(mapped.score(protocol.scale))
    detections = find_detections(mask, mapped.score("log_odds"))
    shard.detections += [detection_row(*frame.row_names, detection) for detection in detections]
    if frame.sequence is not None:
        pair = ImagePair(mask, mapped.mask, find_regions(mapped.mask))
        shard.targets.append(pair.targets.centroids[:, ::-1].tolist())
        shard.pairs.append([column.tolist() for column in close_pairs(pair.targets, pair.regions)])
    return mask


class FrameFiles:
    """Writes the files of each frame into `output`: its mask, its maps if `save_maps`, its pictures for the report.

    Every `stride`-th frame has a picture in a file, none if it is 0.
    """

    def __init__(self, output: Path, save_maps: str | None, stride: int):
        self._output, self._save_maps, self._stride = output, save_maps, stride
        self._kept = KeptFrames(output / REPORT_FRAMES)

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


def measure_shards(job: Job, shards: list[Shard], output: Path | None = None) -> None:
    """Measure the frames of `shards`; with `output`, write the files of the frames, and the shards, there.

    Without `output`, targets are detected only if the set has boxes to compare the detections with.
    """
    frames, shard_of = job.frame_set.frames, {item: shard for shard in shards for item in shard.items}
    with_detections = output is not None or job.frame_set.has_boxes
    if output:
        files = FrameFiles(output, job.facts["save_maps"], picture_stride(len(frames), job.pictures))

    def measure(mapped: MappedFrame) -> None:
        shard, frame, first = shard_of[mapped.item], frames[mapped.item], job.protocols[0]
        count_frame(mapped, frame, shard, job)
        if with_detections:
            mask = detect_targets(mapped, frame, shard, first)
        if output:
            files.write(mapped, frame, mask, shard.rows[first.name][-1])
            if shard.done:
                save_shard(output, shard, job.facts)

    observe_maps(job.maps, [shard.items for shard in shards], measure, job.frame_set.name)


def measure_maps(job: Job) -> Measured:
    """Measure a job without writing anything; detections are not linked into tracks."""
    shards = split_work(job.frame_set)
    measure_shards(job, shards)
    results = merge_shards(shards)
    return Measured(results, set_metrics(results, job.frame_set), [], job.notes)


def measure_set(job: Job, output: Path, resume: bool = False) -> Measured | None:
    """Measure a job and write everything to `output`; called in each process, returns None in all but the main process.

    `resume`: continue with the shards that an interrupted run of the same facts finished. Raises `InputError` where
    another command is writing to `output`.
    """
    with locked_folder(output):
        shards = split_work(job.frame_set)
        record = start_run(output, job.facts, resume) if is_main() else {}
        barrier()  # no process works before the folder is ready
        todo = load_shards(output, shards, job.facts)
        if is_main() and len(todo) < len(shards):
            print(f"resuming: {len(shards) - len(todo)} of {len(shards)} parts are done")
        barrier()  # every process has looked before any of them writes
        measure_shards(job, todo[rank() :: world_size()], output)
        barrier()
        if not is_main():
            return None
        load_shards(output, shards, job.facts)  # of the other processes
        return _write_set(job, shards, output, record)


def _write_set(job: Job, shards: list[Shard], output: Path, record: dict[str, Any]) -> Measured:
    """Compute and write all results of the measured `shards`; `record`: what `start_run` returned."""
    frame_set, facts, results = job.frame_set, job.facts, merge_shards(shards)
    metrics = set_metrics(results, frame_set)  # from all detections, also those of dropped tracks
    tracks, trails, notes = [], [], list(job.notes)
    if frame_set.in_sequences:
        min_length = facts["min_track"]
        sequences = link_shards(shards, frame_set, facts["track_speed"])
        tracks, trails = measure_tracks(sequences, min_length), draw_trails(sequences, min_length)
        if crowded := sum(bool((frame.tracks == 0).any()) for sequence in sequences for frame in sequence.frames):
            problem = f"note: too many detections to link in {counted(crowded, 'frame')}"
            notes.append(f"{problem}; they are in no track, and kept")
        sequences = [keep_long_tracks(sequence, min_length, output / "masks") for sequence in sequences]
        write_tracks(output / "tracks.csv", sequences)
        single = [row for shard in shards if shard.sequence is None for row in shard.detections]
        results = results._replace(detections=single + [row for sequence in sequences for row in sequence.rows])
    write_results(output, results, metrics, frame_set, facts | {"provenance": record}, tracks)
    write_report(output, results, metrics, frame_set.published, facts, notes, tracks, trails)
    return Measured(results, metrics, tracks, notes)


def read_curves(job: Job, output: Path) -> Curves | None:
    """The curves over all frames of a job that `measure_set` measured into `output`; None where frames are missing."""
    shards = split_work(job.frame_set)
    if load_shards(output, shards, job.facts):
        return None
    return merge_curves(shard.curves for shard in shards).compute()
