"""The training loss on validation frames, for a curve beside the training curve."""

import math

import numpy as np
import torch

from istd.train_script.losses import LOSSES, MAIN, LossProgress, total_loss
from istd.utils.ranks import alone


class MapLoss:
    """The mean over frames of the loss called `name`, computed for the main output alone.

    A frame counts as a batch; a loss that is a sum over the batch is multiplied by `batch_size`, as in training. Losses
    that need more than a map and its mask have no value here.
    """

    def __init__(self, name: str, options: dict, progress: LossProgress, batch_size: int):
        self.name, self.options, self.progress = name, options, progress
        self.factor = batch_size if LOSSES[name].summed else 1
        self.values: list[float | None] = []

    def update(self, logits: np.ndarray, mask: np.ndarray) -> None:
        """Add a frame: logits [H, W] and its mask, bool [H, W]."""
        if LOSSES[self.name].all_outputs or None in self.values[:1]:
            self.values = [None]
            return
        main, truth = (torch.from_numpy(array).float()[None, None] for array in (logits, mask))
        try:
            with alone():
                loss = total_loss(self.name, {MAIN: main}, {"mask": truth}, self.progress, self.options)
            self.values.append(loss.item())
        except KeyError:  # the loss reads more of the batch
            self.values = [None]

    def merge(self, other: "MapLoss") -> None:
        """Add the frames of another process."""
        self.values += other.values

    def compute(self) -> float | None:
        """The mean loss, None where it has no value or is not finite, which json cannot hold."""
        if not self.values or None in self.values or not all(map(math.isfinite, self.values)):
            return None
        return self.factor * math.fsum(self.values) / len(self.values)
