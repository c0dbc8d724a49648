"""Make a dataset of images with boxes.

Annotations are a file or a folder in the format COCO json, YOLOX text, YOLO, Pascal VOC, Anti-UAV, or csv (columns
sequence, frame, x0, y0, width, height), recognised by its content. The images are a folder, also with other folders
inside, a video, or a folder of videos; only the end of the paths in the annotations counts.

The new dataset has images/ (linked where the disk allows it, otherwise copied; frames of videos as png), masks/ made of
the boxes, boxes.json with the boxes in COCO's format, and train.txt, val.txt, and test.txt if the annotations have such
parts; a single sequence is split in time. --masks contrast marks the region around the pixel that differs most from
the surroundings of the box, brighter or darker, with at least half of that pixel's contrast; `box` fills the box, and
`disc` the ellipse in it. After an interruption, the same command continues.

Examples:

    python -m datasets.from_boxes --annotations boxes.csv --images video.mp4 --output data/my_video --stride 3
    python -m datasets.from_boxes --annotations annotations.json --images path/to/images --output data/my_images
"""

import argparse
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from istd.datasets.boxes.annotations import Annotations, read_annotations
from istd.datasets.boxes.images import Item, Plan, make_plan
from istd.datasets.boxes.masks import MASKS, box_pixels, clip_box
from istd.datasets.boxes.readers import AnnotatedImage, Box
from istd.datasets.coco_truth import BOXES_FILE
from istd.utils.coco import encode_rle, ground_truth
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_json, write_text
from istd.utils.folder_lock import locked_folder
from istd.utils.grey_levels import repair
from istd.utils.images import encode_png, read_pixels
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process
from istd.utils.video import read_frames

SHARD_IMAGES = 64  # image files that are finished together; frames of a video all are
UNFINISHED = ".from_boxes"  # folder with the finished shards of an interrupted run
WORKERS = 4
TRAIN_SHARE = 0.8  # of the frames of a single sequence, from its start
COUNTS = ("clipped", "outside", "degenerate", "without contrast")  # of boxes


def main(argv: list[str] | None = None) -> None:
    """Make a dataset of boxes from the command line."""
    args = parse_arguments(argv)
    annotations = read_annotations(args.annotations)
    print(
        f"{annotations.format.name}: {counted(len(annotations.files), 'file')}, "
        f"{counted(len(annotations.images), 'annotated image')}"
    )
    if annotations.ignored:
        ignored = [str(path) for path in annotations.ignored]
        print(f"files that are no annotations, ignored: {len(ignored)}{_first(ignored)}")
    plan = make_plan(annotations, args.images, args.kind, args.stride)
    with locked_folder(args.output):
        summary = make_dataset(annotations, plan, args.output, args.masks)
    print("\n".join(summary))
    print(f"use it with --dataset {args.output}")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("datasets.from_boxes", __doc__)
    add = parser.add_argument
    add("--annotations", type=Path, required=True, metavar="FILE|FOLDER", help="boxes in one of the formats above")
    images = "folder of the images or videos, or a video"
    add("--images", type=Path, required=True, metavar="FOLDER|VIDEO", help=images)
    add("--output", type=Path, required=True, metavar="FOLDER", help="new folder of the dataset")
    add("--masks", choices=MASKS, default="contrast", help="how a box becomes a mask; default contrast")
    kinds = "single images or sequences; default: as the folders and the format suggest"
    add("--kind", choices=("images", "sequences"), help=kinds)
    add("--stride", type=int, default=1, metavar="N", help="take every Nth frame of a sequence; default 1")
    args = parser.parse_args(argv)
    if args.stride < 1:
        raise InputError(f"--stride {args.stride}; expected 1 or more")
    return args


