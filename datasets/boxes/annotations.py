"""Read box annotations, whose format is recognised by their content, into images with boxes."""

import json
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from istd.datasets.boxes import readers
from istd.datasets.boxes.readers import AnnotatedImage, AnnotationFile
from istd.utils.errors import InputError
from istd.utils.files import read_text
from istd.utils.images import IMAGE_SUFFIXES, file_key, numeric_key
from istd.utils.names import counted

SUFFIXES = (".json", ".txt", ".xml", ".csv")
NAMES_OF_CLASSES = ("classes.txt", "predefined_classes.txt")  # files beside YOLO labels
EXPECTED = """expected one of the formats
  COCO json       {"images": [...], "annotations": [{"image_id", "bbox": [x, y, width, height]}]}
  YOLOX text      lines PATH x0,y0,x1,y1,class x0,y0,x1,y1,class
  YOLO            a NAME.txt for each image, lines class cx cy width height as shares of the image's size
  Pascal VOC      a NAME.xml for each image with object/bndbox
  Anti-UAV        SEQUENCE/IR_label.json with "exist" and "gt_rect"
  csv             columns sequence, frame, x0, y0, width, height"""


class Format(NamedTuple):
    """An annotation format: its name, its reader, and the meaning of images that no file names."""

    name: str
    read: Callable[[AnnotationFile], list[AnnotatedImage]]
    unnamed_is_empty: bool  # an image without annotation has no target, instead of being left out


COCO = Format("COCO json", readers.read_coco, False)
YOLOX = Format("YOLOX text", readers.read_yolox, False)
YOLO = Format("YOLO", readers.read_yolo, True)
VOC = Format("Pascal VOC", readers.read_voc, False)
ANTI_UAV = Format("Anti-UAV", readers.read_anti_uav, False)
CSV = Format("csv", readers.read_csv, True)


class Annotations(NamedTuple):
    """All annotated images, and the files they come from.

    `without_image`: number of annotations whose image no file lists. `listed`: end of an image's path -> part -> list,
    by lists beside the labels (train.txt, ImageSets/Main/test.txt). `ignored`: files that are no annotations or lists.
    """

    format: Format
    images: list[AnnotatedImage]
    files: list[Path]
    without_image: int
    listed: dict[tuple[str, ...], dict[str, Path]]
    ignored: list[Path]

    def part_of(self, path: Path, root: Path) -> str | None:
        """The part of an image file: from a list that contains it, else from its folders inside `root`."""
        name = PurePosixPath(path.relative_to(root).as_posix())
        return _listed_part(self.listed, (root.resolve() / name).as_posix()) or readers.part_of_folders(name)


def read_annotations(path: Path) -> Annotations:
    """Read a file, or all files of a folder and the folders in it, of one format.

    Raises `InputError` where nothing is recognised, more than one format, or YOLO labels that hold more than boxes.
    """
    if not path.exists():
        raise InputError(f"--annotations {path} does not exist; give a file or a folder of annotations")
    root = path if path.is_dir() else path.parent
    paths = [path] if path.is_file() else [file for file in visible_files(path) if file.suffix.lower() in SUFFIXES]
    recognised: dict[Format, list[AnnotationFile]] = {}
    others: list[AnnotationFile] = []
    for file in (_load(entry, root) for entry in paths):
        form = recognise(file)
        others.append(file) if form is None else recognised.setdefault(form, []).append(file)
    if {YOLO, YOLOX} <= recognised.keys() and not any(map(readers.has_yolox_boxes, recognised[YOLOX])):
        others += recognised.pop(YOLOX)  # lists of the images of each part
    if len(recognised) > 1:
        counts = ", ".join(f"{len(files)} of {form.name}" for form, files in recognised.items())
        raise InputError(f"--annotations {path} has files of several formats: {counts}; give the files of one")
    if recognised.keys() <= {YOLO}:
        _refuse_other_labels(others)
    if not recognised:
        raise InputError(f"no annotations recognised in {path} ({counted(len(paths), 'file')} read); {EXPECTED}")
    ((form, files),) = recognised.items()
    if form is ANTI_UAV:
        files = _choose_infrared(files)
    images = _merge(image for file in files for image in form.read(file))
    lists = [file for file in others if file.path.suffix.lower() == ".txt" and readers.part_in(file.name.stem)]
    listed = _read_lists(lists, [image.name for image in images])
    images = [image._replace(part=_listed_part(listed, image.name) or image.part) for image in images]
    without_image = sum(map(readers.count_boxes_without_image, files)) if form is COCO else 0
    ignored = [file.path for file in others if file not in lists and file.name.name.lower() not in NAMES_OF_CLASSES]
    return Annotations(form, images, [file.path for file in files], without_image, listed, ignored)


def recognise(file: AnnotationFile) -> Format | None:
    """The format of a file by its content, None for other files."""
    suffix = file.path.suffix.lower()
    if suffix == ".json":
        content = file.content if isinstance(file.content, dict) else {}
        return COCO if {"images", "annotations"} <= content.keys() else ANTI_UAV if "gt_rect" in content else None
    if suffix == ".xml":
        return VOC if file.content.tag == "annotation" else None
    if suffix == ".csv":
        return CSV if readers.csv_header(file.content) else None
    lines = [line for line in file.content.splitlines() if line.strip()]
    if all(readers.YOLO_LINE.fullmatch(line.strip()) for line in lines):
        return YOLO
    return YOLOX if all(readers.yolox_line(line) for line in lines) else None


