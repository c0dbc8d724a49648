"""One epoch of training, and one pass of validation."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from train_script.data import EpochBatches
from train_script.losses import total_loss
from train_script.optim import set_learning_rates
from train_script.settings import Settings
from train_script.state import Training
from utils.distributed import gather_objects, is_main
from utils.errors import InputError


def choose_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The number format of mixed precision, or None for float32. auto: bf16 where the processor computes fast in it."""
    if name == "auto":
        fast = {
            "cuda": lambda: torch.cuda.get_device_capability(device) >= (8, 0),
            "cpu": torch.cpu._is_amx_tile_supported,
        }.get(device.type)
        return torch.bfloat16 if fast and fast() else None
    if name == "fp16" and device.type != "cuda":
        raise InputError("amp fp16 needs a CUDA GPU for its loss scaling; use --amp bf16, auto or none")
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision in `dtype`, or nothing."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def train_one_epoch(
    training: Training,
    loader: Iterable,
    batches: EpochBatches,
    schedule: Callable[[float, int], float],
    settings: Settings,
    device: torch.device,
    amp: torch.dtype | None,
    after_step: Callable[[float, float], None],
) -> None:
    """Train through the rest of the current epoch, from `training.position.step` on.

    `after_step(loss, gradient_norm)` is called once a step, with the position moved on; it may raise to end training.
    Raises `InputError` for a loss or gradient that is not finite, before it reaches the weights.
    """
    position = training.position
    training.model.train()
    batches.start(position.epoch, position.step)
    loader.dataset.set_epoch(position.epoch)
    parts = iter(loader)
    bar = tqdm(
        total=batches.steps,
        initial=position.step,
        desc=f"epoch {position.epoch + 1}/{settings.epochs}",
        unit="step",
        leave=False,
        disable=None if is_main() else True,
    )
    with bar:
        for step in range(position.step, batches.steps):
            global_step = position.epoch * batches.steps + step
            set_learning_rates(training.optimizer, schedule, global_step)
            loss, norm, names = accumulate_gradients(training, parts, global_step, settings, device, amp)
            if not math.isfinite(loss) or (amp != torch.float16 and not math.isfinite(norm)):
                raise InputError(describe_failure(position.epoch, step, loss, norm, names))
            training.scaler.step(training.optimizer)
            training.scaler.update()
            training.optimizer.zero_grad(set_to_none=True)
            if training.averaged:
                training.averaged.update(training.network)
            position.step = step + 1
            position.loss_sum += loss
            bar.update()
            bar.set_postfix(loss=f"{position.loss_sum / position.step:.4f}", refresh=False)
            after_step(loss, norm)


def accumulate_gradients(
    training: Training,
    parts: Iterator,
    global_step: int,
    settings: Settings,
    device: torch.device,
    amp: torch.dtype | None,
) -> tuple[float, float, list[str]]:
    """Forward and backward over a step's parts; (loss, norm of the gradients before clipping, names of the samples)."""
    step_loss, names = 0.0, []
    for part in range(settings.accumulate):
        batch = next(parts)
        names += [f"{sequence}/{frame}" for sequence, frame in zip(batch.sequence, batch.frame, strict=True)]
        clip, mask = batch.clip.to(device, non_blocking=True), batch.mask.to(device, non_blocking=True)
        # The same on every process; see SyncedStochasticDepth.
        torch.manual_seed((settings.seed * 1_000_003 + global_step) * settings.accumulate + part)
        last = part == settings.accumulate - 1
        waits = isinstance(training.model, DistributedDataParallel) and not last
        with training.model.no_sync() if waits else nullcontext():
            with autocast(device, amp):
                outputs = training.model(clip, with_aux=True) if settings.aux_weight else [training.model(clip)]
            loss = total_loss(settings.loss, outputs, mask, settings.aux_weight, settings.accumulate)
            training.scaler.scale(loss).backward()
        step_loss += loss.item()
    training.scaler.unscale_(training.optimizer)
    norm = nn.utils.clip_grad_norm_(training.network.parameters(), settings.clip_norm or math.inf)
    return step_loss, norm.item(), names


def describe_failure(epoch: int, step: int, loss: float, norm: float, names: list[str]) -> str:
    """What to tell of a loss or gradient that is not finite. Called on all processes together."""
    everyone = [name for part in gather_objects(names) for name in part]
    return (
        f"epoch {epoch + 1}, step {step + 1}: loss {loss}, gradient norm {norm}, expected finite numbers; the samples "
        f"were {', '.join(everyone)}; look at them, or lower lr, or use --amp none; the last good checkpoint is kept"
    )


@torch.no_grad()
def predict_scores(
    model: nn.Module,
    clip: torch.Tensor,
    size: tuple[int, int],
    flip: bool = False,
    as_logits: bool = False,
    amp: torch.dtype | None = None,
) -> torch.Tensor:
    """Scores [B, 1, *size] of clips [B, T, C, H, W], float32: probabilities, or logits with `as_logits`.

    Logits are resized (bilinear) to `size`, that of the masks. With `flip` the score is the mean of it and that of the
    mirrored frame.
    """
    scores = []
    for mirrored in (False, True) if flip else (False,):
        with autocast(clip.device, amp):
            logits = model(clip.flip(-1) if mirrored else clip).float()
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        logits = logits.flip(-1) if mirrored else logits
        scores.append(logits if as_logits else logits.sigmoid())
    return torch.stack(scores).mean(0)


def validate(
    model: nn.Module,
    loader: Iterable,
    observers: list,
    device: torch.device,
    amp: torch.dtype | None,
    flip: bool,
    as_logits: bool,
    check_stop: Callable[[], None],
) -> None:
    """Show every observer the scores and mask of this process's validation frames.

    An observer has `update(score, mask, sequence, frame)` for one frame: metrics, curves, example images.
    """
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc="validation", unit="batch", leave=False, disable=None if is_main() else True):
        check_stop()
        clip = batch.clip.to(device, non_blocking=True)
        scores = predict_scores(model, clip, tuple(batch.mask.shape[-2:]), flip, as_logits, amp).cpu()
        for index, (sequence, frame) in enumerate(zip(batch.sequence, batch.frame, strict=True)):
            for observer in observers:
                observer.update(scores[index, 0], batch.mask[index, 0], sequence, frame)
    model.train(was_training)
