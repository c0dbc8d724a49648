"""AP50, precision, recall and F1 of boxes, as COCO's evaluator computes them and papers on boxes report them.

The rules, and the results to the last digit, are those of pycocotools' `COCOeval` for boxes of all sizes, IoU 0.5, and
at most 100 detections an image. Precision and F1 follow SSTNet and Tridos: precision is the mean of COCO's interpolated
precision over the first int(100 R) of its 101 recall levels, where R is the recall of all detections, and F1 is the
harmonic mean of precision and R.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from istd.utils.errors import InputError
from istd.utils.files import read_text
from istd.utils.metrics.bootstrap import MIN_UNITS, draw_units, percentile_intervals, unit_name
from istd.utils.metrics.tables import with_interval
from istd.utils.names import counted

MIN_IOU = 0.5
MAX_DETECTIONS = 100  # of an image and category; the highest scores count
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
TRUTH_KEYS = {"images": ("id",), "categories": ("id",), "annotations": ("id", "image_id", "category_id", "bbox")}
BOX_HEADINGS = {"ap50": "AP50", "precision": "precision", "recall": "recall", "f1": "F1"}
DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")


class BoxMetrics(NamedTuple):
    """Ratios; None where they are undefined: without annotated boxes, or below a recall of 0.01 for precision and F1.

    Several categories: means over the categories with boxes. `boxes` counts the annotated boxes without crowds.
    `intervals`: `percentile_intervals` of the four ratios, None where they were not asked for.
    """

    ap50: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    images: int
    boxes: int
    detections: int
    intervals: dict | None = None


class Matches(NamedTuple):
    """The n detections of a category (or of all categories), the highest score first, and the annotated boxes.

    right, counted: bool [n], whether a detection is right, and whether it counts. image: int64 [n], the number of its
    image. boxes: int64 [images], annotated boxes without crowds.
    """

    right: np.ndarray
    counted: np.ndarray
    image: np.ndarray
    boxes: np.ndarray


def measure_boxes(
    truth: Mapping,
    detections: Iterable[Mapping],
    by_category: bool = True,
    sequences: Mapping[Any, str | None] | None = None,
) -> BoxMetrics:
    """Measure detections {"image_id", "category_id", "bbox", "score"} by a ground truth in COCO's format.

    Boxes are [x, y, width, height] in px. Without `by_category` all categories count as one; with it, detections of
    categories that the ground truth lacks are left out. sequences: the sequence of each image id, None for a single
    image; they add intervals. Raises `InputError` where entries lack values, a detection names an image that the ground
    truth lacks, all detections name other categories, or two annotations have the same id.
    """
    detections = list(detections)
    _check(truth, detections, by_category)
    images = sorted({image["id"] for image in truth["images"]})
    categories = sorted({category["id"] for category in truth["categories"]})
    groups = [[category] for category in categories] if by_category else [categories]
    annotated, detected = _by_image_and_category(truth["annotations"]), _by_image_and_category(detections)
    matches = [_match_images(images, group, annotated, detected) for group in groups]
    weights = np.ones(len(images), np.int64)
    boxes = sum(int(group.boxes.sum()) for group in matches)
    intervals = None if sequences is None else _intervals(matches, [sequences[image] for image in images])
    return BoxMetrics(*_ratios(matches, weights), len(images), boxes, len(detections), intervals)


def read_box_files(truth: Path, detections: Path) -> tuple[dict, list[dict]]:
    """Read a ground truth in COCO's format, and detections: a list, or an object with the list as "annotations"."""
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
    """The values of `BOX_HEADINGS` in percent with their intervals, '-' where a metric is undefined."""
    intervals = metrics["intervals"]["metrics"] if metrics["intervals"] else {}
    return [with_interval(metrics[name], intervals.get(name)) for name in BOX_HEADINGS]


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
        types = sorted({type(entry[key]).__name__ for entry in truth[what]})
        if len(types) > 1:
            raise InputError(f"the ids of the {what} are of {' and '.join(types)}; expected one type, such as int")
    repeated = [number for number, count in Counter(entry["id"] for entry in truth["annotations"]).items() if count > 1]
    if repeated:
        raise InputError(f"annotations share {counted(len(repeated), 'id')}, the first {repeated[0]}; number them anew")
    known = {image["id"] for image in truth["images"]}
    unknown = [detection["image_id"] for detection in detections if detection["image_id"] not in known]
    if unknown:
        text = f"the ground truth lacks the images of {counted(len(unknown), 'detection')}, the first {unknown[0]!r}"
        raise InputError(f"{text}; give the ground truth of these images")
    detected = {detection["category_id"] for detection in detections}
    categories = {category["id"] for category in truth["categories"]}
    if by_category and detected and not detected & categories:
        text = f"the detections are of category {sorted(detected)}, the ground truth of {sorted(categories)}"
        raise InputError(f"{text}; correct category_id, or count all as one with --any_category")


