"""Compare networks on dim targets: Pd over SNR, all networks at the same false-alarm rate.

The dataset needs targets.csv: it is rendered by `datasets.synthetic`, or dimmed by `datasets.dim`. The threshold of a
network is the lowest at which Fa (protocol `standard`) over all frames is at most --fa. A multi-frame network is also
run on copies of the target frame alone, which shows whether it uses motion. The command prints a table, and writes the
picture and, beside it, the table as csv.

Examples:

    python -m test_script.pd_over_snr --model_path A.pth B.pth --dataset data/dim --output pd_over_snr.png
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch

from istd.datasets import ClipDataset, Sequence
from istd.datasets.catalog import DatasetInfo
from istd.datasets.targets import TargetRow, read_targets
from istd.test_script.map_sources import MappedFrame, MapSource
from istd.test_script.measurement import observe_maps
from istd.test_script.network_maps import network_maps
from istd.test_script.options import (
    COUNT,
    add_checkpoint_option,
    add_device_options,
    add_number,
    add_part_options,
    open_part,
)
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.preparation import eval_dataset, frame_preparation, load_recipe
from istd.test_script.results.frame_set import dataset_frames
from istd.test_script.results.run_folder import checkpoint_label
from istd.utils.command_line import command_parser
from istd.utils.device import choose_device
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_csv
from istd.utils.metrics.accumulator import group_rows
from istd.utils.metrics.curves import CurveAccumulator
from istd.utils.metrics.matching import MATCH_DISTANCE, optimal
from istd.utils.metrics.regions import ImagePair, find_regions
from istd.utils.metrics.tables import text_table
from istd.utils.names import counted
from istd.utils.plots import PLOT_SUFFIXES, plot

FA_LIMIT = 10e-6
SNR_EDGES = (1.0, 1.5, 2.0, 2.5, 3.0)
STRIDE = 2  # of the thresholds that are searched: 1/128 logit apart at probability 0.5
RATE = Annotated[float, lambda rate: 0 < rate < 1, "a rate between 0 and 1"]


class ScoredFrame(NamedTuple):
    """Logits and true mask [H, W] of a frame, and the SNR of its targets, in raster order (NaN if unknown)."""

    logits: np.ndarray
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
    index = open_part(args)
    sequences = index.split(args.split)
    frames = dataset_frames(index, sequences).frames
    items = np.linspace(0, len(frames) - 1, min(args.frames, len(frames))).astype(int).tolist()
    rows_of = group_rows(read_targets(index.root), lambda row: (row.sequence, row.frame))
    targets = {item: rows_of.get(frames[item].row_names, []) for item in items}
    device, results = choose_device(args.device), {}
    for path in args.model_path:
        dataset, predictor = load(path, sequences, index.info, device)
        name = checkpoint_label(path) if checkpoint_label(path) not in results else str(path)
        views = {name: dataset}
        if dataset.num_frames > 1:
            views[f"{name}, copies of one frame"] = replace(dataset, stride=0)  # nothing moves
        for title, view in views.items():
            maps = partial(network_maps, dataset=view, predictor=predictor, scales={"logit"})
            scored = score_frames(maps, targets, title)
            results[title] = compare(scored, args.fa, args.snr)
    counts = [sum(len(frame.snr) for frame in scored), *(int(inside.sum()) for inside in by_interval(scored, args.snr))]
    rows = table(results, counts, args.snr)
    write_csv(args.output.with_suffix(".csv"), rows[0], rows[1:])
    draw(args.output, results, args.snr, args.fa)
    print(f"{index.info.name}, {args.split}: {counted(len(items), 'frame')}; Pd % at Fa <= {args.fa * 1e6:g}e-6")
    print(text_table(rows))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.pd_over_snr", __doc__)
    add = parser.add_argument
    add_checkpoint_option(parser, several=True)
    dataset = "dataset with targets.csv: name from datasets/path_config.py, or a folder"
    add("--dataset", required=True, metavar="NAME|FOLDER", help=dataset)
    add_part_options(parser)
    frames = "frames to measure, spread evenly; default 400"
    add_number(parser, "--frames", COUNT, default=400, metavar="N", help=frames)
    add_number(parser, "--fa", RATE, default=FA_LIMIT, metavar="FA", help="highest false-alarm rate; default 10e-6")
    edges = f"edges of the SNR intervals; default {' '.join(map(str, SNR_EDGES))}"
    add("--snr", type=float, nargs="+", default=SNR_EDGES, metavar="SNR", help=edges)
    picture = "picture to write; default pd_over_snr.png"
    add("--output", type=Path, default=Path("pd_over_snr.png"), metavar="FILE.png", help=picture)
    add_device_options(parser, amp=False)
    args = parser.parse_args(argv)
    if len(args.snr) < 2 or sorted(set(args.snr)) != list(args.snr):
        raise InputError(f"--snr {' '.join(map(str, args.snr))}; expected two or more edges, ascending")
    return args


def load(
    path: str, sequences: list[Sequence], info: DatasetInfo, device: torch.device
) -> tuple[ClipDataset, Predictor]:
    """The clips for a checkpoint's network, and its predictor."""
    model, settings = load_recipe(path, None, [info])
    dataset = eval_dataset(sequences, model, settings, info.name)
    return dataset, Predictor(model, frame_preparation(dataset.transform), device)


