"""Read every file of a dataset, report problems, and print the sizes and the contrast of its targets.

Problems are unreadable files, masks that do not fit or look inverted, duplicates, lists that do not match, and images
in two parts of the split. With --skip_unusable, what training and inference would leave out with that option is listed
and is not a problem. The exit status is 1 if there are problems.

Examples:

    python -m datasets.check --dataset NUDT-SIRST --preview nudt.png
    python -m datasets.check --dataset path/to/folder --problems problems.txt --coco truth.json --split test
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm.contrib.concurrent import thread_map

from istd.datasets.catalog import DatasetInfo
from istd.datasets.coco_truth import coco_truth
from istd.datasets.index import DATA_ROOT_HELP, SPLIT_FOLDER_HELP, DatasetIndex, open_dataset
from istd.datasets.layouts import Frame, Sequence
from istd.datasets.snr import local_statistics, surrounding_pixels, target_guard
from istd.datasets.synthetic import golden_share
from istd.datasets.usable import MAX_TARGET_SHARE, Unusable, check_usable, odd_sizes, shared_frames
from istd.utils.command_line import command_parser
from istd.utils.drawing import TRUTH, contact_sheet, grey_to_rgb, outline, stretch_contrast
from istd.utils.errors import InputError, run_main
from istd.utils.files import atomic_path, check_writable, write_json, write_text
from istd.utils.images import IMAGE_SUFFIXES, inspect_mask, last_number, numeric_key, size_text, to_unit
from istd.utils.metrics.regions import find_regions
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process

MAX_EXAMPLES = 5  # printed for each kind of finding
PERCENTILES = (0, 5, 50, 95, 100)  # printed of the targets' statistics
TILES = 24
COLUMNS = 6
TILE_SIDE = 256


class TargetStatistics(NamedTuple):
    """`area` in pixels; `contrast` = peak - local mean in grey levels 0..1, None without surroundings; `snr` as in
    `datasets.snr`, None where the surroundings are constant or absent."""

    area: int
    contrast: float | None
    snr: float | None


class FrameReport(NamedTuple):
    """Findings in a frame: size "W x H", type (`depth`), and `digest` of its pixels; `targets` of its mask, its levels
    if there are more than two, and its `share` of target pixels; and a problem."""

    size: str = ""
    depth: str = ""
    digest: bytes = b""
    targets: list[TargetStatistics] | None = None
    levels: str = ""
    share: float = 0.0
    problem: Unusable | None = None


Findings = dict[str, list[str]]  # kind -> texts


def check_dataset(index: DatasetIndex) -> tuple[Findings, Findings, list[str]]:
    """Read every file of a dataset; returns problems, notes, and the lines of a summary."""
    frames = list({frame.image: frame for sequence in index.sequences for frame in sequence.frames}.values())
    options = {"max_workers": cores_of_process(), "desc": f"reading {index.info.name}", "disable": None}
    reports = dict(zip(frames, thread_map(read_frame, frames, **options), strict=True))
    problems: Findings = defaultdict(list)
    notes: Findings = defaultdict(list)
    with_target = {frame.image for frame, report in reports.items() if report.targets}
    # A target may leave a sequence, and a frame may be context only; a single image needs a mask with a target.
    needs_masks = index.info.kind == "images" or not with_target
    for frame, report in reports.items():
        _check_frame(frame, report, problems, notes, lacking=problems if needs_masks else notes)
    for sequence in index.sequences:
        _check_sequence(sequence, reports, problems, notes)
    problems["masks without image"] += map(str, index.masks_without_image)
    for images, within in _duplicates(index.sequences, reports):
        findings = notes["frames that repeat another of their sequence"] if within else problems["duplicated frames"]
        findings.append(" = ".join(images))
    for part, entries in index.missing_entries.items():
        problems[f"entries of the {part} list without a file"] += entries
    for part in ("train", "test"):
        sequences = index.parts.get(part, ())
        if not any(frame.image in with_target for sequence in sequences for frame in sequence.frames if frame.has_mask):
            lack = "targets" if sequences else "frames"
            problems["empty parts"].append(f"{part} has no {lack} (split: {index.split_source})")
    problems["frames in train and in another split"] += shared_frames(index, index.parts)
    problems, notes = ({kind: texts for kind, texts in kinds.items() if texts} for kinds in (problems, notes))
    return problems, notes, _summary(list(reports.values()))


def _check_frame(frame: Frame, report: FrameReport, problems: Findings, notes: Findings, lacking: Findings) -> None:
    """Add a frame's report to the findings; `lacking`: the findings to which a missing mask or target is added."""
    if report.problem:
        problems[report.problem.kind].append(report.problem.text)
    if report.targets == []:
        lacking["empty masks"].append(str(frame.mask))
    if not frame.has_mask:
        lacking["images without mask"].append(str(frame.image))
    if report.levels:
        notes["masks of more than two levels"].append(f"{frame.mask} ({report.levels})")
    if report.share > MAX_TARGET_SHARE:
        kind = "masks that make most of the image target (inverted?)"
        problems[kind].append(f"{frame.mask} ({report.share:.0%})")


