"""AP50, precision, recall and F1 of boxes, as COCO's evaluator computes them and papers on boxes report them.

The rules are those of pycocotools' `COCOeval` for boxes of all sizes, IoU 0.5, and at most 100 detections an image; the
results equal its results to the last digit. Precision and F1 are those of SSTNet, Tridos, and the work that followed:
the mean of COCO's interpolated precision over the first int(100 R) of its 101 recall levels, where R is the recall of
all detections, and the harmonic mean of this and R.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.files import read_text

MIN_IOU = 0.5
MAX_DETECTIONS = 100  # of an image and category, those with the highest scores
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
TRUTH_KEYS = {"images": ("id",), "categories": ("id",), "annotations": ("id", "image_id", "category_id", "bbox")}
BOX_HEADINGS = {"ap50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}
DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


class BoxMetrics(NamedTuple):
    """Ratios; None where they are undefined: without annotated boxes, or below a recall of 0.01 for precision and F1.

    Of several categories, the means over those with boxes. `boxes` counts the annotated boxes without crowds.
    """

    ap50: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    images: int
    boxes: int
    detections: int


def measure_boxes(truth: Mapping, detections: Iterable[Mapping], by_category: bool = True) -> BoxMetrics:
    """Measure detections {"image_id", "category_id", "bbox", "score"} by a ground truth in COCO's format.

    Boxes are [x, y, width, height] in px. Without `by_category` all categories count as one, else detections of other
    categories than the ground truth's are left out. Raises `InputError` where entries lack values, a detection names
    an image that the ground truth lacks, all of them name other categories, or two annotations have one id.
    """
    detections = list(detections)
    _check(truth, detections, by_category)
    images = sorted({image["id"] for image in truth["images"]})
    categories = sorted({category["id"] for category in truth["categories"]})
    groups = [[category] for category in categories] if by_category else [categories]
    annotated, detected = _by_image_and_category(truth["annotations"]), _by_image_and_category(detections)
    precisions, recalls, count = [], [], 0
    for group in groups:
        matches, boxes = _match_images(images, group, annotated, detected)
        count += boxes
        if boxes:
            precision, recall = _curve(matches, boxes)
            precisions.append(precision)
            recalls.append(recall)
    if not precisions:
        return BoxMetrics(None, None, None, None, len(images), count, len(detections))
    ap50 = float(np.mean(np.stack(precisions, axis=1)))
    pairs = [(_precision_up_to(*pair), pair[1]) for pair in zip(precisions, recalls, strict=True)]
    defined = [(precision, recall) for precision, recall in pairs if precision is not None]
    precision = float(np.mean([precision for precision, _ in defined])) if defined else None
    f1 = float(np.mean([2 * r * p / (r + p) for p, r in defined])) if defined else None
    return BoxMetrics(ap50, precision, float(np.mean(recalls)), f1, len(images), count, len(detections))


def read_box_files(truth: Path, detections: Path) -> tuple[dict, list[dict]]:
    """Ground truth in COCO's format, and detections: a list, or an object with the list as "annotations"."""
    boxes, detected = (_read(path) for path in (truth, detections))
    if isinstance(detected, dict):
        detected = detected.get("annotations")
    if not isinstance(boxes, dict) or not TRUTH_KEYS.keys() <= boxes.keys():
        raise InputError(f"{truth} is no ground truth in COCO's format; expected {', '.join(TRUTH_KEYS)}")
    if not isinstance(detected, list):
        raise InputError(f"{detections} has no list of detections; expected [{{{', '.join(DETECTION_KEYS)}}}, ...]")
    return boxes, detected


def box_line(metrics: Mapping) -> str:
    """The four metrics of `BoxMetrics._asdict()` in a line, in percent."""
    values = zip(BOX_HEADINGS.values(), box_cells(metrics), strict=True)
    return "boxes, IoU 0.5, in %: " + ", ".join(f"{name} {value}" for name, value in values)


def box_cells(metrics: Mapping) -> list[str]:
    """The values of `BOX_HEADINGS` in percent, '-' where a metric is undefined."""
    return ["-" if metrics[name] is None else f"{100 * metrics[name]:.2f}" for name in BOX_HEADINGS]


def _read(path: Path) -> dict | list:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no json: {error}; expected COCO's format") from error


