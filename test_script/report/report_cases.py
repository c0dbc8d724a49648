"""The frames a report shows: which ones, and their pictures around the target."""

from typing import NamedTuple

import cv2
import numpy as np

from datasets import ClipDataset
from test_script.predictor import Predictor, ScoreMaps
from utils.drawing import FOUND, TRUTH, enlarge, grey_to_rgb, outline, stretch_contrast
from utils.images import read_grey
from utils.metrics import Protocol
from utils.metrics.accumulator import ImageCounts

WORST, BEST = 8, 4
MOST_PER_SEQUENCE = 2  # of each kind, as long as there are other sequences
CROP_SIDE = 48  # px of the part of the frame that is shown enlarged
CROP_ZOOM = 5
FRAME_SIDE = 384  # px, to which the whole frame is brought
WHITE = (255, 255, 255)


class Case(NamedTuple):
    """A frame as the report shows it; pictures are RGB uint8."""

    counts: ImageCounts
    frame: np.ndarray  # whole, with outlines and the crop's place
    image: np.ndarray  # the crop
    prediction: np.ndarray  # the crop of the score, with outlines
    mask: np.ndarray  # the crop of the true mask, with the prediction's outline
    surface: np.ndarray  # score of the crop, uint8 0..255


def choose_items(rows: list[ImageCounts]) -> tuple[list[int], list[int]]:
    """Items of the worst and of the best frames, the most extreme first, spread over the sequences; none is in both.

    Worst: lowest IoU, then most missed targets, then most false pixels. Best: highest IoU among frames with a target.
    """

    def badness(item: int) -> tuple:
        row = rows[item]
        iou = row.intersection / row.union if row.union else 1.0
        return (iou, row.matched - row.targets, -row.false_pixels, item)

    order = sorted(range(len(rows)), key=badness)
    half = (len(order) + 1) // 2  # of few frames, a half each
    worst = _spread(order[:half], rows, WORST)
    best = _spread([item for item in reversed(order[half:]) if rows[item].targets], rows, BEST)
    return worst, best


def _spread(items: list[int], rows: list[ImageCounts], count: int) -> list[int]:
    """The first `count` items, with at most `MOST_PER_SEQUENCE` of a sequence unless there are too few sequences."""
    taken: dict[str | None, int] = {}
    chosen, left = [], []
    for item in items:
        sequence = rows[item].sequence
        full = sequence is not None and taken.get(sequence, 0) >= MOST_PER_SEQUENCE
        (left if full else chosen).append(item)
        taken[sequence] = taken.get(sequence, 0) + 1
    chosen = chosen[:count]
    chosen += left[: count - len(chosen)]
    return sorted(chosen, key=items.index)


def show_case(item: int, counts: ImageCounts, dataset: ClipDataset, predictor: Predictor, protocol: Protocol) -> Case:
    """Run the network again on one item and draw it."""
    sample = dataset[item]
    number, index = dataset.targets[item]
    truth = sample.mask[0].numpy() > 0
    wants_logit = protocol.scale == "logit"
    (maps,) = predictor.score_maps([sample.clip], [truth.shape], probability=not wants_logit, logit=wants_logit)
    score = _unit_score(maps)
    found = protocol.iou_map(maps.logit if wants_logit else maps.probability)
    grey = read_grey(dataset.sequences[number].frames[index].image)
    window = crop_window(truth, found, score)
    image = grey_to_rgb(stretch_contrast(grey))
    rows, columns = window
    heat = cv2.cvtColor(
        cv2.applyColorMap(np.rint(score * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    flat = np.where(truth[..., None], 255, 16).astype(np.uint8).repeat(3, axis=2)

    def zoomed(picture: np.ndarray, *lines: tuple[np.ndarray, tuple]) -> np.ndarray:
        enlarged = enlarge(picture[rows, columns], CROP_ZOOM)
        for region, color in lines:
            enlarged = outline(enlarged, enlarge(region[rows, columns], CROP_ZOOM), color)
        return enlarged

    return Case(
        counts,
        frame=_whole_frame(image, truth, found, window),
        image=enlarge(grey_to_rgb(stretch_contrast(grey[rows, columns])), CROP_ZOOM),
        prediction=zoomed(heat, (truth, TRUTH), (found, FOUND)),
        mask=zoomed(flat, (truth, TRUTH), (found, FOUND)),
        surface=np.rint(score[rows, columns] * 255).astype(np.uint8),
    )


def crop_window(truth: np.ndarray, found: np.ndarray, score: np.ndarray) -> tuple[slice, slice]:
    """The part of a frame to look at: around the target with the lowest peak score, else the largest false region.

    With neither it is around the highest score. At most `CROP_SIDE` a side, inside the frame.
    """
    region_map = truth if truth.any() else found
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region_map.astype(np.uint8), connectivity=8)
    if count == 1:
        centre = np.unravel_index(np.argmax(score), score.shape)
    else:
        if truth.any():
            peaks = np.zeros(count)
            np.maximum.at(peaks, labels.ravel(), score.ravel())
            label = 1 + int(np.argmin(peaks[1:]))
        else:
            label = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        centre = tuple(np.mean(np.nonzero(labels == label), axis=1))
    slices = []
    for middle, side in zip(centre, score.shape, strict=True):
        size = min(CROP_SIDE, side)
        start = min(max(0, round(float(middle)) - size // 2), side - size)
        slices.append(slice(start, start + size))
    return slices[0], slices[1]


def _whole_frame(image: np.ndarray, truth: np.ndarray, found: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """The frame brought to `FRAME_SIDE`, with outlines and the window's frame."""
    scale = FRAME_SIDE / max(image.shape[:2])
    sides = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    picture = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    for region, color in ((truth, TRUTH), (found, FOUND)):
        picture = outline(
            picture, cv2.resize(region.astype(np.float32), sides, interpolation=cv2.INTER_AREA) > 0, color
        )
    rows, columns = window
    corners = [
        (round(x * scale), round(y * scale)) for x, y in ((columns.start, rows.start), (columns.stop, rows.stop))
    ]
    cv2.rectangle(picture, *corners, WHITE, 2)
    return picture


def _unit_score(maps: ScoreMaps) -> np.ndarray:
    return maps.probability if maps.probability is not None else 1 / (1 + np.exp(-maps.logit))
