"""Optimiser, parameter groups and learning-rate schedules."""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
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

    `lr_scales` multiplies the rates of parameters whose names match its patterns; the first match counts. Without
    `decay_norms`, norms and biases have no weight decay. Every group carries its full learning rate as `base_lr`, from
    which `set_learning_rates` derives `lr`.
    """
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    undecayed = set() if settings.decay_norms else undecayed_parameters(model)
    scales = {
        name: scale
        for pattern, scale in reversed(settings.lr_scales.items())
        for name in matching_names(model, pattern, "lr_scales")
    }
    groups: dict[str, dict[str, Any]] = {}
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # the main groups come first: checkpoints number the parameters in this order
    for name, parameter in sorted(parameters, key=lambda pair: id(pair[1]) in backbone):
        part, rate = ("backbone", settings.lr_backbone) if id(parameter) in backbone else ("main", settings.lr)
        scale, decays = scales.get(name, 1.0), id(parameter) not in undecayed
        title = part + f" x {scale:g}" * (scale != 1) + " without decay" * (not decays)
        lr = rate * scale
        group = {"name": title, "params": [], "lr": lr, "base_lr": lr} | ({} if decays else {"weight_decay": 0.0})
        groups.setdefault(title, group)["params"].append(parameter)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    devices = {parameter.device.type for _, parameter in parameters}
    fused = devices <= {"cpu", "cuda"}  # a single pass over the weights instead of ten
    return kind(list(groups.values()), lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)


def undecayed_parameters(model: nn.Module) -> set[int]:
    """The ids of norms and biases, by timm's rule: parameters with a single dimension, or called bias."""
    from timm.optim import param_groups_weight_decay  # imported here, since it imports torchvision, which takes long

    groups = param_groups_weight_decay(model, weight_decay=1.0)
    return {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}


def matching_names(model: nn.Module, pattern: str, option: str) -> list[str]:
    """The names of the parameters that a regular expression matches at their start; `InputError` if there are none."""
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
    """Freeze the parameters whose names match the patterns, and mark the batch norms that are `frozen`, in copies, too.

    Those have no parameter that is trained; of norms without parameters, the names of their statistics match.
    """
    names = {name for pattern in patterns for name in matching_names(model, pattern, "freeze")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in names)
    if patterns and len(names) == len(list(model.parameters())):
        raise InputError("freeze matches every parameter, so that nothing is left to train; match fewer")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            trained = [value.requires_grad for value in module.parameters(recurse=False)]
            matched = any(re.match(pattern, f"{name}.running_mean") for pattern in patterns)
            module.frozen = not any(trained) if trained else matched


def train_mode(model: nn.Module) -> None:
    """Set training mode, except for batch norms that are `frozen`, whose statistics stay as they are, too."""
    model.train()
    for module in model.modules():
        if getattr(module, "frozen", False):
            module.eval()


def build_schedule(settings: Settings, steps_per_epoch: int) -> Callable[[float, int], float]:
    """A function (base learning rate, step) -> learning rate of that step, counted from 0 over all epochs.

    In the first `warmup_steps` steps the schedule's rate is multiplied by a share that rises evenly to 1. The function
    has no state, so that a resumed run has the rates of an uninterrupted run.
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
        return rate(base, step) * min(1.0, (step + 1) / max(1, settings.warmup_steps))

    return warmed


def cosine(start: float, end: float, position: float) -> float:
    """From `start` (position 0) to `end` (position 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


def set_learning_rates(optimizer: torch.optim.Optimizer, schedule: Callable[[float, int], float], step: int) -> None:
    """Give every parameter group the learning rate of `step`."""
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["base_lr"], step)
