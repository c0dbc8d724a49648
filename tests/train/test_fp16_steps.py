"""Steps in fp16 whose gradients are not finite: the scaler skips them, and so must everything else."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from istd.train_script import steps
from istd.train_script.optim import build_optimizer
from istd.train_script.settings import merge_settings
from istd.train_script.state import Training
from istd.train_script.steps import MAX_SKIPPED_STEPS, StepResult, read_results, train_step
from istd.train_script.weight_average import WeightAverage
from istd.utils.errors import InputError


def prepare(monkeypatch, norms):
    """A run whose steps have gradients of these norms, in fp16."""
    network = nn.Linear(1, 1, bias=False)
    network.backbone_parameters = list
    settings = merge_settings(None, {"schedule": "constant", "lr": 0.1})
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    training = Training(network, network, build_optimizer(network, settings), scaler, WeightAverage(network, 0.5))
    run = SimpleNamespace(
        settings=settings,
        schedule=lambda base, step: base,
        batches=SimpleNamespace(steps=100),
        amp=torch.float16,
        writer=None,
    )

    def gradients(run, training, norm, step):
        scaler.scale(network.weight.sum() * norm).backward()
        scaler.unscale_(training.optimizer)
        return StepResult(step + 1, torch.tensor([1.0, norm]), ["a"])

    monkeypatch.setattr(steps, "accumulate_gradients", gradients)
    results = []
    for norm in norms:
        results.append(train_step(run, training, norm))
        training.progress.step += 1
    return run, training, results


def test_skipped_steps_change_neither_weights_nor_their_average(monkeypatch):
    infinite = float("inf")
    run, training, results = prepare(monkeypatch, [infinite, 1.0, infinite])
    weight, average = training.network.weight.item(), training.ema.module.weight.item()
    read_results(run, training, results)
    assert (training.ema_updates, training.skipped_steps) == (1, 1)
    assert average != pytest.approx(weight), "the average moved half of the way in the one step that was taken"
    assert train_step(run, training, infinite) and training.network.weight.item() == weight
    assert training.ema.module.weight.item() == average


def test_a_run_that_skips_every_step_stops(monkeypatch):
    run, training, results = prepare(monkeypatch, [float("inf")] * MAX_SKIPPED_STEPS)
    read_results(run, training, results[:-1])
    with pytest.raises(
        InputError, match=r"epoch 1, step 30: the gradients of 30 steps in a row were not finite in fp16"
    ):
        read_results(run, training, results[-1:])
    assert training.ema_updates == 0
