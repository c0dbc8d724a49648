"""Result files: masks, score maps, and tables of detections, written in the background and atomically."""

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from test_script.results.detections import Detection
from utils.errors import InputError
from utils.files import atomic_path, json_ready

DETECTION_COLUMNS = ("sequence", "frame", *Detection._fields)
SCORE_LEVELS = 65535  # of a 16-bit png: the level is round(probability * 65535)
QUEUE_LENGTH = 32  # calls that may wait in the background, which bounds the memory


@contextmanager
def background_calls() -> Iterator[Callable[..., None]]:
    """Yield `submit(function, *arguments)`, which runs calls in order on one background thread.

    The network runs on while results are measured and written. `submit` waits while `QUEUE_LENGTH` calls are pending;
    leaving the block waits for all of them. The first error of a call is raised by a later `submit` or at the end.
    """
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(1) as worker:

        def submit(function: Callable, *arguments: object) -> None:
            while pending and (pending[0].done() or len(pending) >= QUEUE_LENGTH):
                pending.popleft().result()
            pending.append(worker.submit(function, *arguments))

        yield submit
        for call in pending:
            call.result()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image: grey uint8 or uint16 [H, W], or RGB uint8 [H, W, 3]."""
    data = encode_png(image)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def encode_png(image: np.ndarray) -> bytes:
    """The bytes of a png file: grey uint8 or uint16 [H, W], or RGB uint8 [H, W, 3]."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".png", image)
    if not good:
        raise InputError(f"OpenCV could not encode a png; expected uint8 or uint16, got {image.dtype} {image.shape}")
    return data.tobytes()


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask bool [H, W] as a png of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_map(path: Path, scores: np.ndarray) -> None:
    """Write scores [H, W]: exactly if `path` ends in .npy, else probabilities as a 16-bit png."""
    if path.suffix == ".npy":
        with atomic_path(path) as temporary:
            np.save(temporary, scores)
    else:
        write_png(path, np.rint(scores.astype(np.float64) * SCORE_LEVELS).astype(np.uint16))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a table."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_table(path: Path, rows: Iterable[dict]) -> None:
    """Write metrics as csv: ratios, and an empty cell where a metric is not defined."""
    rows = [json_ready(row) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def detection_row(sequence: str, frame: str, detection: Detection) -> list:
    """A row of detections.csv: positions to 1/1000 px, scores to six digits."""
    values = detection._asdict()
    for name, digits in (("x", 3), ("y", 3), ("mean_score", 6), ("peak_score", 6)):
        values[name] = round(values[name], digits)
    return [sequence, frame, *values.values()]


def coco_detections(
    files: list[tuple[str, str, str]], sizes: list[tuple[int, int]], detections: Iterable[list], description: str
) -> dict:
    """Detections in the COCO format.

    files: (sequence, frame, file name) of each image; sizes: its (height, width); detections: rows of detections.csv.
    An annotation's score is its peak probability. pycocotools reads the result with
    `COCO(targets).loadRes(json.load(file)["annotations"])`.
    """
    numbers = {(sequence, frame): number for number, (sequence, frame, _) in enumerate(files, start=1)}
    annotations = []
    for number, (sequence, frame, *values) in enumerate(detections, start=1):
        found = Detection(*values)
        annotations.append(
            {
                "id": number,
                "image_id": numbers[sequence, frame],
                "category_id": 1,
                "bbox": [found.left, found.top, found.width, found.height],
                "area": found.area,
                "score": found.peak_score,
                "iscrowd": 0,
            }
        )
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, ((_, _, name), (height, width)) in enumerate(zip(files, sizes, strict=True), start=1)
    ]
    return {
        "info": {"description": description},
        "images": images,
        "categories": [{"id": 1, "name": "target"}],
        "annotations": annotations,
    }


def frame_file(folder: Path, sequence: str, frame: str, single: bool, suffix: str = ".png") -> Path:
    """`folder`/<sequence>/<frame><suffix>, or `folder`/<frame><suffix> for images without a sequence (`single`)."""
    return folder / f"{frame}{suffix}" if single else folder / sequence / f"{frame}{suffix}"
