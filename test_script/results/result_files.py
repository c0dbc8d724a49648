"""Results on the disk: masks, score maps, and tables of detections. Every file is whole or not there."""

import csv
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from test_script.results.detections import Detection
from utils.errors import InputError
from utils.files import atomic_path
from utils.metrics.tables import json_ready

DETECTION_COLUMNS = ("sequence", "frame", *Detection._fields)
SCORE_LEVELS = 65535  # of a 16-bit png: the level is round(probability * 65535)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image: grey uint8 or uint16 [H, W], or RGB uint8 [H, W, 3]."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".png", image)
    if not good:
        raise InputError(f"OpenCV could not encode {path}; expected uint8 or uint16, got {image.dtype} {image.shape}")
    with atomic_path(path) as temporary:
        data.tofile(temporary)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask bool [H, W] as a png of 0 and 255."""
    write_png(path, mask.astype(np.uint8) * np.uint8(255))


def write_probability(path: Path, probability: np.ndarray) -> None:
    """Write probabilities [H, W] as a 16-bit png."""
    write_png(path, np.rint(probability.astype(np.float64) * SCORE_LEVELS).astype(np.uint16))


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a table."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_table(path: Path, rows: Iterable[dict]) -> None:
    """Write metrics as csv (ratios; empty where there is none)."""
    rows = [json_ready(row) for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, ([row.get(name) for name in columns] for row in rows))


def detection_row(sequence: str, frame: str, detection: Detection) -> list:
    """A row of detections.csv: positions to 1/1000 px, scores to six digits."""
    values = detection._asdict()
    for name, digits in (("x", 3), ("y", 3), ("mean_score", 6), ("peak_score", 6)):
        values[name] = round(values[name], digits)
    return [sequence, frame, *values.values()]


def frame_file(folder: Path, sequence: str, frame: str, single: bool) -> Path:
    """`folder`/<sequence>/<frame>.png, or `folder`/<frame>.png where each image stands for itself (`single`)."""
    return folder / f"{frame}.png" if single else folder / sequence / f"{frame}.png"
