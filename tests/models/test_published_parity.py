"""Published checkpoint files give the published networks' recorded answers (where the parity data lies beside us)."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from istd.models import load_model

ROOT = Path(__file__).resolve().parents[2]
PARITY = Path(os.environ.get("ISTD_TEST_PARITY", ROOT.parent / "shared" / "parity"))
pytestmark = pytest.mark.skipif(not PARITY.exists(), reason="the published networks' answers are not here")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference_checkpoint", PARITY / "reference_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_published(reference, name, folder, monkeypatch):
    path = folder / f"{name}.pth"
    monkeypatch.setattr("sys.argv", ["reference_checkpoint.py", name, str(path)])
    reference.main()
    return load_model(path).double(), np.load(PARITY / f"expected_{name}.npz")


def statistics(x):
    return np.array([x.mean(), x.std(), x.abs().max()])


def watch(modules):
    """Forward hooks that keep the output of each named module."""
    seen = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _module, _inputs, out, name=name: seen.__setitem__(name, out))
    return seen


def test_datransnet(reference, tmp_path, monkeypatch):
    model, expected = load_published(reference, "datransnet", tmp_path, monkeypatch)
    seen = watch(
        {f"contras{level + 1}": module for level, module in enumerate(model.transformers)}
        | {"GFEM": model.global_features, "decoder1": model.decoders[0], "outc": model.head}
    )
    x = reference.example_input("datransnet", 0, expected["size"])
    with torch.no_grad():
        logits = model(x[:, None].double())
        assert np.abs(logits.numpy() - expected["logits"]).max() <= 1e-6
        for name, out in seen.items():
            np.testing.assert_allclose(statistics(out), expected[f"stats_{name}"], rtol=0, atol=1e-6, err_msg=name)
        single = model.float()(x[:, None])
    assert np.median(np.abs(single.numpy() - expected["logits"])) <= 1e-4
    assert len(seen) == sum(key.startswith("stats_") for key in expected)


def test_sgmp_unet(reference, tmp_path, monkeypatch):
    model, expected = load_published(reference, "sgmp_unet", tmp_path, monkeypatch)
    seen = watch(
        {"encoder0": model.encoder.patch_embed, "decoder": model.decoder}
        | {f"encoder{index + 1}": stage.fusion for index, stage in enumerate(model.encoder.stages)}
        | {f"skip{index}": skip for index, skip in enumerate(model.skips)}
    )
    x = reference.example_input("sgmp_unet", 0, expected["size"]).transpose(1, 2)
    with torch.no_grad():
        logits, *auxiliary = model(x.double(), with_aux=True)
        assert np.abs(logits.numpy() - expected["logits"]).max() <= 1e-6
        seen |= {f"aux{index}": out for index, out in enumerate(auxiliary)}
        for name, out in seen.items():
            np.testing.assert_allclose(statistics(out), expected[f"stats_{name}"], rtol=0, atol=1e-6, err_msg=name)
        single = model.float()(x)
    assert np.median(np.abs(single.numpy() - expected["logits"])) <= 1e-4
    assert len(seen) == sum(key.startswith("stats_") for key in expected)
