"""Weights & Biases behind the part of TensorBoard's writer that training uses."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from istd.utils.errors import InputError


class WandbWriter:
    """Sends curves and images of a run to Weights & Biases, or keeps them in its folder if WANDB_MODE is offline.

    The identity of a run, under which it is continued, is a hash of its folder. Raises `InputError` without wandb.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise InputError("--log wandb needs the package wandb; pip install wandb, or leave --log out") from error
        self.wandb = wandb
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        name = "/".join(folder.parts[-3:-1])  # dataset and experiment
        self.run = wandb.init(project="istd", name=name, id=identity, resume="allow", dir=str(folder), config=settings)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        self.run.log({tag: value}, step=step)

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str) -> None:
        """An image, uint8 [H, W, 3]."""
        self.run.log({tag: self.wandb.Image(image)}, step=step)

    def add_pr_curve_raw(self, tag: str, *counts: Any, num_thresholds: int) -> None:
        """A curve of precision over recall; `counts` end with precision, recall and the step, as for TensorBoard."""
        precision, recall, step = counts[-3:]
        points = [[float(r), float(p)] for r, p in zip(recall, precision, strict=True)]
        table = self.wandb.Table(columns=["recall", "precision"], data=points)
        self.run.log({tag: self.wandb.plot.line(table, "recall", "precision", title=tag)}, step=step)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """End the session."""
        self.run.finish()
