"""When training replays CUDA graphs, and what it calls."""

from types import SimpleNamespace

import pytest
import torch

from istd.models import build_model
from istd.train_script import build
from istd.train_script.build import build_training, uses_graphs
from istd.train_script.settings import merge_settings
from istd.train_script.validation import find_predictor
from istd.utils.cuda_graphs import GraphRunner
from istd.utils.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def settings(**options):
    return merge_settings(None, {"batch_size": 2, "train_size": 32} | options)


@pytest.mark.parametrize(
    ("options", "device", "processes", "expected"),
    [
        ({}, GPU, 1, True),
        ({}, CPU, 1, False),
        ({"accumulate": 2}, GPU, 1, True),
        ({"compile": True}, GPU, 1, False),
        ({"graphs": False}, GPU, 1, False),
        ({"graphs": True}, GPU, 1, True),
        ({}, GPU, 2, True),
        ({"sync_bn": True}, GPU, 1, True),
        ({"sync_bn": True}, GPU, 2, False),
    ],
)
def test_when_training_is_captured(options, device, processes, expected, monkeypatch):
    monkeypatch.setattr(build, "world_size", lambda: processes)
    assert uses_graphs(settings(**options), device) is expected


@pytest.mark.parametrize(("options", "device"), [({}, CPU), ({"compile": True}, GPU), ({"sync_bn": True}, GPU)])
def test_graphs_that_cannot_be_are_an_error(options, device, monkeypatch):
    monkeypatch.setattr(build, "world_size", lambda: 2)
    with pytest.raises(InputError, match="leave --graphs out"):
        uses_graphs(settings(graphs=True, **options), device)


@pytest.mark.parametrize("compiles", [False, True])
def test_a_network_is_compiled_only_if_asked_for(compiles, monkeypatch):
    compiled = torch.nn.Identity()
    monkeypatch.setattr(torch, "compile", lambda network: compiled)
    network = build_model("datransnet", width=4)
    training = build_training(settings(compile=compiles), network, CPU)
    assert training.network is network and training.model is (compiled if compiles else network)


def test_training_on_a_gpu_calls_captured_passes(monkeypatch):
    monkeypatch.setattr("istd.train_script.build.uses_graphs", lambda settings, device: True)
    training = build_training(settings(graphs=True), build_model("datransnet", width=4), CPU)
    assert isinstance(training.model, GraphRunner)
    assert training.model.network is training.network and training.model.required


def test_validation_keeps_its_predictor_and_with_it_the_captured_passes():
    network = build_model("datransnet", width=4)
    training = build_training(settings(), network, CPU)
    run = SimpleNamespace(settings=settings(), device=CPU, predictors={})
    first = find_predictor(run, training, "none")
    network.train()
    assert find_predictor(run, training, "none") is first and not network.training
    assert find_predictor(run, training, "bf16") is not first
