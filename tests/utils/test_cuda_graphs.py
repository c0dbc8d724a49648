"""Captured passes, with stand-ins for the graphs of a GPU that compute what they would: the captured call, again."""

import copy
from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from torch import nn

from istd.models import build_model
from istd.test_script.predictor import Predictor
from istd.utils import cuda_graphs
from istd.utils.cuda_graphs import PASSES_BEFORE_CAPTURE, GraphRunner
from tests.models.test_pretend_gpu import TINY


class Graph:
    """Replaying calls the network on the captured input, and writes into the captured output."""

    made: ClassVar = []

    def __init__(self):
        self.replays = 0
        Graph.made.append(self)

    def pool(self):
        return "pool"

    def replay(self):
        self.replays += 1
        self.output.copy_(self.compute(self.clips))


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that were made."""
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    devices = []

    @contextmanager
    def device(name):
        devices.append(name)
        try:
            yield
        finally:
            devices.pop()

    @contextmanager
    def graph(captured, pool, stream, capture_error_mode):
        assert (pool, stream) == (None if len(Graph.made) == 1 else "pool", "stream 1")
        assert devices == [torch.device("cpu")]
        Network.capturing = captured
        try:
            yield
        finally:
            Network.capturing = None

    streams = iter(["stream 1", "stream 2"])
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: next(streams))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return Graph.made


class Network(nn.Module):
    size_multiple, num_frames, in_channels = 1, 1, 1
    capturing = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, clips):
        result = self.compute(clips)
        if Network.capturing:
            Network.capturing.clips, Network.capturing.output = clips, result
            Network.capturing.compute = self.compute
        return result

    def compute(self, clips):
        return clips.sum(dim=1) * self.weight


@torch.inference_mode()
def test_a_shape_is_captured_once_it_repeats_and_replayed_from_then_on(graphs):
    network = Network()
    runner = GraphRunner(network)
    clips = [torch.full((2, 1, 1, 4, 4), float(number)) for number in range(PASSES_BEFORE_CAPTURE + 3)]
    results = [runner(clip) for clip in clips]
    for number, result in enumerate(results):  # none is overwritten by a later one
        assert result.unique().tolist() == [2 * number]
    assert [graph.replays for graph in graphs] == [3]
    network.weight.fill_(3.0)
    assert runner(clips[1]).unique().tolist() == [3]
    for _ in range(PASSES_BEFORE_CAPTURE + 1):
        assert runner(clips[1][:1]).shape == (1, 1, 4, 4)
    assert [graph.replays for graph in graphs] == [4, 1]


@torch.inference_mode()
def test_not_every_shape_is_captured(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    runner = GraphRunner(Network())
    for side in range(1, 5):
        for _ in range(PASSES_BEFORE_CAPTURE + 2):
            assert runner(torch.ones(1, 1, 1, side, side)).tolist() == torch.full((1, 1, side, side), 2.0).tolist()
    assert [graph.replays for graph in graphs] == [2, 2]


@torch.inference_mode()
def test_a_network_that_cannot_be_captured_runs_as_it_is(graphs, monkeypatch):
    network, clips = Network(), torch.ones(1, 1, 1, 2, 2)
    runner = GraphRunner(network)
    for _ in range(PASSES_BEFORE_CAPTURE):
        runner(clips)

    def refuse(clips):
        if Network.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return network.compute(clips)

    monkeypatch.setattr(network, "forward", refuse)
    with pytest.warns(UserWarning, match="without CUDA graphs.*not permitted"):
        assert runner(clips).sum() == 8
    assert runner(clips).sum() == 8 and len(graphs) == 1


def test_the_predictor_replays_on_a_cuda_gpu(monkeypatch):
    monkeypatch.setattr(Network, "to", lambda network, device: network)
    forms = {
        (device, compile): Predictor(Network(), torch.from_numpy, device, compile=compile)._forward
        for device in ("cpu", "cuda")
        for compile in (False, True)
    }
    assert [isinstance(form, GraphRunner) for form in forms.values()] == [False, False, True, False]


def graph_stand_in(passes, inputs, allow_unused_input):
    """In place of `make_graphed_callables`: three passes first, then gradients go to the same memory each time."""
    parameters, forward = list(passes.parameters()), passes.forward
    for _ in range(3):
        forward(*inputs)
    memory = [torch.zeros_like(parameter) for parameter in parameters]

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, clip, *parameters):
            assert clip.shape == inputs[0].shape
            with torch.enable_grad():
                outputs = forward(clip)
            ctx.outputs = outputs if isinstance(outputs, list) else [outputs]
            return tuple(output.detach() for output in ctx.outputs)

        @staticmethod
        def backward(ctx, *grads):
            gradients = torch.autograd.grad(ctx.outputs, parameters, grads, allow_unused=True)
            for place, gradient in zip(memory, gradients, strict=True):
                place.zero_() if gradient is None else place.copy_(gradient)
            kept = zip(memory, gradients, strict=True)
            return None, *(None if gradient is None else place.detach() for place, gradient in kept)

    def replay(clip):
        outputs = Replay.apply(clip, *parameters)
        return list(outputs) if passes.options.get("with_aux") else outputs[0]

    passes.forward = replay


@pytest.mark.parametrize("options", [{}, {"with_aux": True}])
def test_capturing_leaves_the_network_as_it_was(options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graph_stand_in)
    torch.manual_seed(0)
    network = build_model("sgmp_unet", **TINY["sgmp_unet"])
    plain, clip = copy.deepcopy(network), torch.rand(2, 2, 3, 32, 32)
    runner = GraphRunner(network)
    for _ in range(2):
        torch.manual_seed(1)
        result = runner(clip, **options)
        torch.manual_seed(1)
        torch.testing.assert_close(result, plain(clip, **options), rtol=0, atol=0)
    # in the statistics the three passes before the capture would show
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_only_the_forward_pass_is_captured_in_mixed_precision(monkeypatch):
    seen = []

    def make_graphed_callables(passes, inputs, allow_unused_input):
        seen.append((torch.is_autocast_enabled("cpu"), passes(*inputs).dtype))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    runner, clip = GraphRunner(build_model("datransnet", width=4)), torch.rand(2, 1, 1, 32, 32)
    runner(clip)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        runner(clip[:1])
    assert seen == [(False, torch.float32), (False, torch.bfloat16)]


def test_gradients_accumulate_over_replays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graph_stand_in)
    torch.manual_seed(0)
    network = build_model("datransnet", width=4).train()
    plain, clips = copy.deepcopy(network), torch.rand(3, 2, 1, 1, 32, 32)
    runner = GraphRunner(network)
    for _ in range(2):
        for form, model in ((plain, plain), (runner, network)):
            model.zero_grad()
            for clip in clips:
                form(clip).square().mean().backward()
        for mine, other in zip(plain.parameters(), network.parameters(), strict=True):
            assert torch.equal(mine.grad, other.grad)


@pytest.mark.parametrize("required", [False, True])
def test_a_failed_capture_nobody_asked_for_is_a_warning(required, monkeypatch):
    def make_graphed_callables(passes, inputs, allow_unused_input):
        passes(*inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    network, clip = build_model("datransnet", width=4), torch.rand(1, 1, 1, 32, 32)
    plain = copy.deepcopy(network)
    runner = GraphRunner(network, required)
    if required:
        with pytest.raises(RuntimeError, match="not permitted"):
            runner(clip)
    else:
        with pytest.warns(UserWarning, match="without CUDA graphs"):
            assert torch.equal(runner(clip), plain(clip))
    torch.testing.assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)
