"""The training loss of whole frames, for the validation's curve beside that of training."""

import math

import numpy as np
import torch

from istd.train_script.losses import LOSSES, MAIN, LossProgress, total_loss
from istd.utils.distributed import alone


class MapLoss:
    """The mean over frames of the loss called `name` of the main output alone, without other outputs.

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
        # float64, which hides that sums of other numbers of threads are rounded differently
        outputs, truth = ({MAIN: torch.from_numpy(array).double()[None, None]} for array in (logits, mask))
        batch = {"mask": truth[MAIN]}
        try:
            with alone():
                self.values.append(total_loss(self.name, outputs, batch, self.progress, self.options).item())
        except KeyError:  # the loss reads more of the batch
            self.values = [None]

    def merge(self, other: "MapLoss") -> None:
        """Add the frames of another process."""
        self.values += other.values

    def compute(self) -> float | None:
        """The mean loss, None where it has no value."""
        if not self.values or None in self.values:
            return None
        return self.factor * math.fsum(self.values) / len(self.values)
