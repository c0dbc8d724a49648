"""Parts of COCO's json format for detection: masks as run lengths, annotations of regions, and whole files.

https://cocodataset.org/#format-data and #format-results. Boxes are [x, y, width, height] in px; the first pixel spans
0 to 1.
"""

from collections.abc import Iterable

import numpy as np

from istd.utils.metrics.regions import find_regions

CATEGORY = {"id": 1, "name": "target"}
FIRST_CHARACTER = 48  # "0": a run length is written as characters of 5 bits, lowest first, and a bit for "more follows"


def encode_rle(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> dict:
    """The pixels (rows, columns), int [n], of a mask of `shape` [H, W] as COCO's compressed run lengths.

    The same as `pycocotools.mask.encode` gives: {"size": [H, W], "counts": text}.
    """
    height, width = shape
    places = np.sort(columns.astype(np.int64) * height + rows)  # COCO counts down the columns
    starts, ends = places[np.diff(places, prepend=-2) != 1], places[np.diff(places, append=-2) != 1] + 1
    bounds = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:  # the mask reaches the last pixel
        counts = counts[:-1]
    return {"size": [height, width], "counts": _compress(counts.tolist())}


def region_annotations(mask: np.ndarray) -> list[dict]:
    """bbox, area in pixels, and segmentation of every 8-connected region of a mask, bool [H, W]."""
    regions = find_regions(np.ascontiguousarray(mask))
    annotations = []
    for rows, columns in regions.coordinates(mask.shape[1]):
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
        annotations.append({"bbox": box, "area": len(rows), "segmentation": encode_rle(rows, columns, mask.shape)})
    return annotations


def ground_truth(images: Iterable[tuple[dict, list[dict]]], description: str) -> dict:
    """A ground-truth file that pycocotools' `COCO` reads, of the only category "target".

    images: pairs of an entry {"id", "file_name", "height", "width"} and its annotations with at least "bbox" and
    "area", which are numbered from 1.
    """
    entries, annotations = [], []
    for image, truths in images:
        entries.append(image)
        for truth in truths:
            numbers = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": CATEGORY["id"]}
            annotations.append(numbers | {"iscrowd": 0} | truth)
    info = {"description": description}
    return {"info": info, "images": entries, "categories": [CATEGORY], "annotations": annotations}


def _compress(counts: list[int]) -> str:
    """Run lengths as text; from the fourth on, the difference to the last run of the same kind is written."""
    characters = []
    for number, count in enumerate(counts):
        rest = count - counts[number - 2] if number > 2 else count
        while True:
            bits, rest = rest & 0x1F, rest >> 5
            more = rest != (-1 if bits & 0x10 else 0)
            characters.append(chr(FIRST_CHARACTER + bits + 0x20 * more))
            if not more:
                break
    return "".join(characters)
