"""Optimiser, parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable

import torch
from torch import nn

from istd.train_script.settings import Settings

STEP_FACTOR = 0.1  # multi_step: of the rate at each milestone
RESTART_EPOCHS = 10  # cosine_restarts: from restart to restart
RESTART_END = 1e-7  # cosine_restarts: rate before a restart
ONE_CYCLE_RISE = 0.3  # share of the steps in which the rate rises
ONE_CYCLE_START = 1 / 25  # first rate over the highest
ONE_CYCLE_END = 1e-4  # last rate over the first


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam or AdamW with the encoder's non-fusion parameters at `lr_backbone` and all others at `lr`.

    Every group carries its full learning rate as `base_lr`; `set_learning_rates` derives `lr` from it.
    """
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rates = {"main": settings.lr, "backbone": settings.lr_backbone}
    groups = {name: {"name": name, "params": [], "lr": lr, "base_lr": lr} for name, lr in rates.items()}
    for parameter in parameters:
        groups["backbone" if id(parameter) in backbone else "main"]["params"].append(parameter)
    groups = [group for group in groups.values() if group["params"]]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    fused = {parameter.device.type for parameter in parameters} <= {"cpu", "cuda"}  # one pass over the weights, not ten
    return kind(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def build_schedule(settings: Settings, steps_per_epoch: int) -> Callable[[float, int], float]:
    """A function (base learning rate, step) -> learning rate of that step, counted from 0 over all epochs.

    A pure function of the step: there is no state to save, and a resumed run has the rates of an uninterrupted one.
    """

    def rate(base: float, step: int) -> float:
        epoch = step // steps_per_epoch
        if settings.schedule == "multi_step":
            return base * STEP_FACTOR ** sum(epoch >= milestone for milestone in settings.milestones)
        if settings.schedule == "cosine_restarts":
            return cosine(base, RESTART_END, epoch % RESTART_EPOCHS / RESTART_EPOCHS)
        if settings.schedule == "one_cycle":
            last = max(settings.epochs * steps_per_epoch - 1, 1)
            peak = ONE_CYCLE_RISE * (last + 1) - 1
            if step <= peak:
                return cosine(base * ONE_CYCLE_START, base, step / peak)
            return cosine(base, base * ONE_CYCLE_START * ONE_CYCLE_END, min(1.0, (step - peak) / (last - peak)))
        return base

    return rate


def cosine(start: float, end: float, position: float) -> float:
    """From `start` (position 0) to `end` (position 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: Callable[[float, int], float], step: int) -> None:
    """Give every parameter group the learning rate of `step`."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["base_lr"], step)
