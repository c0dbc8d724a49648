"""ONNX export: the file against PyTorch, its dynamic sides, and what is said when it cannot be."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from istd.models import datransnet
from istd.models.ops import window_attention
from istd.test_script import export
from istd.utils.errors import InputError

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.NEEDED)
    or tuple(int(part) for part in torch.__version__.split(".")[:2]) < export.OLDEST_TORCH,
    reason="needs torch 2.8, onnx, onnxruntime, onnxscript",
)


class Small(nn.Module):
    """A stand-in of any frame size."""

    name, num_frames, in_channels, size_multiple, any_size_onnx = "small", 1, 1, 32, True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, clip):
        return self.conv(clip[:, 0])


class Parts(nn.Module):
    """What is hard to export of both networks, small: gradient transformer, and shifted windows that need padding."""

    name, num_frames, in_channels, size_multiple = "parts", 2, 1, 32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.transformer = datransnet.GradientTransformer(2, 4, (1, 3), side=32)
        self.windows = window_attention.FastWindowAttentionV2(2, [7, 7], [3, 3], 1)

    def forward(self, clip):
        x = self.transformer(clip[:, :, 0])
        return self.windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)[:, :1]


@needs_onnx
def test_the_file_computes_what_the_network_does_for_any_batch(tmp_path, capsys, monkeypatch):
    import onnxruntime

    model = Parts().eval()
    monkeypatch.setattr(export, "load_model", lambda path, **_: model)
    file = tmp_path / "model.onnx"
    export.main(["--model_path", "any.pth", "--output", str(file), "--size", "32", "64"])
    assert "largest difference" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]  # one file, weights and all
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    clip = torch.rand(5, 2, 1, 32, 64)
    (probability,) = session.run(None, {"clip": clip.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(probability, model(clip).sigmoid().numpy(), atol=1e-5)


@needs_onnx
def test_dynamic_sides_and_a_wrong_file(tmp_path):
    model = Small().eval()
    export.export(model, tmp_path / "small.onnx", (32, 32), dynamic=True)
    assert export.check(model, tmp_path / "small.onnx", (32, 32), dynamic=True) < 1e-6
    for change in (0.05, float("nan")):
        with torch.no_grad():
            model.conv.weight += change
        with pytest.raises(InputError, match="differs from PyTorch"):
            export.check(model, tmp_path / "small.onnx", (32, 32), dynamic=True)


def test_the_form_for_export_computes_the_same(monkeypatch):
    random = torch.Generator().manual_seed(0)
    model, clip = Parts().eval(), torch.rand(2, 2, 1, 32, 64, generator=random)
    with torch.no_grad():
        expected = model(clip)
        monkeypatch.setattr("istd.models.ops.is_exporting", lambda: True)
        monkeypatch.setattr(window_attention, "_attend", None)  # torchvision's own form is taken
        torch.testing.assert_close(model(clip), expected)


def test_what_cannot_be_exported_is_said(monkeypatch, tmp_path):
    command = ["--model_path", "any.pth", "--output", str(tmp_path / "m.onnx")]
    monkeypatch.setattr(export, "load_model", lambda path, **_: type("Wide", (Small,), {"any_size_onnx": False})())
    monkeypatch.setattr(export, "NEEDED", ())
    with pytest.raises(InputError, match="one size only"):
        export.main([*command, "--dynamic"])
    with pytest.raises(InputError, match="multiples of 32"):
        export.main([*command, "--size", "32", "50"])
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(InputError, match=r"needs torch 2\.8 or newer, this is 2\.6\.0"):
        export.main(command)
    monkeypatch.setattr(export, "NEEDED", ("onnx_is_not_there",))
    with pytest.raises(InputError, match="pip install onnx_is_not_there"):
        export.main(command)
