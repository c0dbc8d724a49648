"""The epochs of a run: train, validate, choose, save; at the end the test metrics."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from datasets import Sequence
from models import load_weights
from train_script.data import EpochBatches
from train_script.engine import train_one_epoch, validate
from train_script.interruption import Interrupted, StopSignal
from train_script.run_folder import BEST, Log, append_metrics, prune_checkpoints, save_best, save_last
from train_script.settings import Settings
from train_script.state import Training, training_state
from train_script.tensorboard import ExampleImages, PixelHistogram
from utils.distributed import all_reduce_max, barrier, gather_objects, is_main
from utils.files import atomic_path
from utils.metrics import PROTOCOLS, build_metric

STEPS_BETWEEN_POINTS = 10  # of the TensorBoard curves of loss, learning rate and gradient norm
SHOWN_METRICS = ("iou", "niou", "pd", "fa", "f1")


class MeasuredSet(NamedTuple):
    """What is measured of one dataset: its sequences, and a loader of the frames that this process measures."""

    name: str
    sequences: list[Sequence]
    loader: DataLoader


@dataclass(frozen=True)
class Run:
    """What stays as it is while a run trains."""

    settings: Settings
    folder: Path
    device: torch.device
    amp: torch.dtype | None
    protocol: str
    select_by: str
    train_loader: DataLoader
    batches: EpochBatches
    val_sets: list[MeasuredSet]
    test_sets: list[MeasuredSet]
    schedule: Callable[[float, int], float]
    log: Log
    stop: StopSignal
    writer: Any  # a SummaryWriter, or None


def run_epochs(run: Run, training: Training) -> None:
    """Train the epochs that are left, then measure the test set. Raises `Interrupted` with everything saved."""
    while training.position.epoch < run.settings.epochs:
        run_one_epoch(run, training)
    report = run.folder / "test.json"
    if run.settings.final_test and not report.exists():
        measure_test(run, training, report)


def run_one_epoch(run: Run, training: Training) -> None:
    """Train to the end of the current epoch, validate, keep what is best, and move on."""
    position, settings = training.position, run.settings
    since = time.perf_counter()

    def after_step(loss: float, norm: float) -> None:
        nonlocal since
        now = time.perf_counter()
        position.train_seconds += now - since
        since = now
        write_points(run, training, loss, norm)
        signum = all_reduce_max(run.stop.signum, run.device)
        if signum or position.step % settings.save_steps == 0 or position.step == run.batches.steps:
            save_position(run, training)
        if signum:
            raise Interrupted(signum)

    if position.step < run.batches.steps:
        train_one_epoch(
            training, run.train_loader, run.batches, run.schedule, settings, run.device, run.amp, after_step
        )
    epoch = position.epoch + 1
    row = {
        "epoch": epoch,
        "step": epoch * run.batches.steps,
        "loss": position.loss_sum / run.batches.steps,
        "lr": run.schedule(settings.lr, epoch * run.batches.steps - 1),
        "train_seconds": round(position.train_seconds, 2),
    }
    position.seconds += position.train_seconds
    line = f"epoch {epoch}/{settings.epochs}: loss {row['loss']:.4f}, {position.train_seconds:.0f} s"
    if epoch % settings.val_every == 0 or epoch == settings.epochs:
        since = time.perf_counter()
        metrics, by_dataset = measure_sets(run, training, run.val_sets, "val", row["step"])
        seconds = time.perf_counter() - since
        position.seconds += seconds
        row |= {"val_seconds": round(seconds, 2), "protocol": run.protocol, "selected_on": settings.select_on}
        row |= {"val": metrics}
        if len(by_dataset) > 1:
            row |= {"val_by_dataset": by_dataset}
            line += "".join(f"\n  {name}: {format_metrics(one)}" for name, one in by_dataset.items()) + "\n  mean"
        line += f"; validation ({settings.select_on}, {run.protocol}): {format_metrics(metrics)}, {seconds:.0f} s"
        line += keep_if_best(run, training, metrics[run.select_by], epoch)
    row["minutes"] = round(position.seconds / 60, 3)
    position.epoch, position.step, position.loss_sum, position.train_seconds = epoch, 0, 0.0, 0.0
    if is_main():
        append_metrics(run.folder, row)
    run.log(line)
    save_position(run, training)
    if is_main():
        prune_checkpoints(run.folder, run.select_by, position.best)


def save_position(run: Run, training: Training) -> None:
    """Write checkpoint_last.pth, on the main process."""
    if is_main():
        save_last(run.folder, training.weights(), asdict(run.settings), training_state(training))


def keep_if_best(run: Run, training: Training, score: float | None, epoch: int) -> str:
    """Keep the weights if their score is among the best; ' (best)' for the log if it is the best."""
    position = training.position
    entry = [-1.0 if score is None else float(score), epoch]  # undefined metrics lose to all others
    position.best = sorted([*position.best, entry], key=lambda kept: (-kept[0], kept[1]))[: run.settings.keep_best]
    if is_main():
        save_best(run.folder, training.weights(), asdict(run.settings), run.select_by, position.best, epoch)
    return " (best)" if position.best[0] == entry else ""


def measure_sets(
    run: Run, training: Training, sets: list[MeasuredSet], tag: str, step: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Metrics of the network: their mean over the datasets, and those of each dataset."""
    by_dataset = {
        part.name: measure(run, training, part, tag if len(sets) == 1 else f"{tag}/{part.name}", step) for part in sets
    }
    mean = {}
    for name in next(iter(by_dataset.values())):
        values = [one[name] for one in by_dataset.values() if one[name] is not None]
        mean[name] = sum(values) / len(values) if values else None
    return mean, by_dataset


