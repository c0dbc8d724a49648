"""Read a whole dataset and say what is wrong with it: `python -m datasets.check --dataset NAME [--preview OUT.png]`."""

import argparse
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.catalog import DatasetInfo
from datasets.index import DatasetIndex, open_dataset
from datasets.sequences import Frame
from datasets.target_statistics import TargetStatistics, measure_targets
from utils.drawing import contact_sheet, grey_to_rgb, outline
from utils.errors import InputError, run_main
from utils.files import atomic_path, check_writable
from utils.images import IMAGE_SUFFIXES, numeric_key, read_grey, read_mask, read_pixels, to_unit

SHOWN = 5  # examples printed of each kind of finding
TILES = 24
COLUMNS = 6
TILE_SIDE = 256
OUTLINE = (255, 64, 64)
DISPLAY_PERCENTILES = (0.1, 99.9)  # of a preview's grey levels that become black and white


@dataclass(frozen=True)
class FrameReport:
    """What reading one frame told: `digest` of its pixels, the targets, and problems as (kind, text)."""

    size: tuple[int, int] | None = None
    depth: str = ""
    digest: bytes = b""
    targets: list[TargetStatistics] = field(default_factory=list)
    empty: bool = False
    problems: list[tuple[str, str]] = field(default_factory=list)


def check_dataset(index: DatasetIndex) -> tuple[dict[str, list[str]], dict[str, list[str]], list[str]]:
    """Read every file of a dataset; returns problems and notes (kind -> texts), and the lines of a summary."""
    frames = list({frame.image: frame for sequence in index.sequences for frame in sequence.frames}.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = pool.map(read_frame, frames)
        reports = list(tqdm(read, total=len(frames), desc=f"reading {index.info.name}", disable=None))
    problems: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, list[str]] = defaultdict(list)
    for frame, report in zip(frames, reports, strict=True):
        for kind, text in report.problems:
            problems[kind].append(text)
        if report.empty:  # a target may leave a sequence, but an image without one teaches and measures little
            (problems if index.info.kind == "images" else notes)["empty masks"].append(str(frame.mask))
        if frame.mask is None:
            found = problems if index.info.kind == "images" else notes
            found["images without mask"].append(str(frame.image))
    if all(frame.mask is None for frame in frames):
        problems["images without mask"].append("the whole dataset")
    problems["masks without image"] += map(str, index.masks_without_image)
    problems["duplicated frames"] += _duplicates(frames, reports)
    for part, entries in index.missing_entries.items():
        problems[f"entries of the {part} list that do not exist"] += entries
    problems["frames in train and in another split"] += _overlap(index)
    return _filled(problems), _filled(notes), _summary(reports)


def read_frame(frame: Frame) -> FrameReport:
    """Read a frame and its mask and measure the targets."""
    try:
        pixels = read_pixels(frame.image)
        mask = None if frame.mask is None else read_mask(frame.mask)
    except InputError as error:
        return FrameReport(problems=[("unreadable files", str(error))])
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
    report = {"size": pixels.shape, "depth": str(pixels.dtype), "digest": digest}
    if mask is None:
        return FrameReport(**report)
    if mask.shape != pixels.shape:
        text = f"{frame.mask} is {_size(mask.shape)}, its image {frame.image} {_size(pixels.shape)}"
        return FrameReport(**report, problems=[("masks of another size than their image", text)])
    return FrameReport(**report, targets=measure_targets(to_unit(pixels), mask), empty=not mask.any())


def preview(index: DatasetIndex) -> np.ndarray:
    """Contact sheet RGB uint8 of up to 24 frames with targets, spread over the dataset, targets outlined."""
    with_mask = [(sequence, f) for sequence in index.sequences for f in sequence.frames if f.mask is not None]
    tiles, labels = [], []
    for sequence, frame in _spread(with_mask):
        try:
            grey, mask = read_grey(frame.image), read_mask(frame.mask)
        except InputError:
            continue  # named by check_dataset
        if grey.shape == mask.shape and mask.any():
            tiles.append(_tile(grey, mask))
            labels.append(frame.name if sequence.name == frame.name else f"{sequence.name}/{frame.name}")
        if len(tiles) == TILES:
            break
    if not tiles:
        raise InputError(f"{index.info.name} has no readable frame with a target; nothing to preview")
    order = sorted(range(len(tiles)), key=lambda i: numeric_key(labels[i]))
    return contact_sheet([tiles[i] for i in order], [labels[i] for i in order], COLUMNS)


