"""A step of the optimiser, and the reading of its loss, for which the host waits."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from istd.train_script.data_parallel import seed_draws
from istd.train_script.losses import LossProgress, needs_aux, total_loss
from istd.train_script.optim import set_learning_rates
from istd.train_script.state import Run, Training
from istd.utils.device import autocast
from istd.utils.distributed import gather_objects
from istd.utils.errors import InputError

MAX_SKIPPED_STEPS = 30  # in a row; each halves the loss scale, 65536 at first
STEPS_BETWEEN_POINTS = 10  # of the TensorBoard curves of loss, learning rate and gradient norm


class StepResult(NamedTuple):
    """The results of a step; `numbers` stay on the device."""

    step: int  # of the epoch, from 1
    numbers: torch.Tensor  # [2]: loss, and norm of the gradients before clipping
    names: list[str]  # of this process's samples


def train_step(run: Run, training: Training, micro_batches: Iterator) -> StepResult:
    """A step of the optimiser, in which the host does not wait for the device.

    In fp16 the scaler skips steps whose gradients are not finite, and the average of the weights stays as it is, too.
    """
    global_step = training.progress.epoch * run.batches.steps + training.progress.step
    set_learning_rates(training.optimizer, run.schedule, global_step)
    result = accumulate_gradients(run, training, micro_batches, global_step)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.ema:
        taken = result.numbers[1].isfinite() if training.scaler.is_enabled() else None
        training.ema.update(training.ema_updates, taken)
        training.ema_updates += 1  # `count_skipped` takes skipped steps out later
    return result


def accumulate_gradients(run: Run, training: Training, micro_batches: Iterator, global_step: int) -> StepResult:
    """Forward and backward over a step's batch, and clipping."""
    settings, progress = run.settings, training.progress
    step_loss, names = 0.0, []
    weights = settings.output_weights
    state = LossProgress(progress.epoch, global_step, settings.epochs, run.batches.steps, weights, settings.aux_weight)
    options = {"with_aux": True} if needs_aux(settings.loss, state) else {}
    for number in range(settings.accumulate):
        since = time.perf_counter()
        batch = next(micro_batches)
        progress.data_seconds += time.perf_counter() - since
        names += [f"{sequence}/{frame}" for sequence, frame in zip(batch["sequence"], batch["frame"], strict=True)]
        batch = {
            key: value.to(run.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }
        seed_draws((settings.seed * 1_000_003 + global_step) * settings.accumulate + number, run.device)
        with autocast(run.device, run.amp):
            outputs = training.model(batch["clip"], **options)
        loss = total_loss(settings.loss, outputs, batch, state, settings.loss_options, settings.accumulate)
        training.scaler.scale(loss).backward()
        step_loss = step_loss + loss.detach()
    if training.average:
        training.average(progress.epoch)
    training.scaler.unscale_(training.optimizer)
    norm = nn.utils.clip_grad_norm_(training.network.parameters(), settings.clip_norm or math.inf)
    return StepResult(progress.step + 1, torch.stack([step_loss.to(norm.dtype), norm]), names)


def read_results(run: Run, training: Training, results: list[StepResult]) -> None:
    """Add the losses of steps to the epoch's sum. Only here does the host wait for a GPU.

    Raises `InputError` for the first loss or gradient norm that is not finite.
    """
    progress = training.progress
    numbers = torch.stack([result.numbers for result in results]).tolist()
    for (step, _, names), (loss, norm) in zip(results, numbers, strict=True):
        if not math.isfinite(loss) or (run.amp != torch.float16 and not math.isfinite(norm)):
            everyone = [name for part in gather_objects(names) for name in part]
            raise InputError(
                f"epoch {progress.epoch + 1}, step {step}: loss {loss}, gradient norm {norm}, expected finite "
                f"numbers; the samples were {', '.join(everyone)}; look at them, or lower lr, or use --amp none; the "
                "last good checkpoint is kept"
            )
        progress.loss_sum += loss
        count_skipped(training, step, skipped=not math.isfinite(norm))
        write_points(run, training, step, loss, norm)


def count_skipped(training: Training, step: int, skipped: bool) -> None:
    """Do not count a step that fp16 skipped as an update of the EMA; `InputError` after MAX_SKIPPED_STEPS in a row."""
    training.skipped_steps = training.skipped_steps + 1 if skipped else 0
    if skipped and training.ema:
        training.ema_updates -= 1
    if training.skipped_steps == MAX_SKIPPED_STEPS:
        raise InputError(
            f"epoch {training.progress.epoch + 1}, step {step}: the gradients of {MAX_SKIPPED_STEPS} steps in a row "
            "were not finite in fp16, at ever smaller loss scales, so that nothing is trained; use --amp bf16 or none"
        )


def write_points(run: Run, training: Training, step: int, loss: float, norm: float) -> None:
    """TensorBoard points of a step of the epoch, every few steps."""
    if run.writer and step % STEPS_BETWEEN_POINTS == 0:
        global_step = training.progress.epoch * run.batches.steps + step
        run.writer.add_scalar("train/loss", loss, global_step)
        run.writer.add_scalar("train/gradient norm", norm, global_step)
        for group in training.optimizer.param_groups:
            rate = run.schedule(group["base_lr"], global_step - 1)
            run.writer.add_scalar(f"train/learning rate {group['name']}", rate, global_step)
