"""The epochs of a run, read downwards: train, validate, choose, save; at the end the test metrics."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from istd.datasets import ClipDataset
from istd.models import load_weights
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.tiling import pad_to_multiple
from istd.train_script.data import EpochBatches, EvaluatedSet, evenly, stop_loading
from istd.train_script.data_parallel import seed_draws
from istd.train_script.losses import LOSSES, MAIN, LossProgress, total_loss
from istd.train_script.norm_statistics import estimate_statistics, kept_statistics
from istd.train_script.optim import set_learning_rates, train_mode
from istd.train_script.run_folder import BEST, Log, append_metrics, prune_checkpoints, save_best, save_last, save_result
from istd.train_script.run_record import data_digest
from istd.train_script.settings import Settings
from istd.train_script.state import Interrupted, StopSignal, Training, training_state
from istd.train_script.tensorboard import EPOCH_LOSS, EXAMPLE_TAG, ExampleImages, PixelHistogram
from istd.utils.device import autocast
from istd.utils.distributed import all_reduce_max, barrier, gather_objects, is_main
from istd.utils.errors import InputError
from istd.utils.files import json_ready, write_json
from istd.utils.metrics import PROTOCOLS, build_metric
from istd.utils.metrics.accumulator import mean_metrics
from istd.utils.metrics.tables import metric_text, metrics_line

UNDEFINED = -1.0  # the score of an epoch whose metric is undefined, which loses to all others
MAX_SKIPPED_STEPS = 30  # in a row; the loss scale, 65536 at first, is halved in each
STEPS_BETWEEN_POINTS = 10  # of the TensorBoard curves of loss, learning rate and gradient norm
SECONDS_BETWEEN_SAVES = 300


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
    data_record: list[dict[str, Any]]  # the data by name and fingerprint
    val_sets: list[EvaluatedSet]
    test_sets: list[EvaluatedSet]
    norm_sets: list[ClipDataset]  # whole training images for batch-norm statistics; none: those of training stay
    schedule: Callable[[float, int], float]
    log: Log
    stop: StopSignal
    writer: Any  # a SummaryWriter, or None
    predictors: dict[str, Predictor] = field(default_factory=dict)  # by mixed precision; they keep their CUDA graphs


class StepResult(NamedTuple):
    """What a step leaves, on the device."""

    step: int  # of the epoch, from 1
    numbers: torch.Tensor  # [2]: loss, and norm of the gradients before clipping
    names: list[str]  # of this process's samples


def run_epochs(run: Run, training: Training) -> None:
    """Train the epochs that are left, then evaluate on the test set. Raises `Interrupted` with everything saved."""
    while training.progress.epoch < run.settings.epochs:
        train_one_epoch(run, training)
        finish_epoch(run, training)
    progress = training.progress
    if progress.best and progress.best[0][0] <= 0:
        run.log(
            f"warning: {run.select_by} was zero or undefined in every validated epoch, which chooses nothing: {BEST} "
            "holds the weights of the last of them"
        )
    report = run.folder / "test.json"
    if not run.settings.final_test:
        return
    if run.settings.select_on != "none" and not training.progress.best:
        raise InputError(
            f"no epoch of {run.folder} was validated, so that none can be tested; train on to epoch "
            f"{run.settings.val_every} (--epochs), or end the run with --final_test false"
        )
    if measured_epoch(report) != result_epoch(run, training):
        evaluate_test(run, training, report)


def result_epoch(run: Run, training: Training) -> int:
    """The epoch whose weights are the result of the run: the best one, or the last where none is chosen."""
    return run.settings.epochs if run.settings.select_on == "none" else int(training.progress.best[0][1])


def measured_epoch(report: Path) -> int | None:
    """The epoch whose weights test.json was measured with, if there is one; a run may go on after its test."""
    return json.loads(report.read_text()).get("epoch") if report.exists() else None


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
    """After how many steps their losses are read: on a GPU the host waits until it has computed them."""
    return 1 if device.type == "cpu" else 10


def read_results(run: Run, training: Training, results: list[StepResult]) -> None:
    """Add the losses of steps to the epoch's; the one place of a step where the host waits for a GPU.

    Raises `InputError` for a loss or gradient norm that is not finite, the first one.
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
    """Take a step that fp16 skipped out of the average's count; `InputError` after MAX_SKIPPED_STEPS in a row."""
    training.skipped_steps = training.skipped_steps + 1 if skipped else 0
    if skipped and training.ema:
        training.ema_updates -= 1
    if training.skipped_steps == MAX_SKIPPED_STEPS:
        raise InputError(
            f"epoch {training.progress.epoch + 1}, step {step}: the gradients of {MAX_SKIPPED_STEPS} steps in a row "
            "were not finite in fp16, at ever smaller loss scales, so that nothing is trained; use --amp bf16 or none"
        )


