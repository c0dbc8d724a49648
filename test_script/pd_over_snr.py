"""Compare networks on dim targets: Pd over SNR, each network at the same false-alarm rate.

    python -m test_script.pd_over_snr --model_path A.pth B.pth --dataset data/dim --output pd_over_snr.png

The dataset needs targets.csv: one rendered by `datasets.synthetic`, or a real one dimmed by `datasets.dim`. Each
network's threshold is the lowest at which Fa (protocol `standard`) over all frames is at most `--fa`. A multi-frame
network is also run on copies of the target frame alone, which shows whether it uses motion. Prints a table, and writes
the picture and, beside it, the table as csv.
"""

import argparse
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from datasets import ClipDataset, DatasetIndex, open_dataset
from datasets.targets import read_targets
from datasets.transforms import to_float
from test_script.predictor import Predictor
from utils.errors import InputError, run_main
from utils.files import atomic_path, check_writable
from utils.metrics.curves import CurveAccumulator
from utils.metrics.matching import MATCH_DISTANCE, optimal
from utils.metrics.regions import Scene, find_regions
from utils.metrics.tables import text_table

FA_LIMIT = 10e-6
SNR_EDGES = (1.0, 1.5, 2.0, 2.5, 3.0)
THRESHOLDS = 1000  # steps of the search for the threshold


class Frame(NamedTuple):
    """A frame's true mask bool [H, W], and of its targets, in raster order, the SNR (NaN where not in targets.csv)."""

    mask: np.ndarray
    snr: np.ndarray


class Comparison(NamedTuple):
    """A network's result: threshold, Fa there, Pd of all targets, and Pd in each interval of SNR (NaN where empty)."""

    threshold: float
    fa: float
    pd: float
    pd_by_snr: list[float]


def main(argv: list[str] | None = None) -> None:
    """Compare networks from the command line."""
    args = parse_arguments(argv)
    check_writable(args.output)
    index = open_dataset(args.dataset, args.data_root)
    frames, items = None, None
    results = {}
    for path in args.model_path:
        predictor = Predictor.from_checkpoint(path, args.device)
        dataset = ClipDataset(index.split(args.split), predictor.model.num_frames, _raw, dataset_name=index.info.name)
        if frames is None:
            items = np.linspace(0, len(dataset) - 1, min(args.frames, len(dataset))).astype(int).tolist()
            frames = read_frames(dataset, items, index)
        name = Path(path).stem if Path(path).stem not in results else str(path)
        for still in (False, True) if predictor.model.num_frames > 1 else (False,):
            title = f"{name}, copies of one frame" if still else name
            maps = score_maps(predictor, dataset, items, still, title)
            results[title] = compare(maps, frames, args.fa, args.snr)
    counts = count_by_snr(frames, args.snr)
    header, rows = table(results, counts, args.snr)
    print(f"{index.info.name}, {args.split}: {len(frames)} frames; Pd % at Fa <= {args.fa * 1e6:g}e-6")
    print(text_table([header, *rows]))
    with atomic_path(args.output.with_suffix(".csv")) as path:
        path.write_text("".join(",".join(row) + "\n" for row in [header, *rows]), encoding="utf-8")
    draw(args.output, results, args.snr, args.fa)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m test_script.pd_over_snr",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model_path", nargs="+", required=True, metavar="FILE", help="checkpoints to compare")
    parser.add_argument("--dataset", required=True, help="dataset with targets.csv: a known name, or a folder")
    parser.add_argument("--data_root", help="folder that holds the datasets by name")
    parser.add_argument("--split", default="test", help="default test")
    parser.add_argument("--frames", type=int, default=400, help="frames to measure, spread evenly; default 400")
    parser.add_argument("--fa", type=float, default=FA_LIMIT, help="highest false-alarm rate; default 10e-6")
    parser.add_argument("--snr", type=float, nargs="+", default=SNR_EDGES, help="edges of the SNR intervals")
    parser.add_argument("--output", type=Path, default=Path("pd_over_snr.png"), metavar="FILE.png")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    args = parser.parse_args(argv)
    if args.frames < 1 or not 0 < args.fa < 1:
        raise InputError(f"--frames {args.frames} --fa {args.fa}; expected at least 1 frame and a rate between 0 and 1")
    if len(args.snr) < 2 or sorted(set(args.snr)) != list(args.snr):
        raise InputError(f"--snr {' '.join(map(str, args.snr))}; expected two or more edges, ascending")
    return args


