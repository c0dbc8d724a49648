"""Readers of box annotations, a function for each format. All boxes are in px; the first pixel spans 0 to 1."""

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from istd.utils.errors import InputError
from istd.utils.images import IMAGE_SUFFIXES

CSV_COLUMNS = ("sequence", "frame", "x0", "y0", "width", "height")
CSV_DELIMITERS = (",", ";", "\t")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
YOLO_LINE = re.compile(rf"\d+(?:\s+{NUMBER}){{4}}")
LIKE_YOLO = re.compile(rf"\d+(?:\s+{NUMBER}){{2,}}(?!\S)")  # also a polygon, a confidence, or a line that is cut off
YOLOX_BOX = re.compile(rf"{NUMBER}(?:,{NUMBER}){{3}}(?:,\d+)?")
PARTS = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "frames", "data", "jpegimages", "obj_train_data"}  # say nothing


class AnnotationFile(NamedTuple):
    """A file, its path from the folder of annotations, and its content: text, parsed json, or the root of an xml."""

    path: Path
    name: PurePosixPath
    content: Any


class Box(NamedTuple):
    """A box; `crowd` as in COCO: a group of objects, which its evaluation ignores."""

    x: float
    y: float
    width: float
    height: float
    crowd: bool = False


class AnnotatedImage(NamedTuple):
    """An image as annotations name it.

    `name`: the end of its path, with or without suffix. With `number`, the image is that frame, counted from 0, of the
    sequence `name`. `shares`: the boxes are shares of the image's size. `size` (width, height) as annotated; `part`:
    train, val or test; `id`: in a COCO file.
    """

    name: str
    boxes: list[Box]
    part: str | None = None
    number: int | None = None
    shares: bool = False
    size: tuple[int, int] | None = None
    id: int | None = None


def part_in(text: str) -> str | None:
    """The part that a word of `text` names: "train" for "instances_train2017"."""
    words = re.findall("[a-z]+", text.lower())
    return next((PARTS[word] for word in words if word in PARTS), None)


def part_of_folders(name: PurePosixPath) -> str | None:
    """The part that a folder of the path names."""
    return next((PARTS[folder.lower()] for folder in name.parts[:-1] if folder.lower() in PARTS), None)