def train_step(run: Run, training: Training, micro_batches: Iterator) -> StepResult:
    """One step of the optimiser, in which the host does not wait for the device.

    In fp16 the scaler skips steps whose gradients are not finite, and the average of the weights stays as it is, too.
    """
    progress = training.progress
    global_step = progress.epoch * run.batches.steps + progress.step
    set_learning_rates(training.optimizer, run.schedule, global_step)
    result = accumulate_gradients(run, training, micro_batches, global_step)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.ema:
        taken = result.numbers[1].isfinite() if training.scaler.is_enabled() else None
        training.ema.update(training.ema_updates, taken)
        training.ema_updates += 1  # less those skipped, which `count_skipped` learns later
    return result


def accumulate_gradients(run: Run, training: Training, micro_batches: Iterator, global_step: int) -> StepResult:
    """Forward and backward over a step's batch, and clipping."""
    settings, progress = run.settings, training.progress
    step_loss, names = 0.0, []
    weights = settings.output_weights
    state = LossProgress(progress.epoch, global_step, settings.epochs, run.batches.steps, weights, settings.aux_weight)
    counts = settings.aux_weight or any(weight for name, weight in weights.items() if name != MAIN)
    with_aux = bool(counts) or LOSSES[settings.loss].all_outputs
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
            outputs = training.model(batch["clip"], with_aux=True) if with_aux else training.model(batch["clip"])
        loss = total_loss(settings.loss, outputs, batch, state, settings.loss_options, settings.accumulate)
        training.scaler.scale(loss).backward()
        step_loss = step_loss + loss.detach()
    if training.average:
        training.average(progress.epoch)
    training.scaler.unscale_(training.optimizer)
    norm = nn.utils.clip_grad_norm_(training.network.parameters(), settings.clip_norm or math.inf)
    return StepResult(progress.step + 1, torch.stack([step_loss.to(norm.dtype), norm]), names)


def finish_epoch(run: Run, training: Training) -> None:
    """After the last step of an epoch: validate, keep what is best, write metrics.jsonl, and move on."""
    progress, settings = training.progress, run.settings
    epoch = progress.epoch + 1
    row = {
        "epoch": epoch,
        "step": epoch * run.batches.steps,
        "data": data_digest(run.data_record),
        "loss": progress.loss_sum / run.batches.steps,
        "lr": run.schedule(settings.lr, epoch * run.batches.steps - 1),
        "train_seconds": round(progress.train_seconds, 2),
        "samples_per_second": round(run.batches.steps * settings.batch_size / progress.train_seconds, 2),
        "data_share": round(progress.data_seconds / progress.train_seconds, 3),  # of the time, waiting for data
    }
    progress.seconds += progress.train_seconds
    line = f"epoch {epoch}/{settings.epochs}: loss {row['loss']:.4f}, {progress.train_seconds:.0f} s"
    if run.device.type == "cuda":
        row |= {"gpu": torch.cuda.get_device_name(run.device)}
        row |= {"gpu_peak_mb": round(torch.cuda.max_memory_reserved(run.device) / 1e6)}
        line += f" ({row['samples_per_second']:.0f} samples/s, {row['data_share']:.0%} of the time waiting for data, "
        line += f"peak GPU memory {row['gpu_peak_mb']} MB)"
    last = epoch == settings.epochs
    if settings.select_on == "none":
        row |= {"selected_on": "none"}
        if last:
            line += keep_last(run, training, epoch)
    elif last or epoch % settings.val_every == 0:
        line += validate(run, training, epoch, row)
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


def validate_start(run: Run, training: Training) -> None:
    """Log the metrics of the weights that a run starts from; what it makes of them is measured against these."""
    if not run.val_sets:
        return
    step = training.progress.epoch * run.batches.steps
    try:
        with recalibrated(run, training):
            metrics, _ = evaluate_sets(run, training, run.val_sets, "val", step, run.settings.amp)
    except Interrupted:
        save_progress(run, training)
        raise
    training.progress.start = metrics[run.select_by]
    run.log(f"before the first epoch: validation ({run.settings.select_on}, {run.protocol}): {metrics_line(metrics)}")