def _check_sequence(sequence: Sequence, reports: dict[Frame, FrameReport], problems: Findings, notes: Findings) -> None:
    """Add to the findings how the frames of a sequence differ."""
    readable = {frame: reports[frame] for frame in sequence.frames if frame in reports and reports[frame].size}
    for fault in odd_sizes({frame: report.size for frame, report in readable.items()}).values():
        problems[fault.kind].append(fault.text)
    depths = sorted({report.depth for report in readable.values()})
    if len(depths) > 1:
        problems["sequences of frames of several depths"].append(f"{sequence.name}: {', '.join(depths)}")
    notes["gaps between the frames of a sequence"] += find_gaps(sequence)


def find_gaps(sequence: Sequence) -> list[str]:
    """Successive frames whose numbers differ by an unusual step; [] where no step is usual, as for time stamps."""
    numbers = [last_number(frame.name) for frame in sequence.frames]
    steps = [after - before for before, after in pairwise(numbers) if None not in (before, after)]
    usual, count = Counter(steps).most_common(1)[0] if steps else (0, 0)
    if len(steps) < len(numbers) - 1 or 2 * count <= len(steps):
        return []
    pairs = zip(pairwise(sequence.frames), steps, strict=True)
    return [f"{sequence.name}: {before.name} to {after.name}" for (before, after), step in pairs if step != usual]


def read_frame(frame: Frame) -> FrameReport:
    """Read a frame and its mask and measure the targets."""
    try:
        pixels = frame.read_image()
        mask, levels = inspect_mask(frame.mask) if frame.has_mask else (None, "")
    except InputError as error:
        return FrameReport(problem=Unusable("unreadable files", str(error)))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
    report = FrameReport(size_text(pixels), str(pixels.dtype), digest)
    if mask is None:
        return report
    if mask.shape != pixels.shape:
        text = f"{frame.mask} is {size_text(mask)}, its image {frame.image} {size_text(pixels)}"
        return report._replace(problem=Unusable("masks that differ in size from their image", text))
    targets = measure_targets(to_unit(pixels), mask)
    return report._replace(targets=targets, levels=levels, share=float(mask.mean()))