def read_coco(file: AnnotationFile) -> list[AnnotatedImage]:
    """The images of a COCO file."""
    boxes: dict[Any, list[Box]] = defaultdict(list)
    try:
        for annotation in file.content["annotations"]:
            if annotation.get("bbox"):
                boxes[annotation["image_id"]].append(_box(annotation["bbox"], bool(annotation.get("iscrowd"))))
        images = []
        for entry in file.content["images"]:
            name, size = _posix(entry["file_name"]), (entry.get("width"), entry.get("height"))
            part = part_in(file.name.stem) or part_of_folders(PurePosixPath(name))
            size = None if None in size else (int(size[0]), int(size[1]))
            images.append(AnnotatedImage(name, boxes.pop(entry["id"], []), part, size=size, id=entry["id"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file.path} is no COCO file: {error!r}; export it again") from error
    return images


def count_boxes_without_image(file: AnnotationFile) -> int:
    """The number of boxes in a COCO file whose image it does not list."""
    listed = {entry["id"] for entry in file.content["images"]}
    return sum(bool(a.get("bbox")) and a["image_id"] not in listed for a in file.content["annotations"])


def yolox_line(line: str) -> tuple[str, list[Box]] | None:
    """The path and the boxes of a line PATH x0,y0,x1,y1,class ..., or None for any other line."""
    words = line.split()
    count = next((n for n, word in enumerate(reversed(words)) if not YOLOX_BOX.fullmatch(word)), len(words))
    path, boxes = " ".join(words[: len(words) - count]), words[len(words) - count :]
    if not path.lower().endswith(IMAGE_SUFFIXES):
        return None
    corners = ([float(number) for number in box.split(",")[:4]] for box in boxes)
    return _posix(path), [Box(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]


def has_yolox_boxes(file: AnnotationFile) -> bool:
    """Whether any line has a box; a list of images has none."""
    return any(yolox_line(line)[1] for line in file.content.splitlines() if line.strip())


def read_yolox(file: AnnotationFile) -> list[AnnotatedImage]:
    """The images of a YOLOX text."""
    images = []
    for path, boxes in (yolox_line(line) for line in file.content.splitlines() if line.strip()):
        part = part_in(file.name.stem) or part_of_folders(PurePosixPath(path))
        images.append(AnnotatedImage(path, boxes, part))
    return images


def read_yolo(file: AnnotationFile) -> list[AnnotatedImage]:
    """The image with the name of a YOLO label file."""
    boxes = []
    for line in file.content.split("\n"):
        if line.strip():
            x, y, width, height = map(float, line.split()[1:])
            boxes.append(Box(x - width / 2, y - height / 2, width, height))
    name = "/".join(part for part in file.name.with_suffix("").parts if part.lower() != "labels")
    return [AnnotatedImage(name, boxes, part_of_folders(file.name), shares=True)]


def read_voc(file: AnnotationFile) -> list[AnnotatedImage]:
    """The image with the name of a Pascal VOC file; coordinates count from 1, the last pixel is included."""
    boxes = []
    for bounds in file.content.iterfind("object/bndbox"):
        x0, y0, x1, y1 = (_voc_number(bounds, side, file.path) for side in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append(Box(x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1))
    name = "/".join(part for part in file.name.with_suffix("").parts if part.lower() != "annotations")
    return [AnnotatedImage(name, boxes, part_of_folders(file.name))]


def read_anti_uav(file: AnnotationFile) -> list[AnnotatedImage]:
    """The frames of the sequence whose folder the file lies in: entry n is frame n, whatever the frame is called."""
    rectangles = file.content["gt_rect"]
    exist = file.content.get("exist", [1] * len(rectangles))
    sequence, part = file.name.parent.as_posix(), part_of_folders(file.name)
    if sequence == ".":
        sequence = file.path.resolve().parent.name
    if len(exist) != len(rectangles):
        counts = f"{len(exist)} entries in exist, {len(rectangles)} in gt_rect"
        raise InputError(f"{file.path} has {counts}; expected one of both for each frame")
    try:
        boxes = [[_box(r)] if e and r else [] for e, r in zip(exist, rectangles, strict=True)]
    except (TypeError, ValueError) as error:
        raise InputError(f"{file.path}: {error}; expected boxes [x, y, width, height]") from error
    return [AnnotatedImage(sequence, of_frame, part, number) for number, of_frame in enumerate(boxes)]


def csv_header(text: str) -> tuple[list[str], str] | None:
    """The columns of a csv with at least the `CSV_COLUMNS`, and its delimiter; None for other text."""
    for delimiter in CSV_DELIMITERS:
        columns = [cell.strip() for cell in next(csv.reader(text.splitlines()[:1], delimiter=delimiter), ())]
        if set(CSV_COLUMNS) <= set(columns):
            return columns, delimiter
    return None


def read_csv(file: AnnotationFile) -> list[AnnotatedImage]:
    """The frames of a csv with the `CSV_COLUMNS`, in any order; a frame is a number or the name of a file.

    Where semicolons separate the cells, as in spreadsheets of many languages, numbers may have a decimal comma.
    """
    boxes: dict[str, list[Box]] = defaultdict(list)
    columns, delimiter = csv_header(file.content)
    reader = csv.DictReader(file.content.splitlines()[1:], columns, delimiter=delimiter)
    try:
        for row in reader:
            if any(row.get(None, ())):
                raise ValueError("more cells than columns")
            numbers = [float(str(row[column]).replace(",", ".")) for column in CSV_COLUMNS[2:]]
            name = "/".join(filter(None, (row["sequence"].strip(), row["frame"].strip())))
            boxes[_posix(name)].append(Box(*numbers))
    except (TypeError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(f"line {reader.line_num + 1} of {file.path}: {error}; correct it") from error
    part = part_in(file.name.stem)
    return [AnnotatedImage(name, of_frame, part) for name, of_frame in boxes.items()]


def _posix(path: str) -> str:
    return path.strip().replace("\\", "/")


def _box(numbers: Iterable[Any], crowd: bool = False) -> Box:
    x, y, width, height = map(float, numbers)
    return Box(x, y, width, height, crowd)


def _voc_number(bounds: ElementTree.Element, side: str, path: Path) -> float:
    text = bounds.findtext(side)
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has a bndbox with {side} {text!r}; expected a number; correct it") from error