def _raw(frames: np.ndarray, mask: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The transform that leaves frames and mask as they are: the predictor prepares them."""
    return frames, mask


def read_frames(dataset: ClipDataset, items: list[int], index: DatasetIndex) -> list[Frame]:
    """Masks of the chosen items, and the SNR that targets.csv gives each target (matched by centroids < 3 px apart)."""
    by_frame: dict[tuple[str, str], list] = {}
    for row in read_targets(index.root):
        by_frame.setdefault((row.sequence, row.frame), []).append(row)
    frames = []
    for item in items:
        sample = dataset[item]
        rows = by_frame.get((sample.sequence, sample.frame), [])
        centroids = find_regions(sample.mask).centroids
        snr = np.full(len(centroids), np.nan)
        for number, (y, x) in enumerate(centroids):
            near = [(np.hypot(row.y - y, row.x - x), row.snr) for row in rows]
            if near and min(near)[0] < MATCH_DISTANCE:
                snr[number] = min(near)[1]
        frames.append(Frame(sample.mask, snr))
    return frames


def score_maps(
    predictor: Predictor, dataset: ClipDataset, items: list[int], still: bool, title: str
) -> list[np.ndarray]:
    """Probability maps [H, W] of the items; `still` replaces every frame of a clip by its target frame."""
    maps = []
    for item in tqdm(items, desc=title, unit="frame", disable=None):
        frames = to_float(dataset[item].clip)
        if still:
            frames = frames[dataset.num_frames // 2][None].repeat(dataset.num_frames, axis=0)
        clip = torch.stack([predictor.prepare(frame) for frame in frames])
        maps.append(predictor.score_maps([clip], [frames.shape[1:]])[0].probability)
    return maps


def compare(maps: list[np.ndarray], frames: list[Frame], fa: float, edges: tuple[float, ...]) -> Comparison:
    """Pd by SNR at the lowest threshold whose Fa over all frames is at most `fa` (standard matching)."""
    curve = CurveAccumulator(THRESHOLDS)
    for score, frame in zip(maps, frames, strict=True):
        curve.update(score, frame.mask)
    curves = curve.compute()
    lowest = int(np.argmax(curves.fa <= fa))  # at threshold 1 no pixel is left, so one always fits
    threshold = float(curves.threshold[lowest])  # a Python float: compared in the type of the maps, as in the curve
    hit = np.concatenate(
        [
            optimal(Scene(score > threshold, f.mask, find_regions(f.mask))).hit
            for score, f in zip(maps, frames, strict=True)
        ]
    )
    snr = np.concatenate([frame.snr for frame in frames])
    by_snr = [
        float(hit[inside].mean()) if (inside := (snr >= low) & (snr < high)).any() else np.nan
        for low, high in itertools.pairwise(edges)
    ]
    return Comparison(threshold, float(curves.fa[lowest]), float(hit.mean()) if len(hit) else np.nan, by_snr)


def count_by_snr(frames: list[Frame], edges: tuple[float, ...]) -> list[int]:
    """Targets in each interval of SNR."""
    snr = np.concatenate([frame.snr for frame in frames])
    return [int(((snr >= low) & (snr < high)).sum()) for low, high in itertools.pairwise(edges)]


def table(
    results: dict[str, Comparison], counts: list[int], edges: tuple[float, ...]
) -> tuple[list[str], list[list[str]]]:
    """Heading and rows: targets in each interval of SNR, then each network's Pd in percent."""
    intervals = [f"SNR {low:g}-{high:g}" for low, high in itertools.pairwise(edges)]
    rows = [["targets", "", "", "", *map(str, counts)]]
    for title, one in results.items():
        cells = ["-" if np.isnan(pd) else f"{100 * pd:.1f}" for pd in (one.pd, *one.pd_by_snr)]
        rows.append([title.replace(",", ";"), f"{one.threshold:.3f}", f"{one.fa * 1e6:.1f}", *cells])
    return ["network", "threshold", "Fa x 1e-6", "all", *intervals], rows


def draw(path: Path, results: dict[str, Comparison], edges: tuple[float, ...], fa: float) -> None:
    """Write the picture: a line a network, a point an interval of SNR."""
    from matplotlib.figure import Figure  # here, so that nothing but a picture needs matplotlib

    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    for title, one in results.items():
        axes.plot(middles, one.pd_by_snr, marker="o", linestyle=":" if "copies" in title else "-", label=title)
    axes.set(xlabel="target SNR", ylabel=f"Pd at Fa of {fa * 1e6:g}e-6", ylim=(-0.02, 1.02), xticks=edges)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    run_main(main)
