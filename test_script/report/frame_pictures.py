"""Small pictures of the measured frames, in files beside report.html, which the rows of its table open."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from istd.test_script.report.report_cases import crop_window, read_background
from istd.utils.drawing import PREDICTED, SHEET_GREY, TRUTH, enlarge, outline
from istd.utils.files import renamed_path
from istd.utils.metrics.accumulator import ImageCounts
from istd.utils.metrics.rules import image_iou
from istd.utils.metrics.tables import format_metric
from istd.utils.names import counted

MAX_PICTURES = 2000  # by default
FRAME_SIDE = 320  # px of the longer side of a frame in its picture
CROP_FACTOR = 4  # of the enlarged part beside it
GAP = 4
QUALITY = (cv2.IMWRITE_JPEG_QUALITY, 88)


def picture_stride(frames: int, pictures: int) -> int:
    """The N for which pictures of every N-th frame are at most `pictures`; 0 for no pictures."""
    return -(-frames // pictures) if pictures else 0


def write_picture(folder: Path, item: int, image: Path | None, mask: np.ndarray, truth: np.ndarray) -> None:
    """Write the picture of a frame; mask and truth bool [H, W]."""
    picture = draw_picture(read_background(image, truth.shape), mask, truth)
    with renamed_path(picture_file(folder, item)) as temporary:
        temporary.write_bytes(cv2.imencode(".jpg", picture[..., ::-1], QUALITY)[1].tobytes())


def picture_file(folder: Path, item: int) -> Path:
    return folder / f"{item:06d}.jpg"


def draw_picture(frame: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A frame RGB uint8 [H, W, 3] with the outlines of truth and prediction, and an enlarged part beside it.

    The part is around the first missed target, else a target, else the largest false alarm.
    """
    scale = FRAME_SIDE / max(truth.shape)
    sides = [max(1, round(side * scale)) for side in truth.shape[::-1]]
    small = cv2.resize(frame, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    for regions, color in ((truth, TRUTH), (mask, PREDICTED)):
        small = outline(small, _resized(regions, sides), color)
    if not (truth.any() or mask.any()):
        return small
    window = crop_window(truth, mask.astype(np.uint8) * np.uint8(255))
    crop = frame[window].astype(np.float32)
    crop = (crop - crop.min()) * (255 / max(float(np.ptp(crop)), 1.0))  # full contrast
    crop = enlarge(np.rint(crop).astype(np.uint8), CROP_FACTOR)
    for regions, color in ((truth, TRUTH), (mask, PREDICTED)):
        crop = outline(crop, enlarge(regions[window], CROP_FACTOR), color)
    shape = (max(small.shape[0], crop.shape[0]), small.shape[1] + GAP + crop.shape[1], 3)
    picture = np.full(shape, SHEET_GREY, np.uint8)
    picture[: small.shape[0], : small.shape[1]] = small
    picture[: crop.shape[0], small.shape[1] + GAP :] = crop
    return picture


def picture_rows(folder: Path, rows: Iterable[ImageCounts]) -> dict[str, list[list]]:
    """The pictures in `folder` for each row of the report's table: name of the frame, file, counts."""
    written = {file.name for file in folder.glob("*.jpg")}
    pictures: dict[str, list[list]] = {}
    for item, row in enumerate(rows):
        file = picture_file(folder, item).name
        if file in written:
            iou = format_metric("iou", image_iou(row, empty=1.0))
            targets = f"{row.matched} of {counted(row.targets, 'target')} found"
            counts = f"IoU {iou} %, {targets}, {row.false_pixels} false-alarm px"
            key = row.frame if row.sequence is None else row.sequence
            pictures.setdefault(key, []).append([row.frame, f"{folder.name}/{file}", counts])
    return pictures


def _resized(regions: np.ndarray, sides: list[int]) -> np.ndarray:
    """Regions bool [H, W] at another size, [width, height]; no region vanishes."""
    return cv2.resize(regions.astype(np.float32), sides, interpolation=cv2.INTER_AREA) > 0
