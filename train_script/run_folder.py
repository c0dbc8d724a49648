"""The folder of a run: checkpoints that survive an interruption at any moment, settings, log, metrics.jsonl."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from istd.train_script.settings import EARLIER
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.errors import InputError
from istd.utils.files import atomic_path, check_writable
from istd.utils.ranks import is_main

LAST = "checkpoint_last.pth"
BEST = "checkpoint_best.pth"
METRICS = "metrics.jsonl"
TEST = "test.json"
COPIES_OF_WEIGHTS_IN_LAST = 4  # weights, their EMA, two moments of Adam


def check_space(folder: Path, model: nn.Module, keep_best: int) -> None:
    """Raise `InputError` now if the checkpoints of a run could not be written to `folder`."""
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    needed = size * (2 * COPIES_OF_WEIGHTS_IN_LAST + keep_best + 2)
    check_writable(folder / LAST)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB free, the checkpoints of this run need about {needed / 1e6:.0f} MB; "
            "free some space or choose another --output_root"
        )


def check_unused(folder: Path) -> None:
    """Raise `InputError` for a new run in a folder that already holds a run, whether or not it can be continued.

    A run that was killed before it first wrote checkpoint_last.pth has none of these files: it can start again.
    """
    if (folder / LAST).exists():
        raise InputError(
            f"{folder} already holds a run; continue it with --resume auto, or choose another --experiment_name"
        )
    if left := [name for name in (BEST, METRICS, TEST) if (folder / name).exists()]:
        raise InputError(
            f"{folder} holds {' and '.join(left)} of a run whose {LAST} is missing, so that it cannot be continued; "
            "put that file back, or choose another --experiment_name (--init_weights starts from weights of that run)"
        )


def read_last(path: Path) -> Checkpoint:
    """The checkpoint to continue from: `path`, or checkpoint_last.pth in this folder of a run.

    Raises `InputError` where it is missing or damaged, or holds weights alone.
    """
    path = path / LAST if path.is_dir() else path
    if not path.exists():
        raise InputError(f"{path} does not exist; give --resume a checkpoint or a run's folder")
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        raise InputError(
            f"cannot continue: {error}; to go on from the best weights, give --init_weights {path.parent / BEST} and "
            "another --experiment_name"
        ) from error
    if "position" not in checkpoint.training:
        raise InputError(f"{path} holds weights but no state of training; use it with --init_weights")
    return replace(checkpoint, settings=EARLIER | checkpoint.settings)


def best_name(key: str, score: float, epoch: int) -> str:
    """File name of a kept checkpoint; the epoch keeps equal scores apart."""
    return f"checkpoint_best_val_{key}_{score:.3f}_epoch_{int(epoch)}.pth"


def prune_checkpoints(folder: Path, key: str, best: list[list[float]]) -> None:
    """Delete kept checkpoints that are no longer among the best."""
    kept = {best_name(key, score, epoch) for score, epoch in best}
    for path in folder.glob("checkpoint_best_val_*.pth"):
        if path.name not in kept:
            path.unlink()


def append_metrics(folder: Path, row: dict) -> None:
    """Add a line to metrics.jsonl."""
    with writing(folder / METRICS), open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def forget_later_metrics(folder: Path, epoch: int) -> None:
    """Drop the lines of metrics.jsonl after `epoch`: a run that continues from there writes them anew."""
    path = folder / METRICS
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # of a line that was cut off when the run was killed
            if json.loads(line)["epoch"] <= epoch:
                kept.append(line + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


class Log:
    """Appends lines to a file and prints them, on the main process only."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def __call__(self, line: str) -> None:
        if not is_main():
            return
        if self.path:
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        print(line, flush=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an error in writing `path`, such as a full disk, as an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; make space and continue with --resume auto"
        ) from error
