"""Options that researchers expect: gradient checkpointing, Weights & Biases, several seeds."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from istd.models import build_model
from istd.train_script.build import recompute_blocks
from istd.train_script.several_seeds import report_seeds, starts_of_seeds
from istd.train_script.tensorboard import EXAMPLE_TAG
from istd.train_script.train import main
from istd.utils.errors import InputError
from tests.models.test_pretend_gpu import TINY
from tests.train.test_train import arguments, dataset, folder_of, rows  # noqa: F401


def test_recomputed_blocks_give_the_same_gradients_with_stochastic_depth():
    gradients, calls = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = build_model("sgmp_unet", **TINY["sgmp_unet"]).train()
        if recompute:
            block = next(module for module in network.modules() if isinstance(module, network.recomputable))
            block.register_forward_hook(lambda *args: calls.append(torch.is_grad_enabled()))
            inner = block.attn if hasattr(block, "attn") else next(block.children())
            inner.register_forward_hook(lambda *args: calls.append("inner"))
            recompute_blocks(network)
        torch.manual_seed(1)
        network(torch.rand(2, 2, 3, 32, 32)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert calls.count("inner") == 2, "once forward, once for the backward pass"
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError, match="datransnet has no blocks for gradient checkpointing"):
        recompute_blocks(build_model("datransnet", width=4))


def test_curves_and_images_reach_wandb(dataset, tmp_path, monkeypatch):  # noqa: F811
    logged, started = [], {}
    run = SimpleNamespace(log=lambda values, step: logged.append((values, step)), finish=lambda: logged.append("end"))
    wandb = SimpleNamespace(
        init=lambda **options: started.update(options) or run,
        Image=lambda array: ("image", array.shape),
        Table=lambda columns, data: (columns, np.shape(data)),
        plot=SimpleNamespace(line=lambda table, x, y, title: (table, x, y)),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert main(arguments(dataset, tmp_path, epochs=1, tensorboard=True, log="wandb")) == 0
    assert started["config"]["epochs"] == 1 and started["name"] == "blobs/run" and started["resume"] == "allow"
    tags = {tag: values[tag] for values, _ in logged[:-1] for tag in values}
    assert 0 <= tags["val/iou"] <= 1
    assert tags["val/pixel precision-recall"][0] == (["recall", "precision"], (127, 2))
    assert tags[f"val/{EXAMPLE_TAG}"][0] == "image"
    assert {step for _, step in logged[:-1]} == {4} and logged[-1] == "end"
    assert not (folder_of(tmp_path) / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        main(arguments(dataset, tmp_path, "other", epochs=1, tensorboard=True, log="wandb"))


def test_several_seeds_end_in_a_table_of_mean_and_deviation(dataset, tmp_path, capsys):  # noqa: F811
    words = [*arguments(dataset, tmp_path, resume="auto", final_test=True), "--seeds", "1", "2"]
    assert main(words) == 0
    reports = [json.loads((folder_of(tmp_path, f"run_seed{seed}") / "test.json").read_text()) for seed in (1, 2)]
    fa = [report["metrics"]["fa"] for report in reports]
    assert fa[0] != fa[1]
    summary = json.loads((tmp_path / "blobs" / "run_seeds.json").read_text())
    assert summary["part"] == "test set"
    assert summary["mean"]["fa"] == pytest.approx((fa[0] + fa[1]) / 2)
    assert summary["std"]["fa"] == pytest.approx(abs(fa[0] - fa[1]) / 2**0.5)
    out = capsys.readouterr().out
    assert "2 seeds, test set" in out and out.index("seed 1 ") < out.index("seed 2 ") < out.index("\nmean ")
    (folder_of(tmp_path, "run_seed2") / "test.json").unlink()
    report_seeds([(seed, folder_of(tmp_path, f"run_seed{seed}")) for seed in (1, 2)])
    best = json.loads((folder_of(tmp_path, "run_seed1") / "metrics.jsonl").read_text().splitlines()[-1])["best_epoch"]
    summary = json.loads((tmp_path / "blobs" / "run_seeds.json").read_text())
    assert summary["part"] == "validation"
    assert summary["seeds"]["1"] == rows(folder_of(tmp_path, "run_seed1"))[best - 1]["val"], "not the test's"
    capsys.readouterr()
    assert main(words) == 0 and "epoch 1/" not in capsys.readouterr().out, "what is done is not repeated"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1, 1]}, "two or more different"),
        ({"seeds": [1, 2], "resume": "x"}, "--resume auto"),
        ({"seeds": [1, 2], "dataset": "x", "select_on": "none", "final_test": False}, "nothing to compare"),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        starts_of_seeds(None, options)
