"""Dim the targets of a dataset of sequences to a chosen SNR: `python -m datasets.dim --dataset NAME --output DIR`.

Real motion and real backgrounds with targets too dim for a single frame. The rule, for each sequence:

    frame' = m + k (frame - m) + noise,   m: the sequence's mean grey level,   noise: N(0, 0.03) of the full range

The target SNR s is spread over `--snr` by the sequence's number. With c and b the medians over the sequence's targets
of contrast (peak - local mean) and local standard deviation (`datasets.rendering.local_statistics`), k is the factor
with k c / sqrt((k b)^2 + 0.03^2) = s. It is at most 1: a target that its clutter hides already is not made brighter.
Masks and splits stay; targets.csv holds each target's SNR: k times its contrast before the
noise, over the local standard deviation of the dimmed frame.
"""

import argparse
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.index import open_dataset
from datasets.rendered_dataset import GOLDEN_RATIO, PNG_COMPRESSION
from datasets.rendering import NOISE, local_statistics
from datasets.sequences import Sequence
from datasets.target_table import TARGET_TABLE, TargetRow, write_targets
from utils.errors import InputError, run_main
from utils.files import new_folder
from utils.images import read_grey, read_mask

GREATEST_LEVEL = 255


def target_contrast(grey: np.ndarray, target: np.ndarray) -> tuple[tuple[int, int], float, float]:
    """Of a target (bool [H, W]) in a frame [H, W]: place of its peak, peak - local mean, local standard deviation."""
    peak = tuple(int(at) for at in np.unravel_index(np.where(target, grey, -np.inf).argmax(), grey.shape))
    mean, deviation = local_statistics(grey, peak)
    return peak, float(grey[peak]) - mean, deviation


def contrast_factor(contrast: float, clutter: float, snr: float) -> float:
    """k in 0..1 with k * contrast / sqrt((k * clutter)^2 + NOISE^2) = snr, or 1 where that would take more."""
    surplus = contrast**2 - (snr * clutter) ** 2
    return min(1.0, snr * NOISE / math.sqrt(surplus)) if contrast > 0 and surplus > 0 else 1.0


def dim_sequence(sequence: Sequence, number: int, snr: tuple[float, float], seed: int, output: Path) -> list[TargetRow]:
    """Write the dimmed frames and the masks of a sequence into `output`; returns its rows of targets.csv."""
    frames = [read_grey(frame.image) for frame in sequence.frames]
    masks = [None if frame.mask is None else read_mask(frame.mask) for frame in sequence.frames]
    measured = [
        target_contrast(grey, mask)[1:]
        for grey, mask in zip(frames, masks, strict=True)
        if mask is not None and mask.any()
    ]
    share = (number * GOLDEN_RATIO + 0.5) % 1
    factor = contrast_factor(*np.median(measured, axis=0), snr[0] + share * (snr[1] - snr[0])) if measured else 1.0
    mean = np.mean([grey.mean() for grey in frames])
    random = np.random.default_rng([seed, number])
    for kind in ("images", "masks"):
        (output / kind / sequence.name).mkdir(parents=True)
    rows = []
    for frame, grey, mask in zip(sequence.frames, frames, masks, strict=True):
        noise = random.standard_normal(grey.shape, dtype=np.float32) * np.float32(NOISE)
        dimmed = np.clip(mean + factor * (grey - mean) + noise, 0, 1).astype(np.float32)
        _write(output / "images" / sequence.name / f"{frame.name}.png", np.rint(dimmed * GREATEST_LEVEL))
        if mask is not None:
            _write(output / "masks" / sequence.name / f"{frame.name}.png", mask * GREATEST_LEVEL)
            rows += target_rows(sequence.name, frame.name, grey, mask, dimmed, factor)
    return rows


def target_rows(
    sequence: str, frame: str, grey: np.ndarray, mask: np.ndarray, dimmed: np.ndarray, factor: float
) -> list[TargetRow]:
    """A row for each target (8-connected region of `mask`) of a frame `grey`, with its SNR in `dimmed`; all [H, W]."""
    rows = []
    count, labels, boxes, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        peak, contrast, _ = target_contrast(grey, labels == label)
        snr = factor * contrast / max(local_statistics(dimmed, peak)[1], NOISE / 10)
        x, y, width, height, area = (int(value) for value in boxes[label])
        rows.append(TargetRow(sequence, frame, label - 1, *map(float, centres[label]), x, y, width, height, area, snr))
    return rows


def _write(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), image.astype(np.uint8), (cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION)):
        raise InputError(f"cannot write {path}; choose a folder with space and write permission")


def main(argv: list[str] | None = None) -> None:
    """Write a dimmed copy of a dataset from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.dim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="dataset of sequences: a known name, or a folder")
    parser.add_argument("--data_root", help="folder that holds the datasets by name")
    parser.add_argument("--output", required=True, help="new folder")
    parser.add_argument("--snr", type=float, nargs=2, default=(1.0, 3.0), metavar=("A", "B"), help="default 1 3")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    args = parser.parse_args(argv)
    if not 0 < args.snr[0] <= args.snr[1] < math.inf:
        raise InputError(f"--snr {args.snr[0]} {args.snr[1]}; expected two numbers above 0, the lower first")
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}; expected 0 or above")
    index = open_dataset(args.dataset, args.data_root)
    if index.info.kind != "sequences":
        raise InputError(f"{index.info.name} is a dataset of single images; expected sequences")
    with new_folder(args.output) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(
            lambda job: dim_sequence(job[1], job[0], args.snr, args.seed, folder), enumerate(index.sequences)
        )
        rows = [row for part in tqdm(jobs, total=len(index.sequences), desc="dimming", disable=None) for row in part]
        write_targets(folder / TARGET_TABLE, rows)
        for part, sequences in index.parts.items():
            (folder / f"{part}.txt").write_text("".join(f"{sequence.name}\n" for sequence in sequences))
    print(
        f"{len(index.sequences)} sequences, {len(rows)} targets in {args.output}; use them with --dataset {args.output}"
    )


if __name__ == "__main__":
    run_main(main)
