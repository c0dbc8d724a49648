"""Recorded passes, with a stand-in for the graphs of a GPU that computes what they would: the recorded call, again."""

from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from torch import nn

from istd.test_script.predictor import Predictor, replay
from istd.test_script.predictor.replay import RECORD_AFTER, Replayed


class Graph:
    """Replaying calls the network on the recorded input, and writes into the recorded output."""

    made: ClassVar = []

    def __init__(self):
        self.replays = 0
        Graph.made.append(self)

    def pool(self):
        return "pool"

    def replay(self):
        self.replays += 1
        self.output.copy_(self.compute(self.given))


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
    def graph(recorded, pool, stream, capture_error_mode):
        assert (pool, stream) == (None if len(Graph.made) == 1 else "pool", "stream 1")
        assert devices == [torch.device("cpu")]
        Network.recording = recorded
        try:
            yield
        finally:
            Network.recording = None

    streams = iter(["stream 1", "stream 2"])
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: next(streams))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return Graph.made


class Network(nn.Module):
    size_multiple, num_frames, in_channels = 1, 1, 1
    recording = None

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, clips):
        result = self.compute(clips)
        if Network.recording:
            Network.recording.given, Network.recording.output = clips, result
            Network.recording.compute = self.compute
        return result

    def compute(self, clips):
        return clips.sum(dim=1) * self.weight


@torch.inference_mode()
def test_a_shape_is_recorded_once_it_repeats_and_replayed_from_then_on(graphs):
    network = Network()
    replayed = Replayed(network)
    clips = [torch.full((2, 1, 1, 4, 4), float(number)) for number in range(RECORD_AFTER + 3)]
    results = [replayed(clip) for clip in clips]
    for number, result in enumerate(results):  # none is overwritten by a later one
        assert result.unique().tolist() == [2 * number]
    assert [graph.replays for graph in graphs] == [3]
    network.weight.fill_(3.0)
    assert replayed(clips[1]).unique().tolist() == [3]
    for _ in range(RECORD_AFTER + 1):
        assert replayed(clips[1][:1]).shape == (1, 1, 4, 4)
    assert [graph.replays for graph in graphs] == [4, 1]


@torch.inference_mode()
def test_not_every_shape_is_recorded(graphs, monkeypatch):
    monkeypatch.setattr(replay, "MOST_GRAPHS", 2)
    replayed = Replayed(Network())
    for side in range(1, 5):
        for _ in range(RECORD_AFTER + 2):
            assert replayed(torch.ones(1, 1, 1, side, side)).tolist() == torch.full((1, 1, side, side), 2.0).tolist()
    assert [graph.replays for graph in graphs] == [2, 2]


@torch.inference_mode()
def test_a_network_that_cannot_be_recorded_runs_as_it_is(graphs, monkeypatch):
    network, clips = Network(), torch.ones(1, 1, 1, 2, 2)
    replayed = Replayed(network)
    for _ in range(RECORD_AFTER):
        replayed(clips)

    def refuse(given):
        if Network.recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        return network.compute(given)

    monkeypatch.setattr(network, "forward", refuse)
    with pytest.warns(UserWarning, match="without CUDA graphs.*not permitted"):
        assert replayed(clips).sum() == 8
    assert replayed(clips).sum() == 8 and len(graphs) == 1


def test_the_predictor_replays_on_a_cuda_gpu(monkeypatch):
    monkeypatch.setattr(Network, "to", lambda network, device: network)
    forms = {
        (device, compile): Predictor(Network(), torch.from_numpy, device, compile=compile)._forward
        for device in ("cpu", "cuda")
        for compile in (False, True)
    }
    assert [isinstance(form, Replayed) for form in forms.values()] == [False, False, True, False]
