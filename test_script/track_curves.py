"""Measure how much linking lowers the false-alarm rate at equal Pd, from saved score maps of sequences.

At each threshold, detections are linked into tracks and the detections of short tracks are dropped. The tables give
the lowest Fa and the fewest false tracks at which a Pd is reached: of all detections, and of tracks of at least N
detections (--min_track). The metrics of tracks at each threshold are written as csv, and Pd over Fa as a picture.

Examples:

    python -m test_script.inference --model_path CKPT --dataset DIR --save_maps --output_dir predict/maps
    python -m test_script.track_curves --predictions predict/maps/probabilities --dataset DIR
"""

import argparse
import math
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import scipy

from istd.datasets.targets import read_identities
from istd.test_script.map_sources import MappedFrame, MapSource, saved_maps
from istd.test_script.measurement import observe_maps
from istd.test_script.options import COUNT, add_number, add_part_options, add_track_speed, open_part
from istd.test_script.results.frame_set import FrameRef, dataset_frames, dataset_pairs
from istd.test_script.results.result_files import write_table
from istd.test_script.results.sequence_tracks import FrameDetections, identify_targets, link_detections
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.tables import text_table
from istd.utils.metrics.track_metrics import TRACK_METRICS, TrackedFrame, add_counts, count_tracks, track_metrics
from istd.utils.names import counted
from istd.utils.plots import PLOT_SUFFIXES, plot

THRESHOLDS = scipy.special.expit(np.arange(-7, 7.01, 0.25))  # evenly spaced as logits, since scores crowd near 0 and 1
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
    maps = partial(saved_maps, pairs=dataset_pairs(args.predictions, frames))
    known = read_identities(index.root)
    counts = {length: [[] for _ in THRESHOLDS] for length in (1, *args.min_track)}  # for each threshold, by sequence
    for _, group in groupby(enumerate(frames), lambda numbered: numbered[1].sequence):
        items, sequence_frames = map(list, zip(*group, strict=True))
        for number, tracked in enumerate(link_levels(maps, items, sequence_frames, known, args.track_speed)):
            for length, levels in counts.items():
                levels[number].append(count_tracks(tracked, length))
    curves = {length: [track_metrics(add_counts(level)) for level in levels] for length, levels in counts.items()}
    write_table(
        args.output.with_suffix(".csv"),
        (
            {"min_track": length, "threshold": threshold} | metrics
            for length, levels in curves.items()
            for threshold, metrics in zip(THRESHOLDS.tolist(), levels, strict=True)
        ),
    )
    draw(args.output, curves)
    print(f"{index.info.name}, {args.split}: {counted(len(sequences), 'sequence')}, {counted(len(frames), 'frame')}")
    for metric in ("fa", "false_track_rate"):
        print(text_table(table(curves, metric)))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.track_curves", __doc__)
    add = parser.add_argument
    maps = "folder of score maps, <sequence>/<frame>.npy or .png; sequences without maps are left out"
    add("--predictions", type=Path, required=True, metavar="FOLDER", help=maps)
    dataset = "dataset of sequences: name from datasets/path_config.py, or a folder"
    add("--dataset", required=True, metavar="NAME|FOLDER", help=dataset)
    add_part_options(parser)
    lengths = "lowest numbers of detections of a track; default 2 3 5"
    add_number(parser, "--min_track", COUNT, nargs="+", default=(2, 3, 5), metavar="N", help=lengths)
    picture = "picture to write; default track_curves.png"
    add("--output", type=Path, default=Path("track_curves.png"), metavar="FILE.png", help=picture)
    add_track_speed(parser)
    return parser.parse_args(argv)


def link_levels(
    maps: MapSource, items: list[int], frames: list[FrameRef], known: dict | None, speed: float
) -> list[list[TrackedFrame]]:
    """Link the detections in the frames of a sequence, the `items` of `maps`, at each of the `THRESHOLDS`.

    `known`: the positions of its targets, see `read_identities`.
    """
    centroids: list[np.ndarray] = []  # by frame, of the targets (x, y)
    levels: list[list[FrameDetections]] = [[] for _ in THRESHOLDS]

    def detect(mapped: MappedFrame) -> None:
        score, targets = mapped.score("probability"), find_regions(mapped.mask)
        centroids.append(targets.centroids[:, ::-1])
        for level, threshold in zip(levels, THRESHOLDS.tolist(), strict=True):
            regions = find_regions(score > threshold)
            pairs = close_pairs(targets, regions)
            level.append(FrameDetections(regions.centroids[:, ::-1], regions.areas, pairs, score.size))

    observe_maps(maps, [items], detect, frames[0].sequence, leave=False)
    identities = identify_targets(frames, centroids, known, speed)
    return [link_detections(frames, identities, level, speed) for level in levels]


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
