"""Recorded training, with stand-ins for `make_graphed_callables`."""

import copy

import pytest
import torch

from istd.models import build_model
from istd.train_script.graphs import GraphedNetwork, record, uses_graphs
from istd.train_script.settings import merge_settings
from istd.train_script.train import build_training
from istd.utils.errors import InputError
from tests.models.test_pretend_gpu import TINY

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def settings(**given):
    return merge_settings(None, {"batch_size": 2, "train_size": 32} | given)


@pytest.mark.parametrize("aux_weight", [0.0, 0.5])
def test_recording_leaves_the_network_as_it_was(aux_weight, monkeypatch):
    shapes = []

    def make_graphed_callables(module, inputs, allow_unused_input):
        for _ in range(3):
            shapes.extend(output.shape for output in module(*inputs))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    torch.manual_seed(0)
    network = build_model("sgmp_unet", **TINY["sgmp_unet"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    graphed = GraphedNetwork(network, settings(aux_weight=aux_weight), CPU, None)
    assert set(shapes) == {(2, 1, 32, 32)} and len(shapes) == (12 if aux_weight else 3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name

    clip, with_aux = torch.rand(2, 2, 3, 32, 32), aux_weight > 0
    network.eval()
    torch.testing.assert_close(graphed(clip, with_aux=with_aux), network(clip, with_aux=with_aux), rtol=0, atol=0)
    with pytest.raises(ValueError, match=f"with_aux={with_aux}"):
        graphed(clip, with_aux=not with_aux)
    assert graphed.train() is graphed and network.training
    assert list(map(id, graphed.parameters())) == list(map(id, network.parameters()))


def test_only_the_forward_pass_is_recorded_in_mixed_precision(monkeypatch):
    seen = []

    def make_graphed_callables(module, inputs, allow_unused_input):
        seen.append((torch.is_autocast_enabled("cpu"), module(*inputs)[0].dtype))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    GraphedNetwork(build_model("datransnet", width=4), settings(), CPU, torch.bfloat16)
    assert seen == [(False, torch.bfloat16)]


def graph_stand_in(module, inputs, allow_unused_input):
    """Replaces the module's passes as torch's graphs do: gradients are written to the same memory each time."""
    parameters, forward = list(module.parameters()), module.forward
    memory = [torch.zeros_like(parameter) for parameter in parameters]

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, clip, *parameters):
            assert clip.shape == inputs[0].shape
            with torch.enable_grad():
                ctx.outputs = forward(clip)
            return tuple(output.detach() for output in ctx.outputs)

        @staticmethod
        def backward(ctx, *grads):
            for place, gradient in zip(memory, torch.autograd.grad(ctx.outputs, parameters, grads), strict=True):
                place.copy_(gradient)
            return None, *(place.detach() for place in memory)

    module.forward = lambda clip: Replay.apply(clip, *parameters)


def test_gradients_accumulate_over_replays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graph_stand_in)
    torch.manual_seed(0)
    network = build_model("datransnet", width=4).train()
    plain, parts = copy.deepcopy(network), torch.rand(3, 2, 1, 1, 32, 32)
    graphed = GraphedNetwork(network, settings(batch_size=6, accumulate=3, aux_weight=0), CPU, None)
    for _ in range(2):
        for model in (plain, graphed):
            model.zero_grad()
            for clip in parts:
                model(clip).square().mean().backward()
        for one, other in zip(plain.parameters(), network.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("asked", [None, True])
def test_a_failed_recording_nobody_asked_for_is_a_warning(asked, monkeypatch):
    def make_graphed_callables(module, inputs, allow_unused_input):
        module(*inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    network = build_model("datransnet", width=4)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = pytest.raises(RuntimeError) if asked else pytest.warns(UserWarning, match="without CUDA graphs")
    with expected:
        assert record(network, settings(graphs=asked), CPU, None) is network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        ({}, GPU, True),
        ({}, CPU, False),
        ({"accumulate": 2}, GPU, True),
        ({"compile": True}, GPU, False),
        ({"compile": False}, GPU, True),
        ({"graphs": False}, GPU, False),
        ({"graphs": True}, GPU, True),
    ],
)
def test_when_training_is_recorded(given, device, expected):
    assert uses_graphs(settings(**given), device) is expected


@pytest.mark.parametrize(("given", "device"), [({}, CPU), ({"compile": True}, GPU)])
def test_graphs_that_cannot_be_are_an_error(given, device):
    with pytest.raises(InputError, match="leave --graphs out"):
        uses_graphs(settings(graphs=True, **given), device)


@pytest.mark.parametrize("compiles", [False, True])
def test_a_network_is_compiled_only_if_asked_for(compiles, monkeypatch):
    compiled = torch.nn.Identity()
    monkeypatch.setattr(torch, "compile", lambda network: compiled)
    network = build_model("datransnet", width=4)
    training = build_training(settings(compile=compiles), network, CPU)
    assert training.network is network and training.model is (compiled if compiles else network)
