"""The table of protocols: the rules that make up each set of published metrics. A new protocol is a new row."""

from collections.abc import Callable
from typing import NamedTuple

from istd.utils.metrics.hierarchical import hierarchical_iou, optimal_pairs, padded_hierarchical_iou
from istd.utils.metrics.matching import greedy, optimal, shooting
from istd.utils.metrics.rules import (
    above_half,
    above_half_of_maximum,
    area_value_pixels,
    at_least_half,
    matched_share,
    mean_iou_empty_one,
    mean_iou_empty_zero,
    padded_matched_share,
    region_pixels,
    set_iou,
    shooting_pixels,
)


class Protocol(NamedTuple):
    """A row of the table. None: the protocol does not define this metric.

    `iou`, `niou` and `pd` give what an image adds to numerator and denominator, `hiou` what all images add up to.
    """

    name: str
    source: str
    scale: str  # of the score: "probability" or "logit"
    iou_map: Callable  # threshold for IoU and nIoU
    target_map: Callable  # threshold for everything else
    iou: Callable | None
    niou: Callable | None
    matching: Callable
    false_pixels: Callable
    pixel_scores: bool = False  # precision, recall and F1 over all pixels
    target_scores: bool = False  # precision, recall and F1 of targets: regions that are matched, targets that are found
    video_mean: bool = False  # mean over videos of the mean over their frames of the frame IoU
    hiou: Callable | None = None  # hierarchical IoU and its errors
    pd: Callable = matched_share
    augmentation: str | None = None  # options of inference for the published metrics, "" for none; None: unknown


ROWS = [
    Protocol(
        "standard", "this repository's default", "probability", above_half, above_half,
        set_iou, mean_iou_empty_one, optimal, region_pixels, pixel_scores=True, target_scores=True,
        hiou=hierarchical_iou,
    ),
    Protocol(
        "sgmp-2025", "SGMP-UNet's 2025 metrics", "logit", above_half, above_half,
        mean_iou_empty_one, set_iou, greedy, area_value_pixels, video_mean=True, augmentation="--flip",
    ),
    Protocol(
        "sgmp-2026", "SGMP-UNet's 2026 metrics", "probability", above_half, above_half,
        mean_iou_empty_one, set_iou, greedy, area_value_pixels, video_mean=True, augmentation="--flip --msc",
    ),
    Protocol(
        "datransnet", "DATransNet", "probability", above_half, above_half_of_maximum,
        set_iou, None, greedy, area_value_pixels, pixel_scores=True, augmentation="",
    ),
    Protocol(
        "basicirstd", "BasicIRSTD's benchmark", "probability", above_half, above_half,
        set_iou, None, greedy, region_pixels,
    ),
    Protocol(
        "sctransnet", "SCTransNet", "probability", above_half, above_half,
        set_iou, mean_iou_empty_zero, greedy, area_value_pixels,
    ),
    Protocol(
        "pyirstdmetrics", "Pang et al. 2025, package version 1.0.2", "probability", above_half, above_half,
        set_iou, mean_iou_empty_zero, optimal_pairs, region_pixels, pixel_scores=True, hiou=padded_hierarchical_iou,
        pd=padded_matched_share,
    ),
    Protocol(
        "dtum", "DTUM's shooting rules", "probability", at_least_half, at_least_half,
        None, None, shooting, shooting_pixels,
    ),
]  # fmt: skip
PROTOCOLS: dict[str, Protocol] = {row.name: row for row in ROWS}
