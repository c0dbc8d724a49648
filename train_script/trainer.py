"""The epochs of a run, read downwards: train, validate, choose, save; at the end the test metrics."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from istd.models import load_weights
from istd.train_script.optim import train_mode
from istd.train_script.run_folder import BEST, LAST, TEST, append_metrics, prune_checkpoints
from istd.train_script.run_record import data_digest
from istd.train_script.selection import keep_if_best, keep_last, result_epoch
from istd.train_script.signals import Interrupted
from istd.train_script.state import Progress, Run, Training, training_state
from istd.train_script.steps import StepResult, read_results, train_step
from istd.train_script.tensorboard import EPOCH_LOSS
from istd.train_script.validation import evaluate_sets, recalibrated
from istd.utils.checkpoint import save_checkpoint
from istd.utils.distributed import all_reduce_max
from istd.utils.files import write_json
from istd.utils.metrics.tables import metrics_line
from istd.utils.ranks import barrier, is_main

SECONDS_BETWEEN_SAVES = 300


def run_epochs(run: Run, training: Training) -> None:
    """Train the epochs that are left, then evaluate on the test set. Raises `Interrupted` with everything saved."""
    while training.progress.epoch < run.settings.epochs:
        train_one_epoch(run, training)
        finish_epoch(run, training)
    if run.settings.select_on == "none":
        with recalibrated(run, training):
            run.log(keep_last(run, training))
    best = training.progress.best
    if best and best[0][0] <= 0:
        run.log(
            f"warning: {run.select_by} was zero or undefined in every validated epoch, which chooses nothing: {BEST} "
            "holds the weights of the last of these epochs"
        )
    if run.settings.final_test:
        report = run.folder / TEST
        # a run may be continued after its test
        measured = json.loads(report.read_text()).get("epoch") if report.exists() else None
        if result_epoch(run, training) != measured:
            evaluate_test(run, training, report)


def train_one_epoch(run: Run, training: Training) -> None:
    """Train to the end of the current epoch; checkpoint_last.pth is saved every `save_steps` and at the end.

    On a GPU the losses of several steps are read, and checked, together: nothing is saved before that.
    """
    progress, settings, steps = training.progress, run.settings, run.batches.steps
    train_mode(training.network)
    run.batches.start(progress.epoch, progress.step)
    run.train_loader.dataset.set_epoch(progress.epoch)
    micro_batches = iter(run.train_loader)
    every = steps_between_reads(run.device)
    unread: list[StepResult] = []
    saved = since = time.perf_counter()
    title = f"epoch {progress.epoch + 1}/{settings.epochs}"
    hidden = None if is_main() else True  # None: where there is no terminal
    with tqdm(total=steps, initial=progress.step, desc=title, unit="step", leave=False, disable=hidden) as bar:
        while progress.step < steps:
            unread.append(train_step(run, training, micro_batches))
            progress.step += 1
            bar.update()
            save = progress.step == steps or (settings.save_steps and progress.step % settings.save_steps == 0)
            if progress.step % every and not save:
                continue
            read_results(run, training, unread)
            unread.clear()
            progress.train_seconds += (now := time.perf_counter()) - since
            since = now
            bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.4f}", refresh=False)
            signum = all_reduce_max(run.stop.signum, run.device)
            if signum or save or (settings.save_steps is None and now - saved > SECONDS_BETWEEN_SAVES):
                save_progress(run, training)
                saved = time.perf_counter()
            if signum:
                raise Interrupted(signum)


def steps_between_reads(device: torch.device) -> int:
    """The number of steps whose losses are read together: on a GPU the host has to wait for them."""
    return 1 if device.type == "cpu" else 10


def finish_epoch(run: Run, training: Training) -> None:
    """After the last step of an epoch: validate, keep the best weights, write metrics.jsonl, and move on."""
    progress, settings = training.progress, run.settings
    row, line = describe_epoch(run, progress)
    epoch = row["epoch"]
    progress.seconds += progress.train_seconds
    if settings.select_on == "none":
        row["selected_on"] = "none"
    elif epoch == settings.epochs or epoch % settings.val_every == 0:
        line += validate(run, training, row)
    if run.writer:
        run.writer.add_scalar(EPOCH_LOSS, row["loss"], row["step"])
    row["minutes"] = round(progress.seconds / 60, 3)
    progress.epoch, progress.step = epoch, 0
    progress.loss_sum = progress.train_seconds = progress.data_seconds = 0.0
    if is_main():
        append_metrics(run.folder, row)
    run.log(line)
    save_progress(run, training)
    if is_main():
        prune_checkpoints(run.folder, run.select_by, progress.best)


def describe_epoch(run: Run, progress: Progress) -> tuple[dict[str, Any], str]:
    """The row of metrics.jsonl, and the line of the log, for the training of an epoch."""
    epoch, steps, settings = progress.epoch + 1, run.batches.steps, run.settings
    row = {
        "epoch": epoch,
        "step": epoch * steps,
        "data": data_digest(run.data_record),
        "loss": progress.loss_sum / steps,
        "lr": run.schedule(settings.lr, epoch * steps - 1),
        "train_seconds": round(progress.train_seconds, 2),
        "samples_per_second": round(steps * settings.batch_size / progress.train_seconds, 2),
        "data_share": round(progress.data_seconds / progress.train_seconds, 3),  # of the time, waiting for data
    }
    line = f"epoch {epoch}/{settings.epochs}: loss {row['loss']:.4f}, {progress.train_seconds:.0f} s"
    if run.device.type == "cuda":
        row |= {"gpu": torch.cuda.get_device_name(run.device)}
        row |= {"gpu_peak_mb": round(torch.cuda.max_memory_reserved(run.device) / 1e6)}
        line += f" ({row['samples_per_second']:.0f} samples/s, {row['data_share']:.0%} of the time waiting for data, "
        line += f"peak GPU memory {row['gpu_peak_mb']} MB)"
    return row, line


def validate(run: Run, training: Training, row: dict[str, Any]) -> str:
    """Validate, keep the best weights, and add the metrics to the `row` of the epoch; returns text for the log."""
    since = time.perf_counter()
    with recalibrated(run, training):
        metrics, by_dataset, loss = evaluate_sets(run, training, run.val_loaders, "val", row["step"], run.settings.amp)
        seconds = time.perf_counter() - since
        training.progress.seconds += seconds
        row |= {"val_seconds": round(seconds, 2), "protocol": run.protocol, "selected_on": run.settings.select_on}
        row |= {"val_loss": loss, "val": metrics}
        line = ""
        if len(by_dataset) > 1:
            row |= {"val_by_dataset": by_dataset}
            line = "".join(f"\n  {name}: {metrics_line(values)}" for name, values in by_dataset.items()) + "\n  mean"
        line += f"; validation ({run.settings.select_on}, {run.protocol}): {metrics_line(metrics)}, {seconds:.0f} s"
        line += keep_if_best(run, training, metrics[run.select_by], row["epoch"])
    row["best_epoch"] = result_epoch(run, training)
    return line


def validate_start(run: Run, training: Training) -> None:
    """Log the metrics of the weights that a run starts from, with which its epochs are compared."""
    if not run.val_loaders:
        return
    step = training.progress.epoch * run.batches.steps
    try:
        with recalibrated(run, training):
            metrics = evaluate_sets(run, training, run.val_loaders, "val", step, run.settings.amp).metrics
    except Interrupted:
        save_progress(run, training)
        raise
    training.progress.start = metrics[run.select_by]
    run.log(f"before the first epoch: validation ({run.settings.select_on}, {run.protocol}): {metrics_line(metrics)}")


def evaluate_test(run: Run, training: Training, report: Path) -> None:
    """Evaluate the weights that are the result of the run on the test set, and write test.json.

    In float32, as `test_script.inference` does by default, whatever the mixed precision of training and validation.
    """
    settings, epoch = run.settings, result_epoch(run, training)
    barrier()  # checkpoint_best.pth has been written
    load_weights(training.weights(), run.folder / BEST)
    since = time.perf_counter()
    step = settings.epochs * run.batches.steps
    metrics, by_dataset, _ = evaluate_sets(run, training, run.test_loaders, "test", step, amp="none")
    run.log(
        f"test set ({run.protocol}), weights of epoch {epoch}: {metrics_line(metrics)}, "
        f"{time.perf_counter() - since:.0f} s; "
        + {
            "test": "that epoch was chosen on the same images, as in the published recipe, so that they are optimistic",
            "holdout": "the test set was not used before",
            "none": "these are the last weights, nothing was held out or chosen, and the test set was not used before",
        }[settings.select_on]
    )
    if is_main():
        content = {"by_dataset": by_dataset} if len(by_dataset) > 1 else {}
        by = run.select_by if settings.select_on != "none" else None
        score = training.progress.best[0][0] if training.progress.best else None
        content |= {"data": run.data_record, "epoch": epoch, "selected_by": by, "selected_on": settings.select_on}
        write_json(report, content | {"val_score": score, "protocol": run.protocol, "metrics": metrics})


def save_progress(run: Run, training: Training) -> None:
    """Write checkpoint_last.pth, on the main process; killed at any moment, the file is complete, old or new."""
    if is_main():
        state = training_state(training) | {"data": run.data_record}
        save_checkpoint(run.folder / LAST, training.weights(), asdict(run.settings), state)