def telling_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The components of a path without folders such as "images"; the last component stays."""
    return (*(part for part in parts[:-1] if part.lower() not in readers.IMAGE_FOLDERS), *parts[-1:])


def path_ends(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """All ends of a path, the longest first, with and without folders such as "images".

    Spaces are removed, and a frame's number has no leading zeros.
    """
    keys = [file_key(part) for part in parts]
    if parts and parts[-1].isdecimal():
        keys[-1] = str(int(parts[-1]))
    ends = [tuple(keys[start:]) for start in range(len(keys))]
    return list(dict.fromkeys(form for end in ends for form in (end, telling_parts(end))))


def visible_files(folder: Path) -> list[Path]:
    """All files of a folder and the folders in it, ordered by the numbers in their paths; hidden ones excluded."""
    names = {path: path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    visible = [path for path, name in names.items() if not any(part.startswith(".") for part in name.parts)]
    return sorted(visible, key=lambda path: numeric_key(names[path].as_posix()))


def _load(path: Path, root: Path) -> AnnotationFile:
    parse = {".json": json.loads, ".xml": ElementTree.fromstring}.get(path.suffix.lower(), str)
    try:
        content = parse(read_text(path))
    except (ValueError, RecursionError, ElementTree.ParseError) as error:
        raise InputError(f"cannot read {path}: {error}; export the annotations again") from error
    return AnnotationFile(path, PurePosixPath(path.relative_to(root).as_posix()), content)


def _refuse_other_labels(files: list[AnnotationFile]) -> None:
    """Raise `InputError` for a text with lines like YOLO's, whose image would count as empty."""
    for file in files:
        lines = [line.strip() for line in file.content.splitlines()] if file.path.suffix.lower() == ".txt" else []
        if any(map(readers.LIKE_YOLO.match, lines)):
            number = next(n for n, line in enumerate(lines, 1) if line and not readers.YOLO_LINE.fullmatch(line))
            text = f"line {number} of {file.path} is no box; expected five numbers, class cx cy width height"
            raise InputError(f"{text}; export boxes without polygons or confidences, or correct the line")


def _choose_infrared(files: list[AnnotationFile]) -> list[AnnotationFile]:
    """Drop the labels of a visible video where the sequence also has labels of the infrared video."""
    by_folder: dict[PurePosixPath, list[AnnotationFile]] = {}
    for file in files:
        by_folder.setdefault(file.name.parent, []).append(file)
    chosen = []
    for folder, labels in by_folder.items():
        infrared = [file for file in labels if file.name.stem.lower().startswith(("ir", "infrared"))]
        if len(labels) > 1 and len(infrared) != 1:
            names = ", ".join(file.name.name for file in labels)
            raise InputError(f"{folder} has several label files: {names}; keep only the file of the infrared frames")
        chosen += infrared if len(labels) > 1 else labels
    return chosen


def _merge(images: Iterable[AnnotatedImage]) -> list[AnnotatedImage]:
    """Merge the entries of the same image: boxes of later files and lines are added to its first entry."""
    merged: dict[tuple, AnnotatedImage] = {}
    for image in images:
        key = (image.name, image.number)
        merged[key] = merged[key]._replace(boxes=merged[key].boxes + image.boxes) if key in merged else image
    return list(merged.values())


def _read_lists(lists: list[AnnotationFile], images: list[str]) -> dict[tuple[str, ...], dict[str, Path]]:
    """The lists of each part by the ends of their paths, end -> part -> list.

    A file's name without a folder counts where a list has it so, or where no list names a folder of the images.
    """
    by_path: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    by_name: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    for file in sorted(lists, key=lambda file: _joins_parts(file.path)):
        part = readers.part_in(file.name.stem)
        for line in file.content.splitlines():
            ends = _list_ends(line)
            if not ends or (_joins_parts(file.path) and ends[0] in by_path):
                continue
            by_name[ends[-1]].setdefault(part, file.path)
            for end in ends[:-1] or ends:
                by_path[end].setdefault(part, file.path)
    folders_agree = any(len(end) > 1 and end in by_path for image in images for end in _list_ends(image))
    return by_path if folders_agree else by_name


def _joins_parts(path: Path) -> bool:
    """Whether a list has the images of another list, too: trainval.txt those of val.txt."""
    return "trainval" in path.stem.lower()


def _listed_part(listed: dict[tuple[str, ...], dict[str, Path]], image: str) -> str | None:
    """The part of the lists that have an image; `InputError` where they are of several parts."""
    parts = next((listed[end] for end in _list_ends(image) if end in listed), {})
    if len(parts) > 1:
        first, second, *_ = parts.values()
        raise InputError(f"{image} may be in {first} and in {second}; list it in one of them, with its folder")
    return next(iter(parts), None)


def _list_ends(name: str) -> list[tuple[str, ...]]:
    """The `path_ends` by which an image and a line of a list match."""
    *folders, name = telling_parts(PurePosixPath(name.strip().replace("\\", "/")).parts) or ("",)
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix) if suffix.lower() in (*IMAGE_SUFFIXES, *SUFFIXES) else name
    return path_ends((*folders, stem)) if stem else []
