"""Compare networks on dim targets: Pd over SNR, each network at the same false-alarm rate.

    python -m test_script.pd_over_snr --model_path A.pth B.pth --dataset data/dim --output pd_over_snr.png

The dataset needs targets.csv: one rendered by `datasets.synthetic`, or a real one dimmed by `datasets.dim`. Each
network's threshold is the lowest at which Fa (protocol `standard`) over all frames is at most `--fa`. A multi-frame
network is also run on copies of the target frame alone, which shows whether it uses motion. Prints a table, and writes
the picture and, beside it, the table as csv.
"""

import argparse
import itertools
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from istd.datasets import ClipDataset, DatasetIndex, Sequence, open_dataset
from istd.datasets.catalog import DatasetInfo
from istd.datasets.targets import read_targets
from istd.test_script.map_sources import MapSource, StillClips, network_maps
from istd.test_script.measurement import observe_maps
from istd.test_script.options import add_checkpoint_option, add_device_options, command_parser
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.preparation import eval_dataset, frame_preparation, load_recipe
from istd.test_script.results.run_folder import checkpoint_label
from istd.utils.device import choose_device
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_csv
from istd.utils.metrics.accumulator import group_rows
from istd.utils.metrics.curves import CurveAccumulator
from istd.utils.metrics.matching import MATCH_DISTANCE, optimal
from istd.utils.metrics.regions import ImagePair, find_regions
from istd.utils.metrics.tables import text_table
from istd.utils.plots import PLOT_SUFFIXES, plot

FA_LIMIT = 10e-6
SNR_EDGES = (1.0, 1.5, 2.0, 2.5, 3.0)
STRIDE = 2  # of the thresholds that are searched: 1/128 logit apart at probability 0.5


class Frame(NamedTuple):
    """A frame's true mask bool [H, W], and of its targets, in raster order, the SNR (NaN where not in targets.csv)."""

    mask: np.ndarray
    snr: np.ndarray


class Comparison(NamedTuple):
    """A network's result: threshold, Fa there, Pd of all targets, and Pd in each interval of SNR (NaN where empty)."""

    threshold: float  # in logits
    fa: float
    pd: float
    pd_by_snr: list[float]


def main(argv: list[str] | None = None) -> None:
    """Compare networks from the command line."""
    args = parse_arguments(argv)
    check_writable(args.output, PLOT_SUFFIXES)
    index = open_dataset(args.dataset, args.data_root)
    sequences = index.split(args.split)
    device, results = choose_device(args.device), {}
    for path in args.model_path:
        dataset, predictor = load(path, sequences, index.info, device)
        items = np.linspace(0, len(dataset) - 1, min(args.frames, len(dataset))).astype(int).tolist()
        frames = read_frames(dataset, items, index)
        name = checkpoint_label(path) if checkpoint_label(path) not in results else str(path)
        views = {name: dataset}
        if dataset.num_frames > 1:
            views[f"{name}, copies of one frame"] = StillClips(dataset)
        for title, view in views.items():
            maps = logit_maps(partial(network_maps, dataset=view, predictor=predictor, scales={"logit"}), items, title)
            results[title] = compare(maps, frames, args.fa, args.snr)
    rows = table(results, [int(inside.sum()) for inside in by_interval(frames, args.snr)], args.snr)
    write_csv(args.output.with_suffix(".csv"), rows[0], rows[1:])
    draw(args.output, results, args.snr, args.fa)
    print(f"{index.info.name}, {args.split}: {len(frames)} frames; Pd % at Fa <= {args.fa * 1e6:g}e-6")
    print(text_table(rows))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("pd_over_snr", __doc__)
    add = parser.add_argument
    add_checkpoint_option(parser, several=True)
    add("--dataset", required=True, help="dataset with targets.csv: a known name, or a folder")
    add("--data_root", help="folder that holds the datasets by name")
    add("--split", default="test", help="default test")
    add("--frames", type=int, default=400, help="frames to measure, spread evenly; default 400")
    add("--fa", type=float, default=FA_LIMIT, help="highest false-alarm rate; default 10e-6")
    add("--snr", type=float, nargs="+", default=SNR_EDGES, help="edges of the SNR intervals")
    add("--output", type=Path, default=Path("pd_over_snr.png"), metavar="FILE.png")
    add_device_options(parser, amp=False)
    args = parser.parse_args(argv)
    if args.frames < 1 or not 0 < args.fa < 1:
        raise InputError(f"--frames {args.frames} --fa {args.fa}; expected at least 1 frame and a rate between 0 and 1")
    if len(args.snr) < 2 or sorted(set(args.snr)) != list(args.snr):
        raise InputError(f"--snr {' '.join(map(str, args.snr))}; expected two or more edges, ascending")
    return args


