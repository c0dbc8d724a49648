"""Optimiser, parameter groups and learning-rate schedules."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from istd.train_script.settings import Settings
from istd.utils.errors import InputError

STEP_FACTOR = 0.1  # multi_step: of the rate at each milestone
RESTART_EPOCHS = 10  # cosine_restarts: from restart to restart
RESTART_END = 1e-7  # cosine_restarts: rate before a restart
ONE_CYCLE_RISE = 0.3  # share of the steps in which the rate rises
ONE_CYCLE_START = 1 / 25  # first rate over the highest
ONE_CYCLE_END = 1e-4  # last rate over the first


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Adam or AdamW with the encoder's non-fusion parameters at `lr_backbone` and all others at `lr`.

    `lr_scales` multiplies the rate of parameters by the names that its patterns match, and without `decay_norms` norms
    and biases have no weight decay. Every group carries its full learning rate as `base_lr`; `set_learning_rates`
    derives `lr` from it.
    """
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    undecayed = set() if settings.decay_norms else undecayed_parameters(model)
    scales = name_scales(model, settings.lr_scales)
    rates = {"main": settings.lr, "backbone": settings.lr_backbone}
    groups: dict[tuple, dict[str, Any]] = {}
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for part, rate in rates.items():
        for name, parameter in parameters:
            if (id(parameter) in backbone) != (part == "backbone"):
                continue
            scale, decays = scales.get(name, 1.0), id(parameter) not in undecayed
            title = part + f" x {scale:g}" * (scale != 1) + " without decay" * (not decays)
            lr = rate * scale if scale != 1 else rate
            group = {"name": title, "params": [], "lr": lr, "base_lr": lr} | ({} if decays else {"weight_decay": 0.0})
            groups.setdefault(title, group)["params"].append(parameter)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    devices = {parameter.device.type for _, parameter in parameters}
    fused = devices <= {"cpu", "cuda"}  # one pass over the weights, not ten
    return kind(list(groups.values()), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def undecayed_parameters(model: nn.Module) -> set[int]:
    """The ids of norms and biases, by timm's rule: parameters of one dimension, or called bias."""
    groups = param_groups_weight_decay(model, weight_decay=1.0)
    return {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}


def name_scales(model: nn.Module, patterns: dict[str, float]) -> dict[str, float]:
    """The factor of each parameter that a pattern of `lr_scales` matches, by its name; the first pattern counts."""
    scales: dict[str, float] = {}
    for pattern, scale in patterns.items():
        for name in matching_names(model, pattern, "lr_scales"):
            scales.setdefault(name, scale)
    return scales


def matching_names(model: nn.Module, pattern: str, option: str) -> list[str]:
    """The names of the parameters that begin with a regular expression; `InputError` where none does."""
    names = [name for name, _ in model.named_parameters()]
    try:
        matches = [name for name in names if re.match(pattern, name)]
    except re.error as error:
        raise InputError(f"{option} has {pattern!r}, which is no regular expression: {error}") from error
    if not matches:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
        raise InputError(f"{option} has {pattern!r}, which no parameter's name matches; their names begin with {parts}")
    return matches


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """Keep the parameters whose names the patterns match as they are."""
    names = {name for pattern in patterns for name in matching_names(model, pattern, "freeze")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    if len(names) == len(list(model.parameters())):
        raise InputError("freeze matches every parameter, so that nothing is left to train; leave some")


def train_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms that are frozen: their statistics stay, too."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and parameters and not any(value.requires_grad for value in parameters):
            module.eval()


def build_schedule(settings: Settings, steps_per_epoch: int) -> Callable[[float, int], float]:
    """A function (base learning rate, step) -> learning rate of that step, counted from 0 over all epochs.

    In the first `warmup_steps` steps the schedule's rate is multiplied by a share that rises evenly to 1.

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

    def warmed(base: float, step: int) -> float:
        share = (step + 1) / settings.warmup_steps if step < settings.warmup_steps else 1.0
        return rate(base, step) if share == 1 else rate(base, step) * share

    return warmed


def cosine(start: float, end: float, position: float) -> float:
    """From `start` (position 0) to `end` (position 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: Callable[[float, int], float], step: int) -> None:
    """Give every parameter group the learning rate of `step`."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["base_lr"], step)