def validate(run: Run, training: Training, epoch: int, row: dict[str, Any]) -> str:
    """Validate and keep what is best; what the log says of it. The metrics are added to `row`."""
    since = time.perf_counter()
    with recalibrated(run, training):
        metrics, by_dataset = evaluate_sets(run, training, run.val_sets, "val", row["step"], run.settings.amp)
        seconds = time.perf_counter() - since
        training.progress.seconds += seconds
        row |= {"val_seconds": round(seconds, 2), "protocol": run.protocol, "selected_on": run.settings.select_on}
        row |= {"val": metrics}
        line = ""
        if len(by_dataset) > 1:
            row |= {"val_by_dataset": by_dataset}
            line = "".join(f"\n  {name}: {metrics_line(values)}" for name, values in by_dataset.items()) + "\n  mean"
        line += f"; validation ({run.settings.select_on}, {run.protocol}): {metrics_line(metrics)}, {seconds:.0f} s"
        line += keep_if_best(run, training, metrics[run.select_by], epoch)
        row["best_epoch"] = int(training.progress.best[0][1])
        return line


def keep_last(run: Run, training: Training, epoch: int) -> str:
    """Keep the weights of the last epoch as the result of a run that chooses nothing; what the log says of it."""
    with recalibrated(run, training):
        if is_main():
            save_result(run.folder, training.weights(), asdict(run.settings), epoch, run.data_record)
    return f"; saved as {BEST}: the last weights, nothing was held out and nothing chosen"


@contextmanager
def recalibrated(run: Run, training: Training) -> Iterator[None]:
    """The weights with batch-norm statistics of `norm_sets`, if there are any; training goes on with its own.

    Every process estimates them on all images, so that they are the same.
    """
    if not run.norm_sets:
        yield
        return
    network = training.weights()
    with kept_statistics(network):
        with autocast(run.device, run.amp):
            estimate_statistics(network, norm_batches(run, network.size_multiple))
        yield


def norm_batches(run: Run, multiple: int) -> Iterator[torch.Tensor]:
    """Clips of `norm_sets` on the device, those of equal size in batches as large as a training step's."""
    waiting: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for dataset in run.norm_sets:
        for item in evenly(len(dataset), run.settings.recalibrate_norm):
            clip = pad_to_multiple(dataset[item].clip[None], multiple)
            clips = waiting.setdefault(tuple(clip.shape), [])
            clips.append(clip)
            if len(clips) == run.settings.batch_size // run.settings.accumulate:
                yield torch.cat(waiting.pop(tuple(clip.shape))).to(run.device)
    for clips in waiting.values():
        yield torch.cat(clips).to(run.device)


def save_progress(run: Run, training: Training) -> None:
    """Write checkpoint_last.pth, on the main process."""
    if is_main():
        state = training_state(training) | {"data": run.data_record}
        save_last(run.folder, training.weights(), asdict(run.settings), state)


def keep_if_best(run: Run, training: Training, score: float | None, epoch: int) -> str:
    """Keep the weights if their score is among the best, of equal ones the later; what the log says of it.

    A score that is zero or undefined chooses nothing, which is said.
    """
    progress = training.progress
    entry = [UNDEFINED if score is None else float(score), epoch]
    progress.best.insert(sum(better > entry[0] for better, _ in progress.best), entry)
    del progress.best[run.settings.keep_best :]
    if is_main():
        settings = asdict(run.settings)
        save_best(run.folder, training.weights(), settings, run.select_by, progress.best, epoch, run.data_record)
    if progress.best[0] != entry:
        return ""
    if entry[0] <= 0:
        return f" (kept; {run.select_by} is {'undefined' if score is None else 'zero'} in every epoch so far)"
    worse = progress.start is not None and entry[0] < progress.start
    if worse:
        return f" (best so far, but the weights it began with have {metric_text(run.select_by, progress.start)})"
    return " (best)"