def _are_numbers(values: Sequence, count: int) -> bool:
    """Whether `values` are `count` finite numbers."""
    return len(values) == count and all(isinstance(value, Real) and math.isfinite(value) for value in values)


def _by_image_and_category(entries: Iterable[Mapping]) -> dict[tuple, list[Mapping]]:
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    return groups


def _match_images(images: list, categories: list, annotated: Mapping, detected: Mapping) -> Matches:
    scores, right, counted, numbers, boxes = [], [], [], [], []
    for number, image in enumerate(images):
        truths = [entry for category in categories for entry in annotated.get((image, category), ())]
        chosen = [entry for category in categories for entry in detected.get((image, category), ())]
        truths.sort(key=lambda entry: bool(entry.get("iscrowd")))  # crowds last
        chosen = sorted(chosen, key=lambda entry: -entry["score"])[:MAX_DETECTIONS]
        boxes.append(sum(not entry.get("iscrowd") for entry in truths))
        matched = match(truths, chosen)
        scores += [entry["score"] for entry in chosen]
        # in COCOeval, whose matches are ids, an annotation with the id 0 is never matched
        right += [truth is not None and truth["id"] != 0 for truth in matched]
        counted += [truth is None or not truth.get("iscrowd") for truth in matched]
        numbers += [number] * len(chosen)
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    columns = (np.array(right, bool), np.array(counted, bool), np.array(numbers, np.int64))
    return Matches(*(column[order] for column in columns), np.array(boxes, np.int64))


def match(truths: list[Mapping], detections: list[Mapping]) -> list[Mapping | None]:
    """The annotated box that each detection of an image is matched with, the highest score first.

    A detection takes the free box with the largest IoU of at least 0.5 (the last box among equals), else a crowd.
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
    detected = np.array([entry["bbox"] for entry in detections], np.float64).reshape(-1, 1, 4)
    true = np.array([entry["bbox"] for entry in truths], np.float64).reshape(1, -1, 4)
    crowd = np.array([bool(entry.get("iscrowd")) for entry in truths], bool)
    ends = np.minimum(detected[..., :2] + detected[..., 2:], true[..., :2] + true[..., 2:])
    sides = ends - np.maximum(detected[..., :2], true[..., :2])
    shared = np.where((sides > 0).all(axis=2), sides[..., 0] * sides[..., 1], 0.0)
    areas = detected[..., 2] * detected[..., 3]
    union = np.where(crowd, areas, areas + true[..., 2] * true[..., 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _intervals(matches: list[Matches], sequences: list[str | None]) -> dict:
    """`percentile_intervals` of the four ratios; sequences: name for each image, None for a single image."""
    names = [f"image {number}" if name is None else f"sequence {name}" for number, name in enumerate(sequences)]
    units, unit_of_image = np.unique(names, return_inverse=True)
    resampled = draw_units(len(units)) if len(units) >= MIN_UNITS else ()
    values = [_ratios(matches, drawn[unit_of_image]) for chunk in resampled for drawn in chunk]
    columns = np.array(values, np.float64).T  # None becomes NaN
    unit = unit_name(any(name is not None for name in sequences), None in sequences)
    return percentile_intervals(unit, len(units), dict(zip(BOX_HEADINGS, columns, strict=False)))


def _ratios(matches: list[Matches], weights: np.ndarray) -> tuple[float | None, ...]:
    """AP50, precision, recall and F1 of the images, each taken `weights` times, int64 [images]."""
    curves = [_curve(group, weights, boxes) for group in matches if (boxes := int(weights @ group.boxes))]
    if not curves:
        return None, None, None, None
    ap50 = float(np.mean(np.stack([precision for precision, _ in curves], axis=1)))
    pairs = [(_precision_up_to(*curve), curve[1]) for curve in curves]
    defined = [(precision, recall) for precision, recall in pairs if precision is not None]
    precision = float(np.mean([precision for precision, _ in defined])) if defined else None
    f1 = float(np.mean([2 * r * p / (r + p) for p, r in defined])) if defined else None
    return ap50, precision, float(np.mean([recall for _, recall in curves])), f1


def _curve(matches: Matches, weights: np.ndarray, boxes: int) -> tuple[np.ndarray, float]:
    """Interpolated precision at the `RECALL_LEVELS`, float64 [101], and the recall of all detections."""
    times = weights[matches.image]
    hits = np.cumsum(times * (matches.right & matches.counted)).astype(float)
    false = np.cumsum(times * (~matches.right & matches.counted)).astype(float)
    recall, precision = hits / boxes, hits / (false + hits + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALL_LEVELS, side="left")
    reached = places < len(recall)
    interpolated = np.zeros(len(RECALL_LEVELS))
    interpolated[reached] = precision[places[reached]]
    return interpolated, float(recall[-1]) if len(recall) else 0.0


def _precision_up_to(interpolated: np.ndarray, recall: float) -> float | None:
    """The mean over the first int(100 R) levels; None for R below 0.01."""
    levels = int(recall * 100)
    return float(np.mean(interpolated[:levels])) if levels else None