def measure_targets(grey: np.ndarray, mask: np.ndarray) -> list[TargetStatistics]:
    """Statistics of each 8-connected region of `mask` bool [H, W] in `grey` float [H, W].

    Its surroundings: see `local_statistics`, with a guard that covers the region, except all targets and 2 px
    around them. The peak is the pixel of the region that stands out most, bright or dark.
    """
    free = surrounding_pixels(mask)
    targets = []
    for rows, columns in find_regions(np.ascontiguousarray(mask)).coordinates(mask.shape[1]):
        guard = target_guard(rows, columns)
        centre = round(float(rows.mean())), round(float(columns.mean()))
        local_mean, _ = local_statistics(grey, centre, guard, free)
        contrast = snr = None
        if not math.isnan(local_mean):
            peak = int(np.argmax(np.abs(grey[rows, columns] - local_mean)))
            place = (int(rows[peak]), int(columns[peak]))
            mean, deviation = local_statistics(grey, place, guard, free)
            if not math.isnan(mean):
                contrast = float(grey[place]) - mean
                snr = abs(contrast) / deviation if deviation > 0 else None
        targets.append(TargetStatistics(len(rows), contrast, snr))
    return targets


def preview(index: DatasetIndex) -> np.ndarray:
    """Contact sheet (RGB uint8) of up to 24 frames spread over the dataset, with outlined targets."""
    with_mask = [(sequence, f) for sequence in index.sequences for f in sequence.frames if f.has_mask]
    tiles: dict[str, np.ndarray] = {}
    # the first n of these are spread over the dataset, for any n
    order = np.argsort(np.argsort([golden_share(number) for number in range(len(with_mask))]))
    for sequence, frame in (with_mask[number] for number in order):
        try:
            grey, mask = to_unit(frame.read_image()), frame.read_mask()
        except InputError:
            continue  # reported by check_dataset
        if grey.shape == mask.shape and mask.any():
            name = frame.name if sequence.name == frame.name else f"{sequence.name}/{frame.name}"
            tiles[name] = _tile(grey, mask)
        if len(tiles) == TILES:
            break
    if not tiles:
        raise InputError(f"{index.info.name} has no readable frame with a target, so there is nothing to preview")
    names = sorted(tiles, key=numeric_key)
    return contact_sheet([tiles[name] for name in names], names, COLUMNS)


