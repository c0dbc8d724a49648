"""Measure how much linking lowers the false-alarm rate at equal Pd, from saved score maps of sequences.

    python -m test_script.inference --model_path CKPT --dataset DIR --save_maps --output_dir predict/maps
    python -m test_script.track_curves --predictions predict/maps/probabilities --dataset DIR

At each threshold, detections are linked into tracks and the detections of short tracks are dropped. The tables give
the lowest Fa and the fewest false tracks at which a Pd is reached: of all detections, and of tracks of at least N
detections (--min_track). The metrics of tracks at each threshold are written as csv, and Pd over Fa as a picture.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import expit

from istd.datasets.targets import read_identities
from istd.test_script.map_sources import MappedFrame, saved_maps
from istd.test_script.measurement import observe_maps
from istd.test_script.options import COUNT, add_number, add_part_options, add_track_speed, command_parser, open_part
from istd.test_script.results.frame_set import FrameRef, dataset_frames, dataset_pairs
from istd.test_script.results.result_files import write_table
from istd.test_script.results.sequence_tracks import FrameDetections, identify_targets, link_detections
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.tables import text_table
from istd.utils.metrics.track_metrics import TRACK_METRICS, add_counts, count_tracks, track_metrics
from istd.utils.plots import PLOT_SUFFIXES, plot

THRESHOLDS = expit(np.arange(-7, 7.01, 0.25))  # evenly spaced as logits, since scores crowd near 0 and 1
PD_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main(argv: list[str] | None = None) -> None:
    """Print the table and write its files."""
    args = parse_arguments(argv)
    check_writable(args.output, PLOT_SUFFIXES)
    index = open_part(args)
    if index.info.kind != "sequences":
        raise InputError(f"{index.info.name} is a dataset of single images; give a dataset of sequences")
    sequences = [sequence for sequence in index.split(args.split) if (args.predictions / sequence.name).is_dir()]
    if not sequences:
        raise InputError(f"{args.predictions} has no folder of a sequence of {index.info.name}, split {args.split}")
    frames = dataset_frames(index, sequences).frames
    count = LevelCounts(frames, read_identities(index.root), (1, *args.min_track), args.track_speed)
    pairs = dataset_pairs(args.predictions, frames)
    observe_maps(partial(saved_maps, pairs=pairs), [list(range(len(frames)))], count, index.info.name)
    curves = {
        length: [track_metrics(add_counts(counts)) for counts in levels] for length, levels in count.counts.items()
    }
    write_table(
        args.output.with_suffix(".csv"),
        (
            {"min_track": length, "threshold": threshold} | metrics
            for length, levels in curves.items()
            for threshold, metrics in zip(THRESHOLDS.tolist(), levels, strict=True)
        ),
    )
    draw(args.output, curves)
    print(f"{index.info.name}, {args.split}: {len(sequences)} sequences, {len(frames)} frames")
    for metric in ("fa", "false_track_rate"):
        print(text_table(table(curves, metric)))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("track_curves", __doc__)
    add = parser.add_argument
    maps = "folder of score maps, <sequence>/<frame>.npy or .png; sequences that it lacks are left out"
    add("--predictions", type=Path, required=True, help=maps)
    add("--dataset", required=True, help="dataset of sequences: a known name, or a folder")
    add_part_options(parser)
    lengths = "detections of a track; default 2 3 5"
    add_number(parser, "--min_track", COUNT, nargs="+", default=(2, 3, 5), metavar="N", help=lengths)
    add("--output", type=Path, default=Path("track_curves.png"), metavar="FILE.png")
    add_track_speed(parser)
    return parser.parse_args(argv)


class LevelCounts:
    """Counts the tracks at each of the `THRESHOLDS`, once all frames of a sequence have come.

    `counts`: length of tracks -> for each threshold the counts of every sequence.
    """

    def __init__(self, frames: list[FrameRef], known: dict | None, lengths: tuple[int, ...], speed: float):
        self.counts = {length: [[] for _ in THRESHOLDS] for length in lengths}
        self._frames, self._known, self._speed = frames, known, speed
        self._last = {frame.sequence: item for item, frame in enumerate(frames)}
        self._start_sequence()

    def _start_sequence(self) -> None:
        self._sequence: list[FrameRef] = []  # its frames so far
        self._targets: list[np.ndarray] = []  # by frame, centroids (x, y)
        self._levels: list[list[FrameDetections]] = [[] for _ in THRESHOLDS]

    def __call__(self, mapped: MappedFrame) -> None:
        """Add the next frame of a sequence."""
        frame, score, targets = self._frames[mapped.item], mapped.score("probability"), find_regions(mapped.mask)
        self._sequence.append(frame)
        self._targets.append(targets.centroids[:, ::-1])
        for level, threshold in zip(self._levels, THRESHOLDS.tolist(), strict=True):
            regions = find_regions(score > threshold)
            pairs = close_pairs(targets, regions)
            level.append(FrameDetections(regions.centroids[:, ::-1], regions.areas, pairs, score.size))
        if mapped.item == self._last[frame.sequence]:
            self._count_sequence()
            self._start_sequence()

    def _count_sequence(self) -> None:
        identities = identify_targets(self._sequence, self._targets, self._known)
        for number, level in enumerate(self._levels):
            frames = link_detections(self._sequence, identities, level, self._speed)
            for length, counts in self.counts.items():
                counts[number].append(count_tracks(frames, length))


def table(curves: dict[int, list[dict]], metric: str) -> list[list[str]]:
    """The heading, and for each of `PD_LEVELS` that is reached the lowest `metric` there for each length of tracks."""
    heading, factor = TRACK_METRICS[metric]
    rows = [[f"{heading} at Pd %", "all detections", *(f"tracks of {length}+" for length in list(curves)[1:])]]
    for level in PD_LEVELS:
        lowest = [
            min((metrics[metric] for metrics in levels if metrics["pd"] >= level), default=math.nan)
            for levels in curves.values()
        ]
        if not all(map(math.isnan, lowest)):
            cells = ("-" if math.isnan(value) else f"{value * factor:.2f}" for value in lowest)
            rows.append([f"{100 * level:g}", *cells])
    return rows


def draw(path: Path, curves: dict[int, list[dict]]) -> None:
    """Write the picture: Pd over Fa, a line for each length of tracks."""
    with plot(path, width=6.4, xlabel="Fa (x 1e-6)", ylabel="Pd", xlim=(0, None)) as axes:
        axes.set_xscale("symlog", linthresh=1.0)
        for length, levels in curves.items():
            label = "all detections" if length == 1 else f"tracks of at least {length} detections"
            fa, pd = ([metrics[name] for metrics in levels] for name in ("fa", "pd"))
            axes.plot([1e6 * rate for rate in fa], pd, marker=".", label=label)
        axes.legend()


if __name__ == "__main__":
    run_main(main)
