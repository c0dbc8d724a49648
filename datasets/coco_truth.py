"""The targets of a dataset in COCO's format: from its boxes.json, else from the regions of its masks."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from istd.datasets.index import DatasetIndex
from istd.datasets.layouts import Frame, Sequence
from istd.utils.coco import ground_truth, region_annotations
from istd.utils.errors import InputError
from istd.utils.files import read_text
from istd.utils.names import counted

BOXES_FILE = "boxes.json"  # in a dataset's folder: its annotated boxes, as `datasets.from_boxes` writes them


def coco_names(index: DatasetIndex) -> dict[Path, tuple[int, str]]:
    """Image file of every frame of a dataset -> its id and file name in COCO files, the same for all its parts.

    The name is the path from the dataset's folder. The id comes from boxes.json, else it is the number of the frame.
    """
    frames = {frame.image: None for sequence in index.sequences for frame in sequence.frames}
    names = {image: Path(os.path.relpath(image, index.root)).as_posix() for image in frames}
    boxes = read_boxes(index.root)
    if boxes is None:
        return {image: (number, name) for number, (image, name) in enumerate(names.items(), start=1)}
    ids = {image["file_name"]: image["id"] for image in boxes["images"]}
    if unknown := [name for name in names.values() if name not in ids]:
        text = f"{counted(len(unknown), 'image')}, the first {unknown[0]}"
        raise InputError(f"{index.root / BOXES_FILE} lacks {text}; make the dataset anew, or remove {BOXES_FILE}")
    return {image: (ids[name], name) for image, name in names.items()}


def read_boxes(root: Path) -> dict | None:
    """The content of a dataset's boxes.json, or None if it has none."""
    path = Path(root) / BOXES_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(read_text(path))
        for kind, names in (("images", ("id", "file_name")), ("annotations", ("image_id", "bbox"))):
            [tuple(entry[name] for name in names) for entry in content[kind]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no ground truth in COCO's format ({error!r}); make the dataset anew") from error
    return content


def coco_truth(index: DatasetIndex, sequences: Iterable[Sequence] | None = None) -> dict:
    """Ground truth of the frames with a mask, of a dataset or of `sequences` of it, for pycocotools' `COCO`.

    Boxes come from boxes.json; if the dataset has none, from the 8-connected regions of its masks, with run lengths.
    """
    names, boxes = coco_names(index), read_boxes(index.root)
    sequences = index.sequences if sequences is None else sequences
    frames = {frame.image: frame for sequence in sequences for frame in sequence.frames if frame.has_mask}
    if boxes is None:
        return ground_truth((_mask_truth(frame, *names[image]) for image, frame in frames.items()), index.info.name)
    return choose_images(boxes, {names[image][0] for image in frames})


def choose_images(truth: dict, ids: set) -> dict:
    """The ground truth of the images with these ids."""
    images = [image for image in truth["images"] if image["id"] in ids]
    annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] in ids]
    return truth | {"images": images, "annotations": annotations}


def _mask_truth(frame: Frame, number: int, name: str) -> tuple[dict, list[dict]]:
    mask = frame.read_mask()
    height, width = mask.shape
    return {"id": number, "file_name": name, "height": height, "width": width}, region_annotations(mask)