def score_frames(source: MapSource, targets: dict[int, list[TargetRow]], title: str) -> list[ScoredFrame]:
    """Score the items in `targets`, whose rows of targets.csv belong to true regions with centroids < 3 px away."""
    scored = []

    def add(mapped: MappedFrame) -> None:
        rows, snr = targets[mapped.item], []
        for y, x in find_regions(mapped.mask).centroids:
            nearest = min(((np.hypot(row.y - y, row.x - x), row.snr) for row in rows), default=(np.inf, np.nan))
            snr.append(nearest[1] if nearest[0] < MATCH_DISTANCE else np.nan)
        scored.append(ScoredFrame(mapped.score("logit"), mapped.mask, np.array(snr, np.float64)))

    observe_maps(source, [list(targets)], add, title)
    return scored


def compare(frames: list[ScoredFrame], fa: float, edges: tuple[float, ...]) -> Comparison:
    """Pd by SNR at the lowest threshold whose Fa over all frames is at most `fa` (standard matching)."""
    accumulator = CurveAccumulator(STRIDE)
    for frame in frames:
        accumulator.update(frame.logits, frame.mask, scale="logit")
    curves = accumulator.compute()
    lowest = int(np.argmax(curves.fa <= fa))  # no pixel reaches the highest threshold, so there always is a threshold
    threshold = curves.logit[lowest]  # float64, with which float32 logits are compared exactly
    pairs = (ImagePair(frame.logits > threshold, frame.mask, find_regions(frame.mask)) for frame in frames)
    hit = np.concatenate([optimal(pair).hit for pair in pairs])
    chosen = (hit, *(hit[inside] for inside in by_interval(frames, edges)))
    pd, *pd_by_snr = (float(hits.mean()) if len(hits) else np.nan for hits in chosen)
    return Comparison(float(threshold), float(curves.fa[lowest]), pd, pd_by_snr)


def by_interval(frames: list[ScoredFrame], edges: tuple[float, ...]) -> list[np.ndarray]:
    """For each interval of SNR, which of all targets lie in it, bool [targets]."""
    snr = np.concatenate([frame.snr for frame in frames])
    return [(snr >= low) & (snr < high) for low, high in pairwise(edges)]


def table(results: dict[str, Comparison], counts: list[int], edges: tuple[float, ...]) -> list[list[str]]:
    """Rows: the heading, the numbers of targets, all and by interval of SNR, then each network's Pd in percent."""
    intervals = [f"SNR {low:g}-{high:g}" for low, high in pairwise(edges)]
    rows = [
        ["network", "threshold (logit)", "Fa x 1e-6", "all", *intervals],
        ["targets", "", "", *map(str, counts)],
    ]
    for title, result in results.items():
        cells = ["-" if np.isnan(pd) else f"{100 * pd:.1f}" for pd in (result.pd, *result.pd_by_snr)]
        rows.append([title.replace(",", ";"), f"{result.threshold:.1f}", f"{result.fa * 1e6:.1f}", *cells])
    return rows


def draw(path: Path, results: dict[str, Comparison], edges: tuple[float, ...], fa: float) -> None:
    """Write the picture: a line for each network, with a point for each interval of SNR."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    with plot(path, width=6.4, xlabel="target SNR", ylabel=f"Pd at Fa of {fa * 1e6:g}e-6", xticks=edges) as axes:
        for title, result in results.items():
            axes.plot(middles, result.pd_by_snr, marker="o", linestyle=":" if "copies" in title else "-", label=title)
        axes.legend()


if __name__ == "__main__":
    run_main(main)
