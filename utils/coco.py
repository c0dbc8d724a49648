"""Parts of COCO's json format for detection: masks as run lengths, annotations of regions, and whole files.

https://cocodataset.org/#format-data, #format-results. Boxes: [x, y, width, height] in px; the first pixel spans 0..1.
"""

from collections.abc import Iterable

import numpy as np

from istd.utils.metrics.regions import find_regions

CATEGORY = {"id": 1, "name": "target"}
FIRST_CHARACTER = 48  # "0": a run length is written as characters of 5 bits, lowest first, and a bit for "more follows"


def encode_rle(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> dict:
    """Encode the pixels (rows, columns), int [n], of a mask of `shape` [H, W] as COCO's compressed run lengths.

    Returns {"size": [H, W], "counts": text}, equal to the result of `pycocotools.mask.encode`.
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
    """The "bbox", "area" in pixels, and "segmentation" of every 8-connected region of a mask, bool [H, W]."""
    regions, width = find_regions(np.ascontiguousarray(mask)), mask.shape[1]
    return [
        {"bbox": box, "area": len(rows), "segmentation": encode_rle(rows, columns, mask.shape)}
        for box, (rows, columns) in zip(regions.boxes(width).tolist(), regions.coordinates(width), strict=True)
    ]


def ground_truth(images: Iterable[tuple[dict, list[dict]]], description: str) -> dict:
    """The content of a ground-truth file for pycocotools' `COCO`, with the single category "target".

    images: pairs of an entry {"id", "file_name", "height", "width"} and its annotations, which have at least "bbox" and
    "area"; annotations are numbered from 1.
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
    """Run lengths as text; from the fourth on, each is the difference to the last run of the same value."""
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