def make_dataset(annotations: Annotations, plan: Plan, output: Path, masks: str) -> list[str]:
    """Write the dataset, or continue an interrupted run; returns the lines of a summary. `masks`: one of `MASKS`.

    Raises `InputError` where `output` holds something else.
    """
    shards = list(_shards(plan.items))
    inputs = _fingerprint(annotations, plan, masks)
    unfinished = output / UNFINISHED
    finished = (_read_json(output / BOXES_FILE) or {}).get("info", {})
    if finished.get("inputs") == inputs:
        shutil.rmtree(unfinished, ignore_errors=True)
        return [f"{output} is complete", *finished["summary"]]
    check_writable(output / BOXES_FILE)
    if not unfinished.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
        raise InputError(f"{output} holds something else; choose a new folder or remove it")
    if unfinished.is_dir() and _read_json(unfinished / "inputs.json") not in (None, inputs):
        raise InputError(f"{output} was begun with other annotations, images or options; remove it, or choose another")
    unfinished.mkdir(exist_ok=True)
    write_json(unfinished / "inputs.json", inputs)
    with tqdm(total=len(plan.items), unit="image", desc="converting", disable=None) as progress:

        def work(number: int) -> dict:
            file = unfinished / f"{number:06d}.json"
            if (done := _read_json(file)) is None:
                done = _convert(shards[number], output, masks, progress)
                write_json(file, done, indent=None)
            else:
                progress.update(len(shards[number]))
            return done

        with ThreadPoolExecutor(min(WORKERS, cores_of_process())) as pool:
            results = list(pool.map(work, range(len(shards))))
    rows = [row for result in results for row in result["rows"]]
    counts = sum((Counter(result["counts"]) for result in results), Counter())
    summary = _summary(annotations, plan, rows, counts)
    write_lists(plan.items, output)
    truth = ground_truth(_coco_images(plan.items, rows), f"boxes of {annotations.format.name}")
    truth["info"] |= {"inputs": inputs, "summary": summary}
    write_json(output / BOXES_FILE, truth, indent=None)
    shutil.rmtree(unfinished)
    return summary


def write_lists(items: list[Item], output: Path) -> None:
    """Write a list for each part: its sequences, or SEQUENCE/FRAME where it has only a part of the sequence."""
    parts = [(item.sequence, part) for item, part in zip(items, item_parts(items), strict=True)]
    lengths, shares = Counter(item.sequence for item in items), Counter(parts)
    lines: dict[str, dict[str, None]] = defaultdict(dict)
    for item, (sequence, part) in zip(items, parts, strict=True):
        if part:
            is_complete = shares[sequence, part] == lengths[sequence]
            line = item.name if sequence is None else sequence if is_complete else f"{sequence}/{item.name}"
            lines[part][line] = None  # only once
    for part, entries in lines.items():
        write_text(output / f"{part}.txt", "".join(f"{line}\n" for line in entries))


def item_parts(items: list[Item]) -> list[str | None]:
    """The part of each item as annotated; the end of a single sequence without parts is for testing."""
    parts = [item.annotation.part for item in items]
    sequences = {item.sequence for item in items}
    if any(parts) or len(items) == 1 or len(sequences) > 1 or None in sequences:
        return parts
    trained = min(max(1, round(TRAIN_SHARE * len(items))), len(items) - 1)
    return ["train"] * trained + ["test"] * (len(items) - trained)


def _shards(items: list[Item]) -> Iterator[list[Item]]:
    """Consecutive items of a sequence: all frames of a video, or at most `SHARD_IMAGES` files."""

    def place(item: Item) -> tuple:
        return item.sequence, item.source.path if item.source.number is not None else None

    for (_, video), group in groupby(items, place):
        run = list(group)
        step = len(run) if video else SHARD_IMAGES
        yield from (run[start : start + step] for start in range(0, len(run), step))


