"""A network from a file: trained, resumed, measured, and refused where nobody names its code."""

import json
from dataclasses import asdict

import pytest

from istd.models import build_model
from istd.test_script import inference
from istd.train_script.run_folder import LAST
from istd.train_script.starting_point import find_start
from istd.train_script.train import main
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError
from tests.reference.datasets_folders import write_lists, write_pairs

CODE = """
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Conv2d(1, width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 1)
        self.side = nn.Conv2d(width, 1, 2, stride=2)
        nn.init.constant_(self.body.weight, 1 / 9)  # bright neighbourhoods are targets
        nn.init.constant_(self.head.weight, 20 / width)
        nn.init.constant_(self.head.bias, -10)

    def forward(self, image):
        features = self.body(image).relu()
        if not self.training:
            return self.head(features)
        return [self.side(features), self.head(features)]


class Clips(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.body = nn.Conv3d(1, width, 3, padding=1)
"""


def test_a_network_from_a_file_is_trained_resumed_and_measured(tmp_path, capsys):
    code, data = tmp_path / "tiny.py", tmp_path / "blobs"
    code.write_text(CODE)
    names = [f"{index:02d}" for index in range(12)]
    write_pairs(data / "images", data / "masks", names)
    write_lists(data / "img_idx", train_blobs=names[:-2], test_blobs=names[-2:])
    run = ["--dataset", str(data), "--output_root", str(tmp_path), "--epochs", "1", "--batch_size", "4"]
    run += ["--train_size", "32", "--aux_weight", "0.5", "--tensorboard", "false"]
    network = ["--model", f"{code}:TinyNet", "--model_options", "width=2", "--interface", "main=-1"]
    assert main([*run, *network]) == 0
    folder = tmp_path / "blobs" / "TinyNet" / "train"
    with pytest.raises(
        InputError, match=r"code that only a checkpoint names is not run: add --model .*tiny\.py:TinyNet"
    ):
        main(["--resume", str(folder), "--epochs", "2"])
    (tmp_path / "more.yaml").write_text("lr: 0.001\n")
    weights = ["--config", str(tmp_path / "more.yaml"), "--init_weights", str(folder / "checkpoint_best.pth")]
    with pytest.raises(InputError, match="code that only a checkpoint names is not run"):
        main([*weights, "--resume", str(folder), "--epochs", "2"])
    assert main(["--resume", str(folder), "--epochs", "2", "--model", f"{code}:TinyNet"]) == 0
    assert "continuing" in capsys.readouterr().out

    best, output = folder / "checkpoint_best.pth", tmp_path / "results"
    test = ["--model_path", str(best), "--dataset", str(data), "--output_dir", str(output)]
    with pytest.raises(InputError, match="a checkpoint brings no code"):
        inference.main(test)
    inference.main([*test, "--model", f"{code}:TinyNet"])
    measured = json.loads((output / "metrics.json").read_text())["protocols"]["standard"]
    assert measured["iou"] > 0
    assert measured["iou"] == json.loads((folder / "test.json").read_text())["metrics"]["iou"]


def test_weights_of_a_network_from_a_file_bring_its_interface_and_options(tmp_path):
    code, weights, config = tmp_path / "net.py", tmp_path / "weights.pth", tmp_path / "mine.yaml"
    code.write_text(CODE)
    interface = {"frames": 5, "stride": 2, "target": "last", "layout": "BCTHW"}
    network = build_model(f"{code}:Clips", interface, width=3)
    save_checkpoint(weights, network, {"preset": "local_contrast", "model": "elsewhere/net.py:Clips"})
    config.write_text("model_options: {width: 6}\ninterface: {stride: 3}\n")
    options = {"dataset": "x", "init_weights": str(weights), "output_root": str(tmp_path)}
    named = options | {"model": f"{code}:Clips"}

    def built(config, options):
        settings = find_start(config, options).settings
        model = build_model(settings.model, settings.interface, **settings.model_options)
        return settings.preset, model.num_frames, model.frame_stride, model.causal, model.options["width"]

    assert built(None, named) == ("local_contrast", 5, 2, True, 3)
    more = {"interface": {"stride": "4"}, "model_options": {"width": "7"}}
    assert built(None, named | more) == ("local_contrast", 5, 4, True, 7)
    assert built(str(config), named) == ("local_contrast", 5, 3, True, 6)
    assert built(str(config), named | more) == ("local_contrast", 5, 4, True, 7)
    for chosen in (None, str(config)):  # a run that is continued, with the weights gone
        start = find_start(chosen, named | more)
        save_checkpoint(start.folder / LAST, network, asdict(start.settings), {"position": {}})
    weights.rename(tmp_path / "kept.pth")
    for chosen in (None, str(config)):
        assert built(chosen, named | more | {"resume": "auto"}) == ("local_contrast", 5, 4, True, 7)
    (tmp_path / "kept.pth").rename(weights)

    other = options | {"model": f"{code}:TinyNet", "init_partial": True}
    assert find_start(None, other).settings.interface == {}
    with pytest.raises(InputError, match=r"a checkpoint brings no code, so name it: --model path/to/net\.py:Clips"):
        find_start("fine_tune", options)
