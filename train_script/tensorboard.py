"""TensorBoard files of a run: settings, losses, learning rates, metrics, enlarged targets, precision-recall curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from istd.utils.drawing import PREDICTED, TRUTH, contact_sheet, enlarge, grey_to_rgb, outline, stretch_contrast
from istd.utils.images import read_grey, window_around
from istd.utils.metrics.regions import find_regions

PR_BINS = 127  # as many as TensorBoard draws
PR_RANGE = 5.0  # asinh of the highest logit between two bins
EXAMPLES = 6
EXAMPLE_COLUMNS = 1
EXAMPLE_TAG = "targets (mask cyan, prediction red) and their scores"
CROP_SIDE = 48  # px of the frame around a target
CROP_FACTOR = 4  # by which it is enlarged
EPOCH_LOSS = "train/epoch loss"
CHARTS = {  # of the tab Custom Scalars: title and regular expressions of the curves in it
    "training and validation loss": [EPOCH_LOSS, "val/(.*/)?loss"],
    "validation: IoU": ["val/(.*/)?n?iou"],
    "validation: detection probability and precision": ["val/(.*/)?pd", "val/(.*/)?target_precision"],
    "validation: false-alarm rate": ["val/(.*/)?fa"],
}
HPARAMS_METRICS = [f"{split}/{name}" for split in ("val", "test") for name in ("iou", "niou", "pd", "fa")]


def open_writer(folder: Path, first_step: int, settings: Mapping[str, Any]):
    """A SummaryWriter that continues after `first_step`.

    It writes the layout of the charts, and the settings and the names of the metrics for the tab HParams.
    """
    # imported here, so that only runs that use it wait for it
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)
    writer.add_custom_scalars({"run": {title: ["Multiline", tags] for title, tags in CHARTS.items()}})
    plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()}
    for summary in hparams(plain, dict.fromkeys(HPARAMS_METRICS, 0.0))[:2]:  # the experiment and its start
        writer.file_writer.add_summary(summary)
    return writer


class PixelHistogram:
    """Counts of target and background pixels by logit, enough for TensorBoard's precision-recall curve.

    The limits between the bins are spaced evenly in asinh(logit), as in `utils.metrics.curves`, up to logits of +-74.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, PR_BINS), np.int64)  # background, target

    def update(self, logits: np.ndarray, mask: np.ndarray) -> None:
        """Count the pixels of a frame: logits [H, W] and its mask, bool [H, W]."""
        places = np.ceil((np.arcsinh(logits) + PR_RANGE) * ((PR_BINS - 2) / (2 * PR_RANGE)))
        bins = np.clip(places, 0, PR_BINS - 1).astype(np.int64)
        self.counts += np.bincount((bins + PR_BINS * mask).ravel(), minlength=2 * PR_BINS).reshape(2, PR_BINS)

    def merge(self, other: "PixelHistogram") -> None:
        """Add another process's counts."""
        self.counts += other.counts

    def write(self, writer, tag: str, step: int) -> None:
        """Write the curve; a bin holds the counts above its lower limit."""
        false, true = (row[::-1].cumsum()[::-1] for row in self.counts)
        negatives, positives = self.counts.sum(1)
        precision = true / np.maximum(true + false, 1)
        recall = true / max(positives, 1)
        writer.add_pr_curve_raw(
            tag, true, false, negatives - false, positives - true, precision, recall, step, num_thresholds=PR_BINS
        )


class ExampleImages:
    """Enlarged crops around a target of each of the first validation frames, outlined, beside their probabilities."""

    def __init__(self) -> None:
        self.tiles: list[np.ndarray] = []
        self.labels: list[str] = []

    def update(self, probability: np.ndarray, mask: np.ndarray, image: Path, sequence: str, frame: str) -> None:
        """Draw the frame in the file `image` until there are enough frames; the maps are [H, W], the mask bool."""
        if len(self.tiles) < EXAMPLES and mask.any():
            self.tiles.append(draw_target(read_grey(image), mask, probability))
            self.labels.append(f"{sequence}/{frame}" if sequence != frame else frame)

    def write(self, writer, tag: str, step: int) -> None:
        """Write the drawn frames as an image."""
        if self.tiles:
            sheet = contact_sheet(self.tiles, self.labels, EXAMPLE_COLUMNS)
            writer.add_image(tag, sheet, step, dataformats="HWC")


def draw_target(grey: np.ndarray, mask: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The surroundings of the mask's largest target: the frame, and the probabilities as grey levels; RGB uint8.

    grey, mask (bool), probability: [H, W]. Mask and prediction (probability above 0.5) are outlined in the frame, the
    mask alone in the probabilities.
    """
    regions = find_regions(mask)
    window = window_around(regions.centroids[int(np.argmax(regions.areas))], mask.shape, CROP_SIDE)
    frame, scores = (
        enlarge(grey_to_rgb(levels), CROP_FACTOR) for levels in (stretch_contrast(grey[window]), probability[window])
    )
    truth, predicted = (enlarge(region[window], CROP_FACTOR) for region in (mask, probability > 0.5))
    frame = outline(outline(frame, truth, TRUTH), predicted, PREDICTED)
    return np.concatenate([frame, outline(scores, truth, TRUTH)], axis=1)