def _convert(items: list[Item], output: Path, masks: str, progress: tqdm) -> dict[str, Any]:
    """Write the images and masks of a shard; returns a row for each image and the counts of odd boxes."""
    rows, counts = [], Counter()
    for item, pixels in zip(items, _read(items), strict=True):
        image = output / "images" / item.file_name
        image.parent.mkdir(parents=True, exist_ok=True)
        if item.source.number is None:
            _link(item.source.path, image)
        else:
            image.write_bytes(encode_png(pixels))
        boxes, mask = [], np.zeros(pixels.shape, np.uint8)
        if masks == "contrast":
            pixels = repair(pixels)
        for box in _in_pixels(item.annotation, pixels.shape):
            inside, odd = clip_box(box, *pixels.shape)
            if inside is not None:
                region = box_pixels(masks, pixels, inside)
                odd = odd if len(region[0]) else "without contrast"
                mask[region] = 255
                boxes.append({
                    "bbox": [round(value, 3) for value in inside[:4]],
                    "area": round(inside.width * inside.height, 3),
                    "iscrowd": int(inside.crowd),
                    "segmentation": encode_rle(*region, pixels.shape),
                })  # fmt: skip
            counts[odd] += odd is not None
        counts["other size"] += item.annotation.size not in (None, pixels.shape[::-1])
        path = (output / "masks" / item.file_name).with_name(f"{item.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(mask))
        rows.append([*pixels.shape, boxes])
        progress.update()
    return {"rows": rows, "counts": {kind: count for kind, count in counts.items() if count}}


def _read(items: list[Item]) -> Iterator[np.ndarray]:
    """Yield the pixels [H, W] of consecutive items: files, or frames of a video in order."""
    if items[0].source.number is None:
        yield from (read_pixels(item.source.path) for item in items)
        return
    video = items[0].source.path
    frames = read_frames(video, lambda number, reason: None)
    for item in items:
        wanted = item.source.number
        number, pixels = next((frame for frame in frames if frame[0] >= wanted), (None, None))
        if number != wanted:
            text = f"frame {wanted} of video {video} cannot be read"
            raise InputError(f"{text}; convert the video to mp4, or leave out its annotations from there on")
        yield pixels


def _in_pixels(annotation: AnnotatedImage, shape: tuple[int, int]) -> list[Box]:
    if not annotation.shares:
        return annotation.boxes
    height, width = shape
    return [Box(x * width, y * height, w * width, h * height, crowd) for x, y, w, h, crowd in annotation.boxes]


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the disk does not allow that."""
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _coco_images(items: list[Item], rows: list[list]) -> Iterator[tuple[dict, list[dict]]]:
    """Yield the images of boxes.json with their boxes; ids come from COCO annotations unless two images share an id."""
    ids = [item.annotation.id for item in items]
    if None in ids or len(set(ids)) < len(ids):
        ids = list(range(1, len(items) + 1))
    for item, number, (height, width, boxes) in zip(items, ids, rows, strict=True):
        yield {"id": number, "file_name": f"images/{item.file_name}", "height": height, "width": width}, boxes


def _summary(annotations: Annotations, plan: Plan, rows: list[list], counts: Counter) -> list[str]:
    boxes = [len(row[2]) for row in rows]
    sequences = {item.sequence for item in plan.items} - {None}
    kind = f" of {counted(len(sequences), 'sequence')}" if sequences else ""
    lines = [
        f"{counted(len(rows), 'image')}{kind}, {counted(sum(boxes), 'box')}, {counted(boxes.count(0), 'empty image')}",
        "boxes " + ", ".join(f"{kind}: {counts[kind]}" for kind in COUNTS),
        f"images missing: {len(plan.missing)}{_first(plan.missing)}",
        f"annotations without an image: {annotations.without_image}",
    ]
    if plan.unannotated:
        lines.append(f"images without annotation, left out: {len(plan.unannotated)}{_first(plan.unannotated)}")
    if plan.assumed_empty:
        lines.append(f"images that no annotation names, taken as empty: {plan.assumed_empty} of {len(rows)}")
    if counts["other size"]:
        lines.append(f"WARNING: images of another size than annotated, whose boxes do not fit: {counts['other size']}")
    parts = Counter(item_parts(plan.items))
    listed = ", ".join(f"{part} {counted(count, 'image')}" for part, count in parts.items() if part)
    annotated = any(item.annotation.part for item in plan.items)
    source = "" if annotated or not listed else " (the end of the only sequence is the test part)"
    return [*lines, f"parts: {listed}{source}" if listed else "parts: the annotations name none"]


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def _fingerprint(annotations: Annotations, plan: Plan, masks: str) -> dict[str, Any]:
    """Everything that determines the dataset: annotated boxes, sources, and options."""
    content = hashlib.sha256()
    for item in plan.items:
        status = item.source.path.stat()
        facts = (item.sequence, item.name, str(item.source.path.resolve()), item.source.number, status.st_size)
        content.update(repr((*facts, status.st_mtime_ns, item.annotation)).encode())
    return {"format": annotations.format.name, "masks": masks, "content": content.hexdigest()}


def _read_json(path: Path) -> Any:
    """The content of a file that an earlier run wrote, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    run_main(main)
