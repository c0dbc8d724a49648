"""Dim the targets of a dataset of sequences to a chosen SNR.

The copy keeps real motion and real backgrounds, but its targets are too dim for a single frame. For each sequence:

    frame' = m' + k (frame - m) + noise,   m: mean grey level of the sequence,   noise: N(0, 0.03), grey levels in 0..1

m' is m, but at least 0.09 from black and white, which would clip the noise.
The target SNR s is spread evenly over --snr by the number of the sequence. With c and b the medians, over the targets
of the sequence, of contrast (peak - local mean) and local standard deviation (`datasets.snr`), k is the factor for
which k c / sqrt((k b)^2 + 0.03^2) = s. It is at most 1: targets that the clutter already hides, and targets darker than
their background, are not amplified; they only receive the noise.

Masks and splits are kept; frames are stored with 8 bits. targets.csv lists the SNR of each target: k times its contrast
before the noise, over the local standard deviation of the dimmed frame. `utils.tracking` links targets over the frames.

Examples:

    python -m datasets.dim --dataset path/to/sequences --output data/dim_real --snr 1 3
"""

import math
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from istd.datasets.index import DATA_ROOT_HELP, open_dataset
from istd.datasets.layouts import Sequence
from istd.datasets.sensor import NOISE, draw_noise
from istd.datasets.snr import local_statistics, surrounding_pixels, target_guard
from istd.datasets.synthetic import PNG_OPTIONS, golden_share
from istd.datasets.targets import TARGET_TABLE, TargetRow, write_targets
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import new_folder
from istd.utils.grey_levels import GreyScale, range_frames
from istd.utils.images import encode_png
from istd.utils.metrics.regions import find_regions
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process
from istd.utils.tracking import link

WHITE = 255
ROOM = 3 * NOISE  # of the mean level to black and white, which would clip the noise
MIN_DEVIATION = NOISE / 10  # used where clipping leaves the surroundings of a target constant


class MeasuredTarget(NamedTuple):
    """A target in a frame: `centre` (x, y), `box` (x, y, width, height, area), `peak` (row, column) of its brightest
    pixel, `guard` of its surroundings, `contrast` (peak - local mean) and `clutter` (local standard deviation) in grey
    levels 0..1, NaN where masks leave no surroundings."""

    centre: tuple[float, ...]
    box: tuple[int, ...]
    peak: tuple[int, ...]
    guard: int
    contrast: float
    clutter: float


def find_targets(grey: np.ndarray, mask: np.ndarray) -> list[MeasuredTarget]:
    """The 8-connected regions of `mask`, bool [H, W], measured in the frame `grey`, float [H, W] in 0..1."""
    free = surrounding_pixels(mask)
    regions, width = find_regions(np.ascontiguousarray(mask)), mask.shape[1]
    boxes = np.column_stack([regions.boxes(width), regions.areas])
    centres = regions.centroids[:, ::-1]
    targets = []
    for number, (rows, columns) in enumerate(regions.coordinates(width)):
        brightest = grey[rows, columns].argmax()
        peak = (int(rows[brightest]), int(columns[brightest]))
        guard = target_guard(rows, columns)
        mean, deviation = local_statistics(grey, peak, guard, free)
        place = (tuple(centres[number].tolist()), tuple(boxes[number].tolist()), peak, guard)
        targets.append(MeasuredTarget(*place, float(grey[peak]) - mean, deviation))
    return targets


def contrast_factor(contrast: float, clutter: float, snr: float) -> float:
    """k in 0..1 with k * contrast / sqrt((k * clutter)^2 + NOISE^2) = snr, or 1 if there is none."""
    surplus = contrast**2 - (snr * clutter) ** 2
    return min(1.0, snr * NOISE / math.sqrt(surplus)) if contrast > 0 and surplus > 0 else 1.0


