"""The benchmark command counts what it says, and times and measures the forward pass alone."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from istd.models import build_model
from istd.models.ops.mlp import chunked_mlp
from istd.models.ops.window_attention import FastWindowAttention3d
from istd.test_script import benchmark
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError

SMALL = ["--size", "64", "64", "--runs", "3", "--warmup", "1", "--device", "cpu"]


class Tiny(nn.Module):
    """A network of one convolution, with one parameter that it never uses."""

    name, num_frames, in_channels, size_multiple = "tiny", 1, 1, 32

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.forgotten = nn.Parameter(torch.zeros(7))

    def forward(self, clip):
        return self.conv(clip[:, 0])


class Parts(nn.Module):
    """The pieces whose operations are hard to count: inside autograd functions, and fused attention."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(0.0), nn.Linear(32, 8), nn.Dropout(0.0))
        self.windows = FastWindowAttention3d(8, [8, 7, 7], [4, 3, 3], 2)

    def forward(self, clip):
        tokens = clip.reshape(1, -1, 8)
        out = F.scaled_dot_product_attention(tokens[:, None], tokens[:, None, :96], tokens[:, None, :96])
        return chunked_mlp(out, self.mlp), self.windows(clip.reshape(1, 2, 14, 14, 8))


def test_parameters_that_no_gradient_reaches_are_unused():
    assert benchmark.count_parameters(Tiny()) == (10, 7)
    model = build_model("datransnet")
    assert benchmark.count_parameters(model) == (sum(p.numel() for p in model.parameters()), 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_flops_by_hand():
    assert benchmark.count_flops(Tiny(), (5, 1, 1, 32, 64)) == 2 * 32 * 64 * 9
    tokens = 2 * 14 * 14
    fused = 2 * tokens * 96 * (8 + 8)
    mlp = 2 * tokens * (8 * 32 + 32 * 8)
    projections = 2 * tokens * (8 * 24 + 8 * 8)
    # a shift by 3 cuts a side of 14 into windows of 4, 7 and 3; each has two products of tokens x tokens over d = 4
    pairs = sum((2 * height * width) ** 2 for height in (4, 7, 3) for width in (4, 7, 3))
    windows = 2 * (2 * pairs * 4) * 2  # products, heads
    assert benchmark.count_flops(Parts(), (1, 2, 1, 14, 14 * 8)) == fused + mlp + projections + windows


@pytest.mark.parametrize("name", ["datransnet", "sgmp_unet"])
def test_fused_attention_counts_like_its_matrices(name):
    narrow = {"width": 48, "num_frames": 2, "spatial_width": 16, "depths": (2, 1, 1, 1), "spatial_depths": (1, 1, 1, 1)}
    model = build_model(name, **(narrow if name == "sgmp_unet" else {})).eval()
    shape = (1, model.num_frames, model.in_channels, 64, 96)
    fused = benchmark.count_flops(model, shape)
    with sdpa_kernel(SDPBackend.MATH):
        assert benchmark.count_flops(model, shape) == fused


def test_latency_is_over_the_measured_passes_alone(monkeypatch):
    durations = [100.0, 100.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    clock = iter(np.repeat(np.cumsum([0.0, *durations]), 2)[1:-1])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    times = benchmark.latency(Tiny(), torch.rand(1, 1, 1, 32, 32), "none", warmup=2, runs=5)
    assert times == pytest.approx({"median_s": 3.0, "p10_s": 1.4, "p90_s": 4.6})


def test_the_command_prints_and_writes_its_metrics(tmp_path, capsys):
    # much memory in this process must not count: a child's peak from getrusage would start from it
    ballast = torch.ones(400, benchmark.MIB // 4)
    benchmark.main(["--model", "datransnet", *SMALL, "--batch_size", "4", "--output", str(tmp_path / "speed.json")])
    metrics = json.loads((tmp_path / "speed.json").read_text())
    assert metrics["settings"]["clip"] == [4, 1, 1, 64, 64]
    assert metrics["settings"]["options"] == {"image_size": 256, "width": 16}
    assert metrics["parameters"] == sum(p.numel() for p in build_model("datransnet").parameters())
    times = metrics["latency"]
    assert 0 < times["p10_s"] <= times["median_s"] <= times["p90_s"]
    assert metrics["frames_per_second"] == pytest.approx(4 / times["median_s"])
    if metrics["memory"] is not None:  # Linux
        # at least the first skip and its gated neighbour at full size; at most what a few dozen such maps take
        least = 2 * 4 * 16 * 64 * 64 * 4
        assert least < metrics["memory"]["added_bytes"] < 50 * least
        assert metrics["memory"]["peak_bytes"] > metrics["memory"]["added_bytes"]
    table = capsys.readouterr().out
    assert "datransnet, 64 x 64, T = 1, batch 4" in table
    assert f"{metrics['parameters']:,}" in table
    assert ballast.sum() > 0


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_and_a_clip_length(amp, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_fresh_process", lambda function, *arguments: None)
    small = ["--size", "32", "32", "--runs", "1", "--warmup", "0", "--device", "cpu"]
    benchmark.main(["--model", "sgmp_unet_small", "--num_frames", "2", *small, "--amp", amp])
    table = capsys.readouterr().out
    assert "T = 2" in table
    assert f"amp {amp}" in table
    assert "not measured" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "unet"], "unknown model 'unet'; known models: datransnet, sgmp_unet"),
        (["--model", "datransnet", "--num_frames", "6"], "has no option 'num_frames'"),
        (["--model", "datransnet", "--model_options", "width=wide"], "option width of datransnet is 'wide'"),
        (["--model", "datransnet", "--size", "100", "64"], "--size is 100 64; datransnet takes multiples of 32"),
        (["--model", "datransnet", "--batch_size", "0"], "--batch_size is 0; give 1 or more"),
        (["--model", "datransnet", "--runs", "0"], "--runs is 0"),
        (["--model", "datransnet", "--warmup", "-1"], "--warmup is -1"),
        (["--model", "datransnet", "--amp", "int8"], "amp is 'int8', expected one of auto, none, bf16, fp16"),
        (["--model", "datransnet", "--device", "cuda:99"], "device 'cuda:99'"),
    ],
)
def test_wrong_input_is_explained(arguments, message):
    with pytest.raises(InputError, match=message):
        benchmark.main(arguments)