def main(argv: list[str] | None = None) -> int:
    """Check a dataset from the command line; returns 1 if there are problems."""
    parser = command_parser("datasets.check", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME|FOLDER", help="name from datasets/path_config.py, or a folder")
    add("--data_root", metavar="FOLDER", help=DATA_ROOT_HELP)
    add("--split_folder", metavar="NAME", help=SPLIT_FOLDER_HELP)
    add("--problems", type=Path, metavar="FILE", help="write all problems and notes to a text file")
    add("--coco", type=Path, metavar="FILE.json", help="write the ground truth in COCO's format")
    part = "part in the file of --coco: train, test, or another list of the dataset; default the whole dataset"
    add("--split", metavar="NAME", help=part)
    skipped = "leave out files that cannot be used, as training and inference do with this option, and list them"
    add("--skip_unusable", action="store_true", help=skipped)
    add("--preview", type=Path, metavar="FILE.png", help="draw frames with outlined targets")
    arguments = parser.parse_args(argv)
    index = open_dataset(arguments.dataset, arguments.data_root, arguments.split_folder)
    if arguments.split:
        index.split(arguments.split)  # reports a wrong name before all files are read
    if arguments.preview:
        check_writable(arguments.preview, IMAGE_SUFFIXES)
    for file in filter(None, (arguments.problems, arguments.coco)):
        check_writable(file)
    complete = index
    if arguments.skip_unusable:
        index = without_unusable(index)
    print("\n".join([index.summary, *_published(index.info)]))
    problems, notes, summary = check_dataset(index)
    print("\n".join(summary))
    all_lines = []
    for title, findings in (("note", notes), ("PROBLEM", problems)):
        for kind, texts in findings.items():
            hidden = len(texts) - MAX_EXAMPLES
            more = [f"... and {hidden} more (--problems FILE lists all)"] if hidden > 0 else []
            heading = f"{title}: {kind} ({len(texts)})"
            print("\n    ".join([heading, *texts[:MAX_EXAMPLES], *more]))
            all_lines.append("\n    ".join([heading, *texts]) + "\n")
    if arguments.problems:
        write_text(arguments.problems, "".join(all_lines))
        print(f"problems and notes: {arguments.problems}")
    if arguments.coco:
        sequences = index.split(arguments.split) if arguments.split else index.sequences
        write_json(arguments.coco, coco_truth(complete, sequences), indent=None)  # with the ids of inference
        print(f"ground truth: {arguments.coco}")
    if arguments.preview:
        sheet = preview(index)
        with atomic_path(arguments.preview) as path:
            cv2.imwrite(str(path), sheet[..., ::-1])
        print(f"preview: {arguments.preview}")
    print("problems found" if problems else "no problems found")
    return 1 if problems else 0


def without_unusable(index: DatasetIndex) -> DatasetIndex:
    """`index` without files that cannot be used, in its sequences and in all parts."""
    sequences, faults = check_usable(index.sequences, skip=True)
    parts = {name: check_usable(part, skip=True)[0] for name, part in index.parts.items()}
    left_out = tuple(dict.fromkeys(fault.text for fault in faults))
    return replace(index, sequences=sequences, parts=parts, left_out=left_out)


def _published(info: DatasetInfo) -> list[str]:
    lines = [f"published preprocessing: preset {info.preset}, size {info.image_size}"] if info.preset else []
    return lines + [
        f"published: {row.model} IoU {row.iou}, nIoU {row.niou}, Pd {row.pd}, Fa {row.fa} (protocol {row.protocol})"
        for row in info.metrics
    ]


def _duplicates(sequences: list[Sequence], reports: dict[Frame, FrameReport]) -> Iterator[tuple[list[str], bool]]:
    """Yield groups of image files with equal pixels, and whether all files of a group are in the same sequence."""
    same: dict[tuple[bytes, str], dict[str, int]] = defaultdict(dict)
    for number, sequence in enumerate(sequences):
        for frame in sequence.frames:
            if (report := reports.get(frame)) and report.digest:
                same[report.digest, report.size][str(frame.image)] = number
    return ((list(images), len(set(images.values())) == 1) for images in same.values() if len(images) > 1)


def _summary(reports: list[FrameReport]) -> list[str]:
    sizes = Counter(report.size for report in reports if report.size)
    depths = Counter(report.depth for report in reports if report.size)
    targets = [target for report in reports for target in report.targets or ()]
    counts = [len(report.targets) for report in reports if report.targets]
    common = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(MAX_EXAMPLES))
    others = len(sizes) - MAX_EXAMPLES
    lines = [
        f"sizes: {common}" + (f" and {others} other sizes" if others > 0 else ""),
        f"stored as: {', '.join(f'{depth} ({count})' for depth, count in depths.items())}",
        f"targets: {len(targets)} in {counted(len(counts), 'frame')}, at most {max(counts, default=0)} per frame",
    ]
    statistics = {
        "area in px": ([target.area for target in targets], ".0f"),
        "local contrast in 8-bit grey levels": ([255 * t.contrast for t in targets if t.contrast is not None], ".1f"),
        "SNR": ([target.snr for target in targets if target.snr is not None], ".2f"),
    }
    for name, (values, style) in statistics.items():
        if values:
            low, low_tail, median, high_tail, high = (f"{q:{style}}" for q in np.percentile(values, PERCENTILES))
            lines.append(f"{name}: median {median}, 90% from {low_tail} to {high_tail}, all from {low} to {high}")
    return lines


def _tile(grey: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Contrast-stretched frame at 256 px on its long side, with outlined targets."""
    scale = TILE_SIDE / max(grey.shape)
    size = tuple(max(1, round(side * scale)) for side in grey.shape[::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = grey_to_rgb(cv2.resize(stretch_contrast(grey), size, interpolation=method))
    return outline(picture, cv2.resize(mask.astype(np.float32), size, interpolation=method) > 0, TRUTH)


if __name__ == "__main__":
    run_main(main)
