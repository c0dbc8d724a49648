"""The state of a run: what stays the same while it trains, what changes, and how that is saved in a checkpoint."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from istd.datasets import ClipDataset
from istd.test_script.predictor import Predictor
from istd.train_script.batches import EpochBatches
from istd.train_script.run_folder import Log
from istd.train_script.settings import Settings
from istd.train_script.signals import StopSignal
from istd.train_script.weight_average import WeightAverage


@dataclass(frozen=True)
class Run:
    """Everything that stays the same while a run trains."""

    settings: Settings
    folder: Path
    device: torch.device
    amp: torch.dtype | None
    protocol: str
    select_by: str
    train_loader: DataLoader
    batches: EpochBatches
    data_record: list[dict[str, Any]]  # the data by name and fingerprint
    val_loaders: list[DataLoader]  # of every dataset
    test_loaders: list[DataLoader]
    norm_sets: list[ClipDataset]  # training images for batch-norm statistics; []: the statistics of training stay
    schedule: Callable[[float, int], float]
    log: Log
    stop: StopSignal
    writer: Any  # a SummaryWriter, or None
    predictors: dict[str, Predictor] = field(default_factory=dict)  # by mixed precision; they keep their CUDA graphs


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0  # epochs completed, validation included
    step: int = 0  # steps done of the next epoch
    loss_sum: float = 0.0  # over those steps
    train_seconds: float = 0.0  # spent on those steps
    data_seconds: float = 0.0  # of these seconds, spent waiting for data
    seconds: float = 0.0  # in training and validation of completed epochs, over all resumptions
    best: list[list[float]] = field(default_factory=list)  # [score, epoch] of the best checkpoints, best first
    start: float | None = None  # score of the weights that the run started from, if it did


@dataclass
class Training:
    """A network in training. `model` is what the loop calls: the network itself, as CUDA graphs, or compiled."""

    network: nn.Module
    model: Callable
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: WeightAverage | None = None
    ema_updates: int = 0
    skipped_steps: int = 0  # in a row, for gradients that were not finite
    progress: Progress = field(default_factory=Progress)
    average: Callable[[int], None] | None = None  # of several processes' gradients in an epoch, see `data_parallel`

    def weights(self) -> nn.Module:
        """The network that is validated and saved, which has the EMA weights if there are any."""
        return self.ema.module if self.ema else self.network


def training_state(training: Training) -> dict:
    """The content of a checkpoint besides the weights: tensors, numbers, strings, lists, and dicts.

    It needs no random state: order, augmentation, and stochastic depth are functions of (seed, epoch, step).
    """
    state = {
        "optimizer": training.optimizer.state_dict()["state"],
        "scaler": training.scaler.state_dict(),
        "position": asdict(training.progress),
    }
    if training.ema:
        state |= {"network": training.network.state_dict(), "updates": training.ema_updates}
    return state


def restore(training: Training, weights: dict[str, torch.Tensor], state: dict) -> None:
    """Continue from a checkpoint's weights and training state, with the present learning rates and other settings."""
    training.network.load_state_dict(state.get("network", weights))
    if training.ema:
        training.ema.module.load_state_dict(weights)
        training.ema_updates = state.get("updates", 0)
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
    if state["scaler"]:  # empty for a run in another number format than fp16
        training.scaler.load_state_dict(state["scaler"])
    training.progress = Progress(**state["position"])
