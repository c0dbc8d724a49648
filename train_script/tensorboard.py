"""TensorBoard files of a run: losses, learning rates, metrics, example images, pixel precision-recall curve."""

from pathlib import Path

import numpy as np
import torch

from istd.datasets import Sequence
from istd.utils.drawing import FOUND, TRUTH, contact_sheet, grey_to_rgb, outline
from istd.utils.images import read_grey

PR_BINS = 127  # as many as TensorBoard draws
PR_LOGITS = torch.sinh(torch.linspace(-5, 5, PR_BINS - 1, dtype=torch.float64))  # between the bins
EXAMPLES = 6
EXAMPLE_COLUMNS = 3


def open_writer(folder: Path, first_step: int):
    """A SummaryWriter that continues after `first_step`. Imported here, so that only runs that use it wait for it."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)


class PixelHistogram:
    """Counts of target and background pixels by logit, enough for TensorBoard's precision-recall curve.

    The bins are those between logits spaced as in `utils.metrics.curves`, up to +-74.
    """

    def __init__(self, as_logits: bool):
        self.as_logits = as_logits
        self.counts = torch.zeros(2, PR_BINS, dtype=torch.int64)  # background, target

    def update(self, score: torch.Tensor, mask: torch.Tensor, sequence: str, frame: str) -> None:
        """Count one frame, [H, W] each."""
        logits = score.double() if self.as_logits else score.double().logit()
        bins = torch.bucketize(logits, PR_LOGITS)
        for row, pixels in enumerate((mask <= 0, mask > 0)):
            self.counts[row] += torch.bincount(bins[pixels], minlength=PR_BINS)

    def merge(self, other: "PixelHistogram") -> None:
        """Add another process's counts."""
        self.counts += other.counts

    def write(self, writer, tag: str, step: int) -> None:
        """Write the curve: bin i holds the counts above the logit `PR_LOGITS`[i - 1]."""
        false, true = (row.flip(0).cumsum(0).flip(0).double() for row in self.counts)
        negatives, positives = self.counts.sum(1).tolist()
        precision = true / (true + false).clamp(min=1)
        recall = true / max(positives, 1)
        writer.add_pr_curve_raw(
            tag, true, false, negatives - false, positives - true, precision, recall, step, num_thresholds=PR_BINS
        )


class ExampleImages:
    """The first validation frames as images with the outlines of mask (cyan) and prediction (red)."""

    def __init__(self, sequences: list[Sequence], as_logits: bool):
        self.paths = {(s.name, f.name): f.image for s in sequences for f in s.frames}
        self.threshold = 0.0 if as_logits else 0.5  # the same probability
        self.tiles: list[np.ndarray] = []
        self.labels: list[str] = []

    def update(self, score: torch.Tensor, mask: torch.Tensor, sequence: str, frame: str) -> None:
        """Draw one frame, [H, W] each, if there are not enough yet."""
        path = self.paths.get((sequence, frame))
        if len(self.tiles) >= EXAMPLES or path is None or not bool((mask > 0).any()):
            return
        rgb = outline(grey_to_rgb(read_grey(path)), mask.numpy() > 0, TRUTH)
        self.tiles.append(outline(rgb, score.numpy() > self.threshold, FOUND))
        self.labels.append(f"{sequence}/{frame}" if sequence != frame else frame)

    def write(self, writer, tag: str, step: int) -> None:
        """Write the drawn frames as one image."""
        if self.tiles:
            sheet = contact_sheet(self.tiles, self.labels, EXAMPLE_COLUMNS)
            writer.add_image(tag, sheet, step, dataformats="HWC")