def load(
    path: str, sequences: list[Sequence], info: DatasetInfo, device: torch.device
) -> tuple[ClipDataset, Predictor]:
    """The clips as a checkpoint's network takes them, and its predictor."""
    model, settings = load_recipe(path, None, [info])
    dataset = eval_dataset(sequences, model, settings, info.name)
    return dataset, Predictor(model, frame_preparation(dataset.transform), device)


def read_frames(dataset: ClipDataset, items: list[int], index: DatasetIndex) -> list[Frame]:
    """Masks of the chosen items, and the SNR that targets.csv gives each target (matched by centroids < 3 px apart)."""
    by_frame = group_rows(read_targets(index.root), lambda row: (row.sequence, row.frame))
    frames = []
    for item in items:
        sample = dataset[item]
        rows = by_frame.get((sample.sequence, sample.frame), [])
        mask = sample.mask[0].numpy() > 0
        centroids = find_regions(mask).centroids
        snr = np.full(len(centroids), np.nan)
        for number, (y, x) in enumerate(centroids):
            near = min(((np.hypot(row.y - y, row.x - x), row.snr) for row in rows), default=(np.inf, np.nan))
            snr[number] = near[1] if near[0] < MATCH_DISTANCE else np.nan
        frames.append(Frame(mask, snr))
    return frames


def logit_maps(source: MapSource, items: list[int], title: str) -> list[np.ndarray]:
    """Logits [H, W] of the items; `title` is that of the progress."""
    maps = []
    observe_maps(source, [items], lambda mapped: maps.append(mapped.score("logit")), title)
    return maps


def compare(maps: list[np.ndarray], frames: list[Frame], fa: float, edges: tuple[float, ...]) -> Comparison:
    """Pd by SNR at the lowest threshold whose Fa over all frames is at most `fa` (standard matching)."""
    accumulator = CurveAccumulator(STRIDE)
    for score, frame in zip(maps, frames, strict=True):
        accumulator.update(score, frame.mask, scale="logit")
    curves = accumulator.compute()
    lowest = int(np.argmax(curves.fa <= fa))  # no pixel reaches the highest threshold, so there always is a threshold
    threshold = curves.logit[lowest]
    pairs = [
        ImagePair(score > threshold, frame.mask, find_regions(frame.mask))
        for score, frame in zip(maps, frames, strict=True)
    ]
    hit = np.concatenate([optimal(pair).hit for pair in pairs])
    by_snr = [float(hit[inside].mean()) if inside.any() else np.nan for inside in by_interval(frames, edges)]
    return Comparison(float(threshold), float(curves.fa[lowest]), float(hit.mean()) if len(hit) else np.nan, by_snr)


def by_interval(frames: list[Frame], edges: tuple[float, ...]) -> list[np.ndarray]:
    """For each interval of SNR, which of all targets lie in it, bool [targets]."""
    snr = np.concatenate([frame.snr for frame in frames])
    return [(snr >= low) & (snr < high) for low, high in itertools.pairwise(edges)]


def table(results: dict[str, Comparison], counts: list[int], edges: tuple[float, ...]) -> list[list[str]]:
    """Rows: the heading, the targets in each interval of SNR, then each network's Pd in percent."""
    intervals = [f"SNR {low:g}-{high:g}" for low, high in itertools.pairwise(edges)]
    rows = [
        ["network", "threshold (logit)", "Fa x 1e-6", "all", *intervals],
        ["targets", "", "", "", *map(str, counts)],
    ]
    for title, result in results.items():
        cells = ["-" if np.isnan(pd) else f"{100 * pd:.1f}" for pd in (result.pd, *result.pd_by_snr)]
        rows.append([title.replace(",", ";"), f"{result.threshold:.1f}", f"{result.fa * 1e6:.1f}", *cells])
    return rows


def draw(path: Path, results: dict[str, Comparison], edges: tuple[float, ...], fa: float) -> None:
    """Write the picture: a line a network, a point an interval of SNR."""
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    with plot(path, width=6.4, xlabel="target SNR", ylabel=f"Pd at Fa of {fa * 1e6:g}e-6", xticks=edges) as axes:
        for title, result in results.items():
            axes.plot(middles, result.pd_by_snr, marker="o", linestyle=":" if "copies" in title else "-", label=title)
        axes.legend()


if __name__ == "__main__":
    run_main(main)
