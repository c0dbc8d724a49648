"""Detections in COCO's format for results, and the metrics of their boxes if a dataset has annotated boxes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from istd.datasets.coco_truth import choose_images, read_boxes
from istd.test_script.predictor.detections import Detection
from istd.test_script.results.frame_set import FrameSet
from istd.test_script.results.result_files import frame_file
from istd.utils.coco import CATEGORY, region_annotations
from istd.utils.images import read_mask
from istd.utils.metrics.boxes import measure_boxes


def coco_entries(
    image_id: int, file_name: str, detections: list[Detection], mask: np.ndarray | None = None
) -> list[dict]:
    """The detections of an image as entries of the list that pycocotools' `loadRes` takes.

    The score is the peak score. With `mask` bool [H, W], whose regions are the detections in their order, entries have
    the regions as run lengths (segmentation).
    """
    outlines = [{}] * len(detections) if mask is None else region_annotations(mask)
    return [
        {
            "image_id": image_id,
            "category_id": CATEGORY["id"],
            "bbox": [detection.left, detection.top, detection.width, detection.height],
            "score": detection.peak_score,
            "file_name": file_name,
            **{key: value for key, value in outline.items() if key == "segmentation"},
        }
        for detection, outline in zip(detections, outlines, strict=True)
    ]


def set_entries(frame_set: FrameSet, rows: Iterable[list], masks: Path | None = None) -> list[dict]:
    """`coco_entries` of all frames from rows of detections.csv; `masks`: the folder of their masks."""
    by_frame: dict[tuple[str, str], list[Detection]] = {}
    for sequence, frame, *values in rows:
        by_frame.setdefault((sequence, frame), []).append(Detection(*values))
    entries = []
    for frame in frame_set.frames:
        if detections := by_frame.get(frame.row_names):
            mask = None if masks is None else read_mask(frame_file(masks, frame.sequence, frame.name))
            entries += coco_entries(frame.image_id, frame.file_name, detections, mask)
    return entries


def box_metrics(frame_set: FrameSet, rows: Iterable[list]) -> dict[str, dict]:
    """{"boxes": `BoxMetrics` as a dict} of a dataset with boxes.json, over the frames that were measured; else {}.

    rows: of detections.csv.
    """
    if not frame_set.has_boxes:
        return {}
    sequences = {frame.image_id: frame.sequence for frame in frame_set.frames}
    truth = choose_images(read_boxes(frame_set.root), sequences.keys())
    return {"boxes": measure_boxes(truth, set_entries(frame_set, rows), sequences=sequences)._asdict()}