def evaluate_sets(
    run: Run, training: Training, sets: list[EvaluatedSet], tag: str, step: int, amp: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Metrics of the network: the mean of every metric over the datasets that define it, and those of each dataset."""
    by_dataset = {}
    for part in sets:
        name = part.dataset.dataset_name
        by_dataset[name] = evaluate(run, training, part, tag if len(sets) == 1 else f"{tag}/{name}", step, amp)
    return json_ready(mean_metrics(by_dataset.values())), json_ready(by_dataset)


def evaluate(
    run: Run, training: Training, part: EvaluatedSet, tag: str, step: int, amp: str
) -> dict[str, float | None]:
    """Metrics of the network over the frames of one dataset, shared between the processes, known to all."""
    as_logits = PROTOCOLS[run.protocol].scale == "logit"
    mergeable = [build_metric(run.protocol)]
    if run.settings.tensorboard:
        mergeable.append(PixelHistogram(as_logits))
    examples = [ExampleImages(part.dataset.sequences, as_logits)] if run.writer else []
    predictor = find_predictor(run, training, amp)
    try:
        for samples in tqdm(part.loader, desc=tag, unit="batch", leave=False, disable=None if is_main() else True):
            if run.stop.signum:
                break
            clips, sizes = zip(*((sample.clip, tuple(sample.mask.shape[-2:])) for sample in samples), strict=True)
            maps = predictor.score_maps(clips, sizes, probability=not as_logits, logit=as_logits)
            for sample, scores in zip(samples, maps, strict=True):
                score = torch.from_numpy(scores.logit if as_logits else scores.probability)
                for observer in [*mergeable, *examples]:
                    observer.update(score, sample.mask[0], sample.sequence, sample.frame)
    finally:
        stop_loading([part.loader])
    signals, shares = zip(*gather_objects((run.stop.signum, mergeable)), strict=True)
    if any(signals):  # on any process: all of them stop
        raise Interrupted(max(signals))
    for share in shares[1:]:
        for total, other in zip(shares[0], share, strict=True):
            total.merge(other)
    metrics = shares[0][0].compute()
    if run.writer:
        for name, value in json_ready(metrics).items():
            if value is not None:
                run.writer.add_scalar(f"{tag}/{name}", value, step)
        shares[0][1].write(run.writer, f"{tag}/pixel precision-recall", step)
        examples[0].write(run.writer, f"{tag}/{EXAMPLE_TAG}", step)
        run.writer.flush()
    return metrics


def find_predictor(run: Run, training: Training, amp: str) -> Predictor:
    """The predictor of the network, made when it is first asked for, in eval mode. Its clips come prepared."""
    if amp not in run.predictors:
        options = {"flip": run.settings.val_flip, "amp": amp, "batch_size": run.settings.val_batch_size}
        run.predictors[amp] = Predictor(training.weights(), torch.from_numpy, run.device, **options)
    training.weights().eval()
    return run.predictors[amp]


def evaluate_test(run: Run, training: Training, report: Path) -> None:
    """Evaluate the best weights, or those of the last epoch where none is chosen, on the test set, and write test.json.

    In float32, as `test_script.inference` does by default, whatever the mixed precision of training and validation.
    """
    epoch = result_epoch(run, training)
    score = training.progress.best[0][0] if training.progress.best else None
    barrier()  # checkpoint_best.pth has been written
    load_weights(training.weights(), run.folder / BEST)
    since = time.perf_counter()
    step = run.settings.epochs * run.batches.steps
    metrics, by_dataset = evaluate_sets(run, training, run.test_sets, "test", step, amp="none")
    run.log(
        f"test set ({run.protocol}), weights of epoch {epoch}: {metrics_line(metrics)}, "
        f"{time.perf_counter() - since:.0f} s; "
        + {
            "test": "that epoch was chosen on the same images, as in the published recipe, so that they are optimistic",
            "holdout": "the test set was not used before",
            "none": "these are the last weights, nothing was held out or chosen, and the test set was not used before",
        }[run.settings.select_on]
    )
    if is_main():
        note = {"by_dataset": by_dataset} if len(by_dataset) > 1 else {}
        by = run.select_by if run.settings.select_on != "none" else None
        note |= {"data": run.data_record, "epoch": epoch, "selected_by": by, "selected_on": run.settings.select_on}
        write_json(report, note | {"val_score": score, "protocol": run.protocol, "metrics": metrics})


def write_points(run: Run, training: Training, step: int, loss: float, norm: float) -> None:
    """TensorBoard points of a step of the epoch, every few steps."""
    if run.writer and step % STEPS_BETWEEN_POINTS == 0:
        global_step = training.progress.epoch * run.batches.steps + step
        run.writer.add_scalar("train/loss", loss, global_step)
        run.writer.add_scalar("train/gradient norm", norm, global_step)
        for group in training.optimizer.param_groups:
            rate = run.schedule(group["base_lr"], global_step - 1)
            run.writer.add_scalar(f"train/learning rate {group['name']}", rate, global_step)
