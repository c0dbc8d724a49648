"""Measure how much linking lowers the false-alarm rate at equal Pd, from saved score maps of sequences.

    python -m test_script.inference --model_path CKPT --dataset DIR --save_maps --output_dir predict/maps
    python -m test_script.track_curves --predictions predict/maps/probabilities --dataset DIR

At each threshold, detections are linked into tracks and the detections of short tracks are dropped. The tables give
the lowest Fa and the fewest false tracks at which a Pd is reached: of all detections, and of tracks of at least N
detections (--min_track). The metrics of tracks at each threshold are written as csv, and Pd over Fa as a picture.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from scipy.special import expit
from tqdm import tqdm

from istd.datasets import Sequence, open_dataset
from istd.datasets.targets import read_identities
from istd.test_script.options import add_track_speed, check_track_options, command_parser
from istd.test_script.results.result_files import frame_file, write_table
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import Regions, find_regions
from istd.utils.metrics.saved_maps import PREDICTION_SUFFIXES, Pair, read_pair
from istd.utils.metrics.tables import text_table
from istd.utils.metrics.track_metrics import (
    TRACK_METRICS,
    TrackedFrame,
    add_counts,
    count_tracks,
    track_metrics,
    true_identities,
)
from istd.utils.plots import PLOT_SUFFIXES, plot
from istd.utils.tracking import link

THRESHOLDS = expit(np.arange(-7, 7.01, 0.25))  # evenly spaced as logits, since scores crowd near 0 and 1
PD_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main(argv: list[str] | None = None) -> None:
    """Print the table and write its files."""
    args = parse_arguments(argv)
    check_writable(args.output, PLOT_SUFFIXES)
    index = open_dataset(args.dataset, args.data_root)
    if index.info.kind != "sequences":
        raise InputError(f"{index.info.name} is a dataset of single images; give a dataset of sequences")
    known = read_identities(index.root)
    sequences = [one for one in index.split(args.split) if (args.predictions / one.name).is_dir()]
    if not sequences:
        raise InputError(f"{args.predictions} has no folder of a sequence of {index.info.name}, split {args.split}")
    counts = {length: [[] for _ in THRESHOLDS] for length in (1, *args.min_track)}
    for sequence in tqdm(sequences, unit="sequence", disable=None):
        for own, frames in zip(zip(*counts.values(), strict=True), track_levels(sequence, known, args), strict=True):
            for length, total in zip(counts, own, strict=True):
                total.append(count_tracks(frames, length))
    curves = {length: [track_metrics(add_counts(one)) for one in own] for length, own in counts.items()}
    frames = sum(one.frames for one in counts[1][0])
    print(f"{index.info.name}, {args.split}: {len(sequences)} sequences, {frames} frames")
    for metric in ("fa", "false_track_rate"):
        print(text_table(table(curves, metric)))
    write_table(
        args.output.with_suffix(".csv"),
        (
            {"min_track": n, "threshold": t} | one
            for n, own in curves.items()
            for t, one in zip(THRESHOLDS.tolist(), own, strict=True)
        ),
    )
    draw(args.output, curves)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("track_curves", __doc__)
    add = parser.add_argument
    maps = "folder of score maps, <sequence>/<frame>.npy or .png; sequences that it lacks are left out"
    add("--predictions", type=Path, required=True, help=maps)
    add("--dataset", required=True, help="dataset of sequences: a known name, or a folder")
    add("--data_root", help="folder that holds the datasets by name")
    add("--split", default="test", help="default test")
    add("--min_track", type=int, nargs="+", default=(2, 3, 5), metavar="N", help="detections of a track; default 2 3 5")
    add("--output", type=Path, default=Path("track_curves.png"), metavar="FILE.png")
    add_track_speed(parser)
    args = parser.parse_args(argv)
    check_track_options(min(args.min_track), args.track_speed)
    return args


def track_levels(sequence: Sequence, known: dict | None, args: argparse.Namespace) -> list[list[TrackedFrame]]:
    """The sequence's frames with the tracks at each of the `THRESHOLDS`."""
    levels: list[list] = [[] for _ in THRESHOLDS]
    truth: list[tuple[int, Regions]] = []
    names = [(time, frame) for time, frame in enumerate(sequence.frames) if frame.mask is not None]
    for time, frame in names:
        files = (frame_file(args.predictions, sequence.name, frame.name, suffix) for suffix in PREDICTION_SUFFIXES)
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise InputError(f"{args.predictions} has no map of {sequence.name}/{frame.name}; save all of its frames")
        score, mask = read_pair(Pair(sequence.name, frame.name, file, frame.mask), logits=False)
        truth.append((time, find_regions(mask)))
        for level, threshold in zip(levels, THRESHOLDS.tolist(), strict=True):
            level.append(find_regions(score > threshold)._replace(pixels=None, owners=None))
    listed = None if known is None else [known.get((sequence.name, frame.name), {}) for _, frame in names]
    identities = true_identities([(time, one.centroids[:, ::-1]) for time, one in truth], listed)
    return [track_frames(level, truth, identities, score.size, args.track_speed) for level in levels]


def track_frames(found: list[Regions], truth: list, identities: list, pixels: int, speed: float) -> list[TrackedFrame]:
    """The frames of a sequence whose detections are `found`; `truth`: time and true regions of each."""
    tracks = link([(time, one.centroids[:, ::-1]) for (time, _), one in zip(truth, found, strict=True)], speed)
    return [
        TrackedFrame(time, own, close_pairs(targets, regions), numbers, regions.areas, pixels)
        for (time, targets), own, regions, numbers in zip(truth, identities, found, tracks, strict=True)
    ]


def table(curves: dict[int, list[dict]], metric: str) -> list[list[str]]:
    """The heading, and for each of `PD_LEVELS` that is reached the lowest `metric` there for each length of tracks."""
    heading, factor = TRACK_METRICS[metric]
    rows = [[f"{heading} at Pd %", "all detections", *(f"tracks of {length}+" for length in list(curves)[1:])]]
    for level in PD_LEVELS:
        lowest = [min((one[metric] for one in own if one["pd"] >= level), default=math.nan) for own in curves.values()]
        if not all(map(math.isnan, lowest)):
            rows.append([f"{100 * level:g}", *("-" if math.isnan(one) else f"{one * factor:.2f}" for one in lowest)])
    return rows


def draw(path: Path, curves: dict[int, list[dict]]) -> None:
    """Write the picture: Pd over Fa, a line for each length of tracks."""
    with plot(path, width=6.4, xlabel="Fa (x 1e-6)", ylabel="Pd", xlim=(0, None)) as axes:
        axes.set_xscale("symlog", linthresh=1.0)
        for length, own in curves.items():
            label = "all detections" if length == 1 else f"tracks of at least {length} detections"
            axes.plot([1e6 * one["fa"] for one in own], [one["pd"] for one in own], marker=".", label=label)
        axes.legend()


if __name__ == "__main__":
    run_main(main)