def measure(run: Run, training: Training, part: MeasuredSet, tag: str, step: int) -> dict[str, Any]:
    """Metrics of the network over the frames of one dataset, shared between the processes, known to all."""
    as_logits = PROTOCOLS[run.protocol].scale == "logit"
    mergeable = [build_metric(run.protocol)]
    if run.settings.tensorboard:
        mergeable.append(PixelHistogram(as_logits))
    examples = [ExampleImages(part.sequences, as_logits)] if run.writer else []
    validate(
        training.weights(),
        part.loader,
        [*mergeable, *examples],
        run.device,
        run.amp,
        run.settings.val_flip,
        as_logits,
        run.stop.check,
    )
    shares = gather_objects(mergeable)
    for share in shares[1:]:
        for whole, other in zip(shares[0], share, strict=True):
            whole.merge(other)
    metrics = {
        name: None if value is None or math.isnan(value) else value for name, value in shares[0][0].compute().items()
    }
    if run.writer:
        for name, value in metrics.items():
            if value is not None:
                run.writer.add_scalar(f"{tag}/{name}", value, step)
        shares[0][1].write(run.writer, f"{tag}/pixel precision-recall", step)
        examples[0].write(run.writer, f"{tag}/mask green, prediction red", step)
        run.writer.flush()
    return metrics


def measure_test(run: Run, training: Training, report: Path) -> None:
    """Measure the kept weights on the whole test set, once, and write test.json."""
    score, epoch = training.position.best[0]
    barrier()  # checkpoint_best.pth has been written
    load_weights(training.weights(), run.folder / BEST)
    since = time.perf_counter()
    step = run.settings.epochs * run.batches.steps
    metrics, by_dataset = measure_sets(run, training, run.test_sets, "test", step)
    run.log(
        f"test set ({run.protocol}), weights of epoch {int(epoch)}: {format_metrics(metrics)}, "
        f"{time.perf_counter() - since:.0f} s; "
        + (
            "that epoch was chosen on the same images, as the published recipe does: the metrics flatter"
            if run.settings.select_on == "test"
            else "the test set was not used before"
        )
    )
    if is_main():
        note = {"by_dataset": by_dataset} if len(by_dataset) > 1 else {}
        note |= {"epoch": int(epoch), "selected_by": run.select_by, "selected_on": run.settings.select_on}
        with atomic_path(report) as temporary:
            text = json.dumps(note | {"val_score": score, "protocol": run.protocol, "metrics": metrics}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")


def write_points(run: Run, training: Training, loss: float, norm: float) -> None:
    """TensorBoard points of a step, every few steps."""
    position = training.position
    if run.writer and position.step % STEPS_BETWEEN_POINTS == 0:
        step = position.epoch * run.batches.steps + position.step
        run.writer.add_scalar("train/loss", loss, step)
        run.writer.add_scalar("train/gradient norm", norm, step)
        for group in training.optimizer.param_groups:
            run.writer.add_scalar(f"train/learning rate {group['name']}", group["lr"], step)


def format_metrics(metrics: dict[str, Any]) -> str:
    """The main metrics in one line; '-' where undefined."""
    texts = []
    for name in SHOWN_METRICS:
        if name in metrics:
            value = metrics[name]
            if value is None:
                texts.append(f"{name} -")
            elif name == "fa":
                texts.append(f"fa {value * 1e6:.1f}e-6")
            else:
                texts.append(f"{name} {value:.4f}")
    return ", ".join(texts)
