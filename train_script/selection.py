"""Choose the epoch that is the result of a run, and keep its checkpoints."""

from dataclasses import asdict, replace
from typing import Any

from istd.datasets import DatasetIndex
from istd.train_script.run_folder import BEST, best_name
from istd.train_script.settings import Settings
from istd.train_script.state import Run, Training
from istd.utils.checkpoint import Checkpoint, save_checkpoint
from istd.utils.errors import InputError
from istd.utils.metrics import build_metric
from istd.utils.metrics.accumulator import LOWER_IS_BETTER
from istd.utils.metrics.tables import metric_text
from istd.utils.ranks import is_main

SELECTION_METRICS = ("video_mean", "iou", "pd")  # the first that a protocol defines chooses the best epoch
UNDEFINED = -1.0  # the score of an epoch whose metric is undefined, which loses to all others


def choose_selection(settings: Settings, indices: list[DatasetIndex]) -> tuple[str, str]:
    """The protocol of validation and the metric that chooses the best epoch.

    By default, they are the common protocol of all datasets, or standard, and its first metric of SELECTION_METRICS.
    """
    protocols = {settings.protocol or index.info.protocol or "standard" for index in indices}
    protocol = protocols.pop() if len(protocols) == 1 else "standard"
    defined = [name for name, value in build_metric(protocol).compute().items() if value is not None]
    if settings.select_by is None:
        return protocol, next(name for name in SELECTION_METRICS if name in defined)
    choices = [name for name in defined if name not in LOWER_IS_BETTER]
    if settings.select_by not in choices:
        raise InputError(
            f"select_by is {settings.select_by!r}, expected one of {', '.join(choices)} (protocol {protocol})"
        )
    return protocol, settings.select_by


def check_selection(saved: Checkpoint, settings: Settings, indices: list[DatasetIndex]) -> None:
    """Raise `InputError` if a run would continue to choose its best epoch by another metric, or on other images."""
    names = ("protocol", "select_by", "select_on")
    before = replace(settings, **{name: saved.settings[name] for name in names if name in saved.settings})
    old, new = ((*choose_selection(chosen, indices), chosen.select_on) for chosen in (before, settings))
    if old != new:
        options = ", ".join(f"--{name}" for name in names)
        raise InputError(
            f"the best epochs of {saved.path} were chosen by {old[1]} ({old[0]}) on {old[2]}, now they would be by "
            f"{new[1]} ({new[0]}) on {new[2]}: such scores do not compare; leave {options} as they were, or "
            "begin another run with --experiment_name and --init_weights"
        )


def keep_if_best(run: Run, training: Training, score: float | None, epoch: int) -> str:
    """Keep the weights if their score is among the best (the later of equal scores); returns a note for the log.

    The note also tells that a score of zero, or an undefined score, chooses nothing.
    """
    progress, key = training.progress, run.select_by
    entry = [UNDEFINED if score is None else float(score), epoch]
    place = sum(better > entry[0] for better, _ in progress.best)
    progress.best.insert(place, entry)
    del progress.best[run.settings.keep_best :]
    if place < run.settings.keep_best:
        names = [best_name(key, *entry), *([BEST] if place == 0 else [])]
        save_weights(run, training, names, epoch=epoch, selected_by=key, score=entry[0])
    if place > 0:
        return ""
    if entry[0] <= 0:
        return f" (kept; {key} is {'undefined' if score is None else 'zero'} in every epoch so far)"
    if progress.start is not None and entry[0] < progress.start:
        return f" (best so far, but the weights it began with have {metric_text(key, progress.start)})"
    return " (best)"


def keep_last(run: Run, training: Training) -> str:
    """Keep the weights of the last epoch as the result of a run that chooses nothing; returns a line for the log."""
    epoch = result_epoch(run, training)
    save_weights(run, training, [BEST], epoch=epoch, selected_by=None, selected_on="none")
    return f"the last weights, after epoch {epoch}, are the result ({BEST}): nothing was held out and nothing chosen"


def save_weights(run: Run, training: Training, names: list[str], **note: Any) -> None:
    """Write the weights under several names, on the main process; `note`: what the files record besides the data."""
    for name in names if is_main() else []:
        save_checkpoint(run.folder / name, training.weights(), asdict(run.settings), note | {"data": run.data_record})


def result_epoch(run: Run, training: Training) -> int:
    """The epoch whose weights are the result of the run: the best epoch, or the last if nothing is chosen.

    Raises `InputError` if no epoch was validated.
    """
    if run.settings.select_on == "none":
        return training.progress.epoch
    if not training.progress.best:
        raise InputError(
            f"no epoch of {run.folder} was validated, so that none can be tested; train on to epoch "
            f"{run.settings.val_every} (--epochs), or end the run with --final_test false"
        )
    return int(training.progress.best[0][1])
