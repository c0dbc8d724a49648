"""The frames that a report shows: they are kept while the set is measured, and drawn by the page.

A kept frame is a png with three channels: the grey image, the score levels, and the true mask. Score level n means that
the score exceeds n of the `THRESHOLDS`, so the page can move the threshold exactly.
"""

import base64
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from istd.test_script.results.result_files import write_png
from istd.utils.drawing import grey_to_rgb, stretch_contrast
from istd.utils.errors import InputError
from istd.utils.images import encode_png, read_grey, window_around
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.curves import logit_levels, matched_levels, matched_logits
from istd.utils.metrics.regions import find_regions
from istd.utils.metrics.rules import image_iou
from istd.utils.metrics.target_curve import target_curve

WORST, BEST = 8, 4
MAX_PER_SEQUENCE = 2  # worst, and best, frames of a sequence, as long as there are other sequences
GOOD_IOU = 0.5
THRESHOLDS = matched_logits()  # the same as for the curves of the set; the levels fit into 8 bits
STEPS = len(THRESHOLDS) - 1
MIDDLE_STEP = int(np.searchsorted(THRESHOLDS, 0.0))  # of the threshold 0.5
CROP_SIDE = 48  # px of the part of the frame that is shown enlarged
MAX_SIDE = 512  # px; larger frames are embedded at a reduced size


class KeptFrames:
    """Keeps the frames that a report on the frames so far would show: at most `WORST` + `BEST` files in `folder`.

    A frame among the worst or best of a set is also among the worst or best of any part of it that has the frame. So
    processes that share a set, and interrupted runs, never drop a frame that the final report needs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._rows: dict[int, ImageCounts] = {}

    def offer(
        self, item: int, counts: ImageCounts, image: Path | None, log_odds: np.ndarray, truth: np.ndarray
    ) -> None:
        """Keep a frame if it belongs to the worst or best so far; log_odds float, truth bool [H, W]."""
        self._rows[item] = counts
        kept = set().union(*choose_items(self._rows))
        if item in kept:
            picture = read_background(image, truth.shape)
            picture[..., 1] = matched_levels(logit_levels(log_odds, "logit"))
            picture[..., 2] = truth * 255
            write_png(frame_picture(self.folder, item), picture)
        for other in self._rows.keys() - kept:
            del self._rows[other]
            frame_picture(self.folder, other).unlink(missing_ok=True)


def read_background(image: Path | None, size: tuple[int, int]) -> np.ndarray:
    """The picture uint8 [H, W, 3] of a frame, black and of `size` if its image is not known."""
    return np.zeros((*size, 3), np.uint8) if image is None else grey_to_rgb(stretch_contrast(read_grey(image)))


def frame_picture(folder: Path, item: int) -> Path:
    return folder / f"{item:06d}.png"


def choose_items(rows: Mapping[int, ImageCounts]) -> tuple[list[int], list[int]]:
    """Items of the worst and of the best frames, the most extreme first, spread over the sequences, without overlap.

    Worst: lowest IoU, then most missed targets, then most false-alarm pixels. Best: highest IoU, targets hit only.
    """

    def iou(item: int) -> float:
        return image_iou(rows[item], empty=1.0)

    order = sorted(rows, key=lambda i: (iou(i), rows[i].matched - rows[i].targets, -rows[i].false_pixels, i))
    hits = [item for item in reversed(order) if rows[item].intersection]
    best = _spread(hits, rows, BEST, lambda item: iou(item) >= GOOD_IOU)
    worst = _spread(order, rows, WORST, lambda item: iou(item) < GOOD_IOU)
    return [item for item in worst if item not in best], best


def _spread(order: list[int], rows: Mapping, count: int, is_clear: Callable[[int], bool]) -> list[int]:
    """`count` items in their order: clear cases first, of them at most `MAX_PER_SEQUENCE` a sequence if possible."""
    seen: Counter = Counter()
    rank = {}
    for item in order:
        sequence = rows[item].sequence
        crowded = sequence is not None and seen[sequence] >= MAX_PER_SEQUENCE
        rank[item] = int(crowded) if is_clear(item) else 2
        seen[sequence] += 1
    chosen = set(sorted(order, key=rank.__getitem__)[:count])
    return [item for item in order if item in chosen]


def show_case(counts: ImageCounts, file: Path) -> dict[str, Any]:
    """A kept frame for the page: pictures as data URLs, and its counts at each threshold.

    `data` is for the page's script. Its lists hold a count for each of the `STEPS` + 1 thresholds: predicted pixels,
    predicted target pixels, matched targets, and false-alarm pixels by the standard protocol.
    """
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if picture is None:
        raise InputError(f"cannot read {file}, which the report shows; run inference again without --resume")
    picture = np.ascontiguousarray(picture[..., ::-1])  # RGB
    levels, truth = np.ascontiguousarray(picture[..., 1]), picture[..., 2] > 0
    targets = find_regions(truth)
    matched, matched_pixels = target_curve(levels, targets, STEPS)
    predicted = _pixels_above(levels)
    rows, columns = crop_window(truth, levels)
    return {
        "name": "/".join(part for part in (counts.sequence, counts.frame) if part),
        "frame": data_url(encode_png(_reduced(picture))),
        "crop": data_url(encode_png(picture[rows, columns])),
        "data": {
            "window": [rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start],
            "size": truth.shape,
            "targets": len(targets.areas),
            "positives": int(truth.sum()),
            "predicted": predicted.tolist(),
            "hits": _pixels_above(levels[truth]).tolist(),
            "matched": matched.tolist(),
            "false_pixels": (predicted - matched_pixels).tolist(),
        },
    }


def crop_window(truth: np.ndarray, levels: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the part of a frame to enlarge, at most `CROP_SIDE` a side.

    It lies around the target with the lowest peak score, else around the largest predicted region at threshold 0.5,
    else around the highest score.
    """
    regions = find_regions(truth if truth.any() else levels > MIDDLE_STEP)
    if not len(regions.areas):
        centre = np.unravel_index(np.argmax(levels), levels.shape)
    elif truth.any():
        centre = regions.centroids[np.argmin(regions.maxima(levels))]
    else:
        centre = regions.centroids[np.argmax(regions.areas)]
    return window_around(centre, levels.shape, CROP_SIDE)


def data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _pixels_above(levels: np.ndarray) -> np.ndarray:
    """The number of pixels above each of the thresholds, int64 [STEPS + 1]."""
    counts = np.bincount(levels.ravel(), minlength=STEPS + 2)
    return counts[::-1].cumsum()[::-1][1:]


def _reduced(picture: np.ndarray) -> np.ndarray:
    """The picture with its longer side at most `MAX_SIDE`; maxima of scores and mask stay, so no target vanishes."""
    factor = -(-max(picture.shape[:2]) // MAX_SIDE)
    if factor == 1:
        return picture
    largest = cv2.dilate(picture, np.ones((factor, factor), np.uint8), anchor=(0, 0))[::factor, ::factor]
    largest[..., 0] = cv2.resize(picture[..., 0], largest.shape[1::-1], interpolation=cv2.INTER_AREA)
    return largest