def dim_sequence(sequence: Sequence, number: int, snr: tuple[float, float], seed: int, output: Path) -> list[TargetRow]:
    """Write the dimmed frames and the masks of a sequence into `output`; returns its rows of targets.csv."""
    images = [frame.read_image() for frame in sequence.frames]
    scale = GreyScale(sample=lambda: range_frames(images))
    frames = [scale(image) for image in images]
    masks = [frame.read_mask(grey.shape) for frame, grey in zip(sequence.frames, frames, strict=True)]
    targets = [[] if mask is None else find_targets(grey, mask) for grey, mask in zip(frames, masks, strict=True)]
    measured = [(target.contrast, target.clutter) for target in chain(*targets) if not math.isnan(target.contrast)]
    wanted = snr[0] + golden_share(number) * (snr[1] - snr[0])
    factor = contrast_factor(*np.median(measured, axis=0), wanted) if measured else 1.0
    mean = np.mean([grey.mean() for grey in frames])
    level = np.clip(mean, ROOM, 1 - ROOM)
    random = np.random.default_rng([seed, number])
    for kind in ("images", "masks"):
        (output / kind / sequence.name).mkdir(parents=True)
    identities = link(enumerate(np.array([t.centre for t in in_frame]).reshape(-1, 2) for in_frame in targets))
    rows = []
    for frame, grey, mask, in_frame, labels in zip(sequence.frames, frames, masks, targets, identities, strict=True):
        noisy = level + factor * (grey - mean) + draw_noise(grey.shape, NOISE, random)
        dimmed = np.clip(noisy, 0, 1).astype(np.float32)
        stored = {"images": np.rint(dimmed * WHITE).astype(np.uint8)}
        if mask is not None:
            stored["masks"] = mask * np.uint8(WHITE)
        for kind, image in stored.items():
            (output / kind / sequence.name / f"{frame.name}.png").write_bytes(encode_png(image, PNG_OPTIONS))
        free = surrounding_pixels(mask) if in_frame else None
        for label, target in zip((labels - 1).tolist(), in_frame, strict=True):
            _, deviation = local_statistics(dimmed, target.peak, target.guard, free)
            row = (sequence.name, frame.name, label, *target.centre, *target.box)
            rows.append(TargetRow(*row, factor * target.contrast / max(deviation, MIN_DEVIATION)))
    return rows


def write_split(path: Path, part: list[Sequence], sequences: list[Sequence]) -> None:
    """List the sequences of a split, or their frames with masks where the split uses a part of them."""
    with open(path, "w", encoding="utf-8") as file:
        for sequence in part:
            listed = [f"/{frame.name}" for frame in sequence.frames if frame.has_mask]
            file.writelines(f"{sequence.name}{frame}\n" for frame in ([""] if sequence in sequences else listed))


def main(argv: list[str] | None = None) -> None:
    """Write a dimmed copy of a dataset from the command line."""
    parser = command_parser("datasets.dim", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME|FOLDER", help="name from datasets/path_config.py, or a folder")
    add("--data_root", metavar="FOLDER", help=DATA_ROOT_HELP)
    add("--output", required=True, metavar="FOLDER", help="new folder of the dataset")
    snr = "range of the targets' SNR; default 1 3"
    add("--snr", type=float, nargs=2, default=(1.0, 3.0), metavar=("LOW", "HIGH"), help=snr)
    add("--seed", type=int, default=0, metavar="N", help="seed of the noise; default 0")
    args = parser.parse_args(argv)
    if not 0 < args.snr[0] <= args.snr[1] < math.inf:
        raise InputError(f"--snr {args.snr[0]} {args.snr[1]}: expected two numbers above 0, the lower first")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: expected 0 or above")
    index = open_dataset(args.dataset, args.data_root)
    if index.info.kind != "sequences":
        raise InputError(f"{index.info.name} is a dataset of single images; give a dataset of sequences")
    names = Counter(sequence.name for sequence in index.sequences)
    if shared := [name for name, count in names.items() if count > 1]:
        problem = f"{index.layout} hold sequences of the same name: {', '.join(shared)}"
        raise InputError(f"{problem}; expected different names, since the copy has one folder for all; rename them")
    with new_folder(args.output) as folder:
        dim = partial(dim_sequence, snr=args.snr, seed=args.seed, output=folder)
        jobs = (index.sequences, range(len(index.sequences)))
        rows = list(chain(*thread_map(dim, *jobs, max_workers=cores_of_process(), desc="dimming", disable=None)))
        write_targets(folder / TARGET_TABLE, rows)
        for part, sequences in index.parts.items():
            write_split(folder / f"{part}.txt", sequences, index.sequences)
    written = f"{counted(len(index.sequences), 'sequence')} with {counted(len(rows), 'target')}"
    print(f"wrote {written}; use with --dataset {args.output}")


if __name__ == "__main__":
    run_main(main)