def test_a_network_from_a_file_of_any_size_and_without_gradients(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "in_fresh_process", lambda function, *arguments: function(*arguments))
    (tmp_path / "mean.py").write_text(
        "from torch import nn\n\nclass Mean(nn.Module):\n    def forward(self, x):\n"
        "        return nn.functional.avg_pool2d(x, 9)\n"
    )
    network = ["--model", f"{tmp_path}/mean.py:Mean", "--interface", "size_multiple=1"]
    benchmark.main([*network, "--size", "45", "36", "--runs", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "Mean: maps of [5, 5] px for 45 x 45 px are resized" in printed and "Mean, 45 x 36, T = 1" in printed
    with pytest.raises(InputError, match=r"cannot run Mean on a clip of \[1, 1, 1, 8, 8\]"):
        benchmark.main([*network, "--size", "8", "8"])


def test_a_checkpoint_brings_its_network_and_options(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "in_fresh_process", lambda function, *arguments: None)
    save_checkpoint(tmp_path / "best.pth", build_model("datransnet", width=4, image_size=64), {})
    benchmark.main(["--weights", str(tmp_path / "best.pth"), *SMALL, "--output", str(tmp_path / "speed.json")])
    settings = json.loads((tmp_path / "speed.json").read_text())["settings"]
    assert (settings["model"], settings["options"]) == ("datransnet", {"image_size": 64, "width": 4})
    with pytest.raises(InputError, match="which network"):
        benchmark.main(SMALL)