def _check(truth: Mapping, detections: list[Mapping], by_category: bool) -> None:
    rows = {"detections": (detections, DETECTION_KEYS)} | {key: (truth[key], TRUTH_KEYS[key]) for key in TRUTH_KEYS}
    for what, (entries, keys) in rows.items():
        for number, entry in enumerate(entries):
            lacking = [key for key in keys if not isinstance(entry, Mapping) or entry.get(key) is None]
            if lacking:
                raise InputError(f"entry {number} of the {what} lacks {', '.join(lacking)}")
            if "bbox" in keys and not (
                isinstance(entry["bbox"], Sequence | np.ndarray) and _are_numbers(entry["bbox"], 4)
            ):
                raise InputError(f"entry {number} of the {what} lacks a box of 4 numbers: {entry['bbox']!r}")
            if "score" in keys and not _are_numbers([entry["score"]], 1):
                raise InputError(f"entry {number} of the {what} lacks a finite score: {entry['score']!r}")
    for what, key in (("images", "id"), ("categories", "id")):
        kinds = sorted({type(entry[key]).__name__ for entry in truth[what]})
        if len(kinds) > 1:
            raise InputError(f"the ids of the {what} are of {' and '.join(kinds)}; expected one type, such as int")
    repeated = [number for number, count in Counter(entry["id"] for entry in truth["annotations"]).items() if count > 1]
    if repeated:
        raise InputError(f"{len(repeated)} ids of annotations occur twice, the first {repeated[0]}; number them anew")
    known = {image["id"] for image in truth["images"]}
    unknown = [detection["image_id"] for detection in detections if detection["image_id"] not in known]
    if unknown:
        text = f"{len(unknown)} detections name images that the ground truth lacks, the first {unknown[0]!r}"
        raise InputError(f"{text}; give the ground truth of these images")
    theirs = {detection["category_id"] for detection in detections}
    ours = {category["id"] for category in truth["categories"]}
    if by_category and theirs and not theirs & ours:
        text = f"the detections are of category {sorted(theirs)}, the ground truth of {sorted(ours)}"
        raise InputError(f"{text}; correct category_id, or count all as one with --any_category")


def _are_numbers(values: Sequence, count: int) -> bool:
    """Whether `values` are so many finite numbers."""
    return len(values) == count and all(isinstance(value, Real) and math.isfinite(value) for value in values)


def _by_image_and_category(entries: Iterable[Mapping]) -> dict[tuple, list[Mapping]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    return groups


def _match_images(
    images: list, categories: list, annotated: Mapping, detected: Mapping
) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Whether the detections of all images are right and whether they count, bool [n], the highest score first.

    Also the number of annotated boxes without crowds.
    """
    scores, right, counted, boxes = [], [], [], 0
    for image in images:
        truths = [entry for category in categories for entry in annotated.get((image, category), ())]
        chosen = [entry for category in categories for entry in detected.get((image, category), ())]
        truths.sort(key=lambda entry: bool(entry.get("iscrowd")))  # crowds last
        chosen = sorted(chosen, key=lambda entry: -entry["score"])[:MAX_DETECTIONS]
        boxes += sum(not entry.get("iscrowd") for entry in truths)
        matched = match(truths, chosen)
        scores += [entry["score"] for entry in chosen]
        # An annotation with the id 0 counts as not found in COCOeval, whose matches are ids.
        right += [truth is not None and truth["id"] != 0 for truth in matched]
        counted += [truth is None or not truth.get("iscrowd") for truth in matched]
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    return (np.array(right, bool)[order], np.array(counted, bool)[order]), boxes


def match(truths: list[Mapping], detections: list[Mapping]) -> list[Mapping | None]:
    """The annotated box that each detection of an image is matched with, the highest score first.

    A detection takes the free box with the largest IoU of at least 0.5 (of equal ones the last), else a crowd.
    """
    overlap = box_iou(truths, detections)
    free = [True] * len(truths)
    matched: list[Mapping | None] = []
    for row in overlap:
        best, best_iou = None, min(MIN_IOU, 1 - 1e-10)
        for number, truth in enumerate(truths):
            crowd = bool(truth.get("iscrowd"))
            if best is not None and crowd and not truths[best].get("iscrowd"):
                break
            if (free[number] or crowd) and row[number] >= best_iou:
                best, best_iou = number, row[number]
        if best is not None:
            free[best] = False
        matched.append(None if best is None else truths[best])
    return matched


def box_iou(truths: list[Mapping], detections: list[Mapping]) -> np.ndarray:
    """Intersection over union of all pairs, float64 [detections, truths]; over the detection's area for a crowd."""
    theirs = np.array([entry["bbox"] for entry in detections], np.float64).reshape(-1, 1, 4)
    ours = np.array([entry["bbox"] for entry in truths], np.float64).reshape(1, -1, 4)
    crowd = np.array([bool(entry.get("iscrowd")) for entry in truths], bool)
    ends = np.minimum(theirs[..., :2] + theirs[..., 2:], ours[..., :2] + ours[..., 2:])
    sides = ends - np.maximum(theirs[..., :2], ours[..., :2])
    shared = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
    areas = theirs[..., 2] * theirs[..., 3]
    union = np.where(crowd, areas, areas + ours[..., 2] * ours[..., 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _curve(matches: tuple[np.ndarray, np.ndarray], boxes: int) -> tuple[np.ndarray, float]:
    """Interpolated precision at the `RECALL_LEVELS`, float64 [101], and the recall of all detections."""
    right, counted = matches
    hits, false = np.cumsum(right & counted).astype(float), np.cumsum(~right & counted).astype(float)
    recall, precision = hits / boxes, hits / (false + hits + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALL_LEVELS, side="left")
    reached = places < len(recall)
    interpolated = np.zeros(len(RECALL_LEVELS))
    interpolated[reached] = precision[places[reached]]
    return interpolated, float(recall[-1]) if len(recall) else 0.0


def _precision_up_to(interpolated: np.ndarray, recall: float) -> float | None:
    """The mean over the first int(100 R) levels; None if there is none."""
    levels = int(recall * 100)
    return float(np.mean(interpolated[:levels])) if levels else None