def main(argv: list[str] | None = None) -> int:
    """Check a dataset from the command line; returns 1 if anything is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m datasets.check", description=__doc__)
    parser.add_argument("--dataset", required=True, help="a name of the catalog, or a folder")
    parser.add_argument("--data_root", help="folder that holds the datasets by name")
    parser.add_argument("--preview", type=Path, metavar="OUT.png", help="write a contact sheet with outlined targets")
    arguments = parser.parse_args(argv)
    if arguments.preview and arguments.preview.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"--preview {arguments.preview}; expected a name that ends in .png")
    index = open_dataset(arguments.dataset, arguments.data_root)
    if arguments.preview:
        check_writable(arguments.preview)
    print(index.summary)
    print("".join(f"{line}\n" for line in _published(index.info)), end="")
    problems, notes, summary = check_dataset(index)
    print("\n".join(summary))
    for title, findings in (("note", notes), ("WRONG", problems)):
        for kind, texts in findings.items():
            print(f"{title}: {len(texts)} {kind}")
            print("".join(f"    {text}\n" for text in texts[:SHOWN]), end="")
            if len(texts) > SHOWN:
                print(f"    ... and {len(texts) - SHOWN} more")
    if arguments.preview:
        sheet = preview(index)
        with atomic_path(arguments.preview) as path:
            cv2.imwrite(str(path), sheet[..., ::-1])
        print(f"preview: {arguments.preview}")
    print("found problems" if problems else "nothing wrong")
    return 1 if problems else 0


def _published(info: DatasetInfo) -> list[str]:
    """Published preprocessing and results, where the catalog knows them."""
    lines = [f"published preprocessing: preset {info.preset} at {info.image_size}"] if info.preset else []
    return lines + [
        f"published: {one.model} IoU {one.iou}, nIoU {one.niou}, Pd {one.pd}, Fa {one.fa} (protocol {one.protocol})"
        for one in info.metrics
    ]


def _duplicates(frames: list[Frame], reports: list[FrameReport]) -> list[str]:
    same: dict[tuple, list[Path]] = defaultdict(list)
    for frame, report in zip(frames, reports, strict=True):
        if report.digest:
            same[report.digest, report.size].append(frame.image)
    return [" = ".join(map(str, paths)) for paths in same.values() if len(paths) > 1]


def _overlap(index: DatasetIndex) -> list[str]:
    """Frames with a mask that a model would both train and be tested on."""

    def targets(part: str) -> set[str]:
        return {str(f.image) for sequence in index.parts[part] for f in sequence.frames if f.mask is not None}

    return [
        f"{image} (train and {part})"
        for part in index.parts
        if part != "train"
        for image in sorted(targets("train") & targets(part))
    ]


def _summary(reports: list[FrameReport]) -> list[str]:
    sizes = Counter(_size(report.size) for report in reports if report.size)
    depths = Counter(report.depth for report in reports if report.size)
    targets = [target for report in reports for target in report.targets]
    counts = Counter(len(report.targets) for report in reports if report.targets)
    shown = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(SHOWN))
    lines = [
        f"sizes: {shown}" + (f" and {len(sizes) - SHOWN} more" if len(sizes) > SHOWN else ""),
        f"stored as: {', '.join(f'{depth} ({count})' for depth, count in depths.items())}",
        f"targets: {len(targets)} in {sum(counts.values())} frames, {max(counts, default=0)} at most in one",
    ]
    if targets:
        contrasts = [255 * contrast for contrast in _known(target.contrast for target in targets)]
        lines += [
            f"areas in px: {_range([target.area for target in targets], '.0f')}",
            f"local contrast in grey levels of 255: {_range(contrasts, '.1f')}",
            f"SCR: {_range(_known(target.scr for target in targets), '.2f')}",
        ]
    return lines


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _range(values: list[float], style: str) -> str:
    if not values:
        return "-"
    low, middle, high = np.percentile(values, (5, 50, 95))
    return (
        f"min {min(values):{style}}, 5 % {low:{style}}, median {middle:{style}}, 95 % {high:{style}}, "
        f"max {max(values):{style}}"
    )


def _filled(findings: dict[str, list[str]]) -> dict[str, list[str]]:
    return {kind: texts for kind, texts in findings.items() if texts}


def _spread(items: list) -> list:
    """All items in an order whose every beginning is spread over the list."""
    order = np.argsort((np.arange(len(items)) * 0.6180339887) % 1, kind="stable")
    return [items[i] for i in np.argsort(order, kind="stable")]


def _tile(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Frame at 256 px on its long side, grey levels stretched, targets outlined."""
    low, high = np.percentile(grey, DISPLAY_PERCENTILES)
    grey = (grey - low) / max(high - low, 1e-6)
    scale = TILE_SIDE / max(grey.shape)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    if scale < 1:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    else:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return outline(grey_to_rgb(grey), mask, OUTLINE)


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]}"


if __name__ == "__main__":
    run_main(main)
