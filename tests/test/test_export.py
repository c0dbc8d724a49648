"""Export: ONNX files against `Predictor`, also from the documentation's program without torch; safetensors."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from istd.models import Network, build_model, datransnet, load_model
from istd.models.ops import window_attention
from istd.test_script import export
from istd.test_script.predictor import Predictor
from istd.test_script.predictor.grey_network import GreyNetwork
from istd.test_script.predictor.preparation import eval_transform, frame_preparation
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.NEEDED)
    or tuple(int(part) for part in torch.__version__.split(".")[:2]) < export.MIN_TORCH,
    reason="needs torch 2.8, onnx, onnxruntime, onnxscript",
)
SIZE = (37, 51)  # neither side is a multiple of anything
PAGE = Path(__file__).resolve().parents[2] / "docs" / "python_and_export.md"


class Small(Network):
    """A stand-in of any frame size, whose maps depend on all frames and channels."""

    name, size_multiple, any_size_onnx, options = "small", 32, True, {}

    def __init__(self, num_frames=1, in_channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.num_frames, self.in_channels = num_frames, in_channels
        self.conv = nn.Conv2d(num_frames * in_channels, 1, 5, padding=2)

    def forward(self, clip):
        assert clip.shape[-2] % 32 == 0 and clip.shape[-1] % 32 == 0
        return self.conv(clip.flatten(1, 2))


class Parts(Network):
    """What is hard to export of both networks, small: gradient transformer, and shifted windows that need padding."""

    name, num_frames, in_channels, size_multiple, options = "parts", 2, 1, 32, {}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.transformer = datransnet.GradientTransformer(2, 4, (1, 3), side=32)
        self.windows = window_attention.FastWindowAttentionV2(2, [7, 7], [3, 3], 1)

    def forward(self, clip):
        x = self.transformer(clip[:, :, 0])
        return self.windows(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)[:, :1]


def frames_of(count, size=SIZE):
    return np.random.default_rng(1).integers(0, 256, (count, *size), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("preset", "size"), [("grey", SIZE), ("local_contrast", SIZE), ("local_contrast", (7, 40)), ("sgmp_unet", SIZE)]
)
def test_the_module_computes_what_the_predictor_does(preset, size, channels):
    model, settings = Small(3, channels).eval(), {"preset": preset, "val_size": 40}
    network = export.grey_network(model, settings, size, dynamic=False)
    frames = frames_of(3, size)
    predictor = Predictor(model, frame_preparation(eval_transform(model, settings)))
    with torch.inference_mode():
        probability = network(torch.from_numpy(frames)[None] / 255)[0, 0].numpy()
    np.testing.assert_allclose(probability, predictor(frames).probability[1], atol=2e-6)


@needs_onnx
@pytest.mark.parametrize(("preset", "bias"), [("local_contrast", -1.5), ("sgmp_unet", -1.2)])
def test_the_documented_program_finds_what_the_predictor_finds(preset, bias, tmp_path):
    """The program of the documentation, without torch, on a png of odd size."""
    model, settings = Small(3, 3).eval(), {"preset": preset, "val_size": 40}
    with torch.no_grad():
        model.conv.bias += bias
    network = export.grey_network(model, settings, SIZE, dynamic=False)
    export.export(network, tmp_path / "model.onnx", SIZE, dynamic=False)
    (frame,) = frames_of(1)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (program,) = (program for program in programs if "onnxruntime.InferenceSession" in program)
    assert "torch" not in program and len(program.splitlines()) <= 25
    program = "import sys\nsys.modules['torch'] = None\n" + program
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    (detections,) = Predictor(model, frame_preparation(eval_transform(model, settings)))(frame).detections
    assert len(detections) > 2
    expected = {f"frame 0: x {found.x:.1f}, y {found.y:.1f}, {found.area} px" for found in detections}
    assert set(done.stdout.splitlines()) == expected


@needs_onnx
def test_the_file_says_what_it_is_and_takes_any_batch(tmp_path):
    import onnxruntime

    model = Parts().eval()
    model.settings = {"range": ["7000", "7600"]}
    network = export.grey_network(model, {"preset": "grey"}, (30, 61), dynamic=False)
    export.export(network, tmp_path / "model.onnx", (30, 61), dynamic=False)
    assert export.check(network, tmp_path / "model.onnx", (30, 61), dynamic=False) < 1e-5
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]  # one file, weights and all
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["range"] == "[7000.0, 7600.0]"
    wanted = {"network": "parts", "preset": "grey", "frames": "2", "target": "1", "multiple": "32", "threshold": "0.5"}
    assert wanted.items() <= facts.items() and facts["version"] and "reflection" in facts["padding"]
    frames = torch.rand(5, 2, 30, 61)
    (probability,) = session.run(None, {"frames": frames.numpy()})
    with torch.inference_mode():
        np.testing.assert_allclose(probability, network(frames).numpy(), atol=1e-5)


@needs_onnx
def test_dynamic_sides_and_a_wrong_file(tmp_path):
    model = Small().eval()
    network = GreyNetwork(model, "local_contrast").eval()
    export.export(network, tmp_path / "small.onnx", SIZE, dynamic=True)
    assert export.check(network, tmp_path / "small.onnx", SIZE, dynamic=True) < 1e-5
    for change in (0.05, float("nan")):
        with torch.no_grad():
            model.conv.weight += change
        with pytest.raises(InputError, match="differs from PyTorch"):
            export.check(network, tmp_path / "small.onnx", SIZE, dynamic=True)


def test_the_form_for_export_computes_the_same(monkeypatch):
    random = torch.Generator().manual_seed(0)
    model, clip = Parts().eval(), torch.rand(2, 2, 1, 32, 64, generator=random)
    with torch.no_grad():
        expected = model(clip)
        monkeypatch.setattr("istd.models.ops.is_exporting", lambda: True)
        monkeypatch.setattr("istd.models.ops.in_pieces", lambda tensor: False)
        window_attention._shift_mask.cache_clear()
        torch.testing.assert_close(model(clip), expected)
    assert not window_attention._shift_mask.cache_info().currsize, "a traced mask has no values"


def test_what_cannot_be_exported_is_said(monkeypatch, tmp_path):
    command = ["--model_path", "any.pth", "--output", str(tmp_path / "m.onnx")]
    model = Small(1, 3)
    model.any_size_onnx = False
    settings = {}
    monkeypatch.setattr(export, "load_recipe", lambda *_, **__: (model, settings))
    monkeypatch.setattr(export, "NEEDED", ())
    with pytest.raises(InputError, match="one size only"):
        export.main([*command, "--dynamic"])
    model.any_size_onnx, settings["preset"] = True, "sgmp_unet"
    with pytest.raises(InputError, match="preset sgmp_unet resizes frames"):
        export.main([*command, "--dynamic"])
    with pytest.raises(InputError, match="--size 0 50; expected the height and width"):
        export.main([*command, "--size", "0", "50"])
    with pytest.raises(InputError, match=r"ends in \.onnx, \.safetensors"):
        export.main(["--model_path", "any.pth", "--output", str(tmp_path / "m.engine")])
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    with pytest.raises(InputError, match=r"needs torch 2\.8 or newer, this is 2\.6\.0"):
        export.main(command)
    monkeypatch.setattr(export, "NEEDED", ("onnx_is_not_there",))
    with pytest.raises(InputError, match="pip install onnx_is_not_there"):
        export.main(command)


def test_safetensors_with_a_model_card(tmp_path, capsys):
    save_checkpoint(tmp_path / "best.pth", build_model("datransnet", width=4), {"preset": "local_contrast"})
    export.main(["--model_path", str(tmp_path / "best.pth"), "--output", str(tmp_path / "net.SAFETENSORS")])
    assert "net.safetensors and its model card net.md" in capsys.readouterr().out
    assert "preset `local_contrast`" in (tmp_path / "net.md").read_text()
    loaded = load_model(tmp_path / "net.safetensors")
    assert loaded.options["width"] == 4 and loaded.settings == {"preset": "local_contrast"}
