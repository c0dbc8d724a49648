"""Everything that changes while a network trains, its way to and from a checkpoint, and the signals that stop it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from istd.train_script.weight_average import WeightAverage

PATIENCE = 3  # signals after which Ctrl-C ends the program at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0  # epochs completed, validation included
    step: int = 0  # steps done of the next epoch
    loss_sum: float = 0.0  # of the losses of those steps
    train_seconds: float = 0.0  # that they took
    data_seconds: float = 0.0  # of these, waiting for data
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
    skipped_steps: int = 0  # one after the other, for gradients that were not finite
    progress: Progress = field(default_factory=Progress)
    average: Callable[[int], None] | None = None  # of several processes' gradients in an epoch, see `data_parallel`

    def weights(self) -> nn.Module:
        """The network that is validated and saved: that with the EMA weights where there are some."""
        return self.ema.module if self.ema else self.network


def training_state(training: Training) -> dict:
    """What a checkpoint holds beside the weights: tensors, numbers, strings, lists and dicts.

    No random state is among it: order, augmentation and stochastic depth are functions of (seed, epoch, step).
    """
    state = {
        "optimizer": training.optimizer.state_dict()["state"],
        "scaler": training.scaler.state_dict(),
        "position": asdict(training.progress),
    }
    if training.ema:
        state["network"] = training.network.state_dict()
        state["updates"] = training.ema_updates
    return state


def restore(training: Training, weights: dict[str, torch.Tensor], state: dict) -> None:
    """Continue from a checkpoint's weights and training state; learning rates and the like stay those of now."""
    training.network.load_state_dict(state.get("network", weights))
    if training.ema:
        training.ema.module.load_state_dict(weights)
        training.ema_updates = state.get("updates", 0)
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
    if state["scaler"]:  # empty for a run in another number format than fp16
        training.scaler.load_state_dict(state["scaler"])
    training.progress = Progress(**state["position"])


class Interrupted(Exception):
    """The run was asked to stop, by the signal whose number is its argument."""


def exit_status(signum: int) -> int:
    """The status of a run that saved and ended at a signal: 130 for Ctrl-C, 143 for SIGTERM, REQUEUE for SIGUSR1.

    Schedulers announce a preemption by SIGUSR1, if told to (`sbatch --signal=B:USR1@120`), and can put jobs that end
    with a status of one's choice back into the queue (LSF's REQUEUE_EXIT_VALUES, HTCondor's on_exit_remove; under
    Slurm the job's script calls `scontrol requeue`). With `--resume auto` the run then goes on where it was.
    """
    return REQUEUE if signum == signal.SIGUSR1 else 128 + signum


class StopSignal:
    """Remembers that a signal came."""

    signum = count = 0

    def note(self, signum: int, _frame: object) -> None:
        """Signal handler."""
        self.signum = signum
        self.count += 1
        if self.count >= PATIENCE:
            raise KeyboardInterrupt


@contextmanager
def caught_signals() -> Iterator[StopSignal]:
    """SIGNALS mark the yielded `StopSignal`, to be acted on at the next place where nothing is half done."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
