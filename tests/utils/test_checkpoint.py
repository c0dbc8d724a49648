"""Checkpoint files: ours and both published formats are read exactly, anything else is refused and says why."""

import argparse
import os
import pathlib
import pickle
import random
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from istd.datasets.catalog import CATALOG
from istd.models import build_model, load_model, load_weights
from istd.models.sgmp_unet import SGMPUNet
from istd.test_script.predictor.preparation import load_recipe
from istd.utils.checkpoint import FORMAT, VERSION, read_checkpoint, save_checkpoint
from istd.utils.checkpoint_files import SAFE_TYPES
from istd.utils.errors import InputError
from tests.reference.network_cases import undrawn_weights
from tests.reference.plain_datransnet import PlainDATransNet
from tests.reference.plain_sgmp_unet import PlainSGMPUNet


class Attack:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, target):
        self.command = f"touch {target}"

    def __reduce__(self):
        return os.system, (self.command,)


def scramble(network, seed=0):
    """Every weight and statistic a little off, so that no two can be confused."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "relative" not in name:
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(value * (1 + 0.1 * noise) + 0.01 * noise)
    return network.eval()


def published_datransnet(path, image_size=256, prefix="model."):
    """A file as DATransNet's authors save it, and the plain network it is of."""
    plain = scramble(PlainDATransNet(image_size))
    weights = OrderedDict((prefix + name, weight) for name, weight in plain.state_dict().items())
    weights[prefix + "encoder5.0.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    weights[prefix + "decoder5.nConvs.0.conv.bias"] = torch.zeros(2)
    torch.save({"epoch": 400, "state_dict": weights, "total_loss": [0.5, 0.25]}, path)
    return plain


@pytest.fixture(scope="module")
def published_sgmp_unet(tmp_path_factory):
    """A file as SGMP-UNet's authors save it, and the plain network it is of."""
    path = tmp_path_factory.mktemp("published") / "sgmp_unet.pth"
    with undrawn_weights():
        plain = PlainSGMPUNet(num_frames=4)
    scramble(plain)
    content = {
        "model": plain.state_dict(),
        "optimizer": {"state": {}, "param_groups": []},
        "lr_scheduler": {"last_epoch": 29},
        "epoch": 29,
        "args": argparse.Namespace(dataset_name="IRDST", num_frames=4, output=pathlib.Path("runs/first")),
        "metrics": {"val_miou": np.float64(0.61), "frames": np.int64(7), "best": np.bool_(True)},
    }
    torch.save(content, path)
    return path, plain


@pytest.fixture
def datransnet():
    return scramble(build_model("datransnet", image_size=512, width=8))


def assert_same_weights(model, other):
    own, theirs = model.state_dict(), other.state_dict()
    assert own.keys() == theirs.keys()
    for name, weight in own.items():
        assert torch.equal(weight, theirs[name]), name


def test_our_format_comes_back_whole(datransnet, tmp_path):
    path = tmp_path / "new folder" / "checkpoint_last.pth"
    settings = {"dataset": "demo", "lr": 1e-3, "scales": [0.5, 1.0], "amp": None}
    training = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.arange(3.0)}}}, "random": (1, "x", b"bytes")}
    save_checkpoint(path, datransnet, settings, training)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.model_name, checkpoint.path) == ("ours", "datransnet", path)
    assert checkpoint.options == {"image_size": 512, "width": 8}
    assert checkpoint.settings == settings
    assert checkpoint.training["epoch"] == 3
    assert checkpoint.training["random"] == (1, "x", b"bytes")
    assert torch.equal(checkpoint.training["optimizer"]["state"][0]["exp_avg"], torch.arange(3.0))
    model = load_model(checkpoint)  # read once, used for both
    assert not model.training
    assert model.options == datransnet.options
    assert_same_weights(model, datransnet)
    assert load_model(path, image_size=256).options == {"image_size": 256, "width": 8}


def test_options_with_lists_of_numbers_come_back(tmp_path):
    options = {"num_frames": 2, "width": 48, "depths": (1, 1, 1, 1), "spatial_depths": (1, 1, 1, 1)}
    model = scramble(build_model("sgmp_unet", **options, decoder_depths=(1, 1, 1), head_depths=(1, 1)))
    save_checkpoint(tmp_path / "small.pth", model, {})
    loaded = load_model(tmp_path / "small.pth")
    assert loaded.options == model.options
    assert_same_weights(loaded, model)
    assert read_checkpoint(tmp_path / "small.pth").training == {}


@pytest.mark.parametrize("prefix", ["model.", "", "module.", "module.model."])
def test_published_datransnet(prefix, tmp_path):
    plain = published_datransnet(tmp_path / "model.pth.tar", image_size=512, prefix=prefix)
    checkpoint = read_checkpoint(tmp_path / "model.pth.tar")
    assert (checkpoint.kind, checkpoint.model_name) == ("published", None)
    assert (checkpoint.options, checkpoint.settings, checkpoint.training) == ({}, {}, {})
    model = load_model(checkpoint, image_size=512).double()
    assert (model.name, model.options) == ("datransnet", {"image_size": 512, "width": 16})
    image = torch.rand(2, 1, 64, 32, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        torch.testing.assert_close(model(image[:, None]), plain.double()(image), rtol=0, atol=1e-8)


def test_a_published_datransnet_has_the_image_size_of_the_dataset_it_is_measured_on(tmp_path):
    path = tmp_path / "model.pth.tar"
    published_datransnet(path)

    def size(*datasets, image_size=None):
        model, settings = load_recipe(path, image_size, [CATALOG[name] for name in datasets])
        assert settings == {}
        return model.options["image_size"]

    assert (size(), size("NUAA-SIRST"), size("NUDT-SIRST"), size("IRSTD-1K")) == (256, 256, 256, 512)
    assert size("IRSTD-1K", image_size=128) == 128
    with pytest.raises(InputError, match="these datasets have 256 and 512: give --image_size"):
        size("NUDT-SIRST", "IRSTD-1K")


def test_published_sgmp_unet(published_sgmp_unet):
    path, plain = published_sgmp_unet
    checkpoint = read_checkpoint(path)
    assert checkpoint.kind == "published"
    assert checkpoint.settings["dataset_name"] == "IRDST"
    assert str(checkpoint.settings["output"]) == os.path.join("runs", "first")
    model = load_model(path)
    assert (model.name, model.num_frames) == ("sgmp_unet", 4)
    clip = torch.randn(1, 4, 3, 32, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected = plain.double()(clip.transpose(1, 2))
        for logits, reference in zip(model.double()(clip, with_aux=True), expected, strict=True):
            torch.testing.assert_close(logits, reference, rtol=0, atol=1e-8)


def test_a_class_reads_published_options_and_takes_no_settings_of_others(published_sgmp_unet):
    network = SGMPUNet.from_pretrained(published_sgmp_unet[0])
    assert (network.options["num_frames"], network.options["width"], network.settings) == (4, 96, {})


def test_checkpoints_of_the_other_network_say_so(published_sgmp_unet, datransnet, tmp_path):
    with pytest.raises(InputError, match=r"an unknown network .*expected .* or a published one of datransnet"):
        load_weights(datransnet, published_sgmp_unet[0])
    save_checkpoint(tmp_path / "ours.pth", datransnet, {})
    other = nn.Linear(1, 1)
    other.name = "sgmp_unet"
    with pytest.raises(InputError, match=r"ours\.pth holds a datransnet checkpoint; expected one of sgmp_unet"):
        load_weights(other, tmp_path / "ours.pth")


def test_another_number_of_frames_is_listed(published_sgmp_unet):
    model = build_model("sgmp_unet", num_frames=2, width=48)
    with pytest.raises(InputError, match=r"'num_frames': 2.*weights of another shape: .* expected \[.*and \d+ more"):
        load_weights(model, published_sgmp_unet[0])


def test_misfits_are_listed_and_change_nothing(datransnet, tmp_path):
    save_checkpoint(tmp_path / "good.pth", datransnet, {})
    content = torch.load(tmp_path / "good.pth", weights_only=True)
    weights = content["weights"]
    for number in range(9):
        weights[f"extra{number}"] = torch.zeros(1)
    del weights["head.logit.bias"]
    weights["head.logit.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "bad.pth")
    model = build_model("datransnet", width=8)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(InputError) as raised:
        load_weights(model, tmp_path / "bad.pth")
    text = str(raised.value)
    assert "1 weights missing: head.logit.bias;" in text
    assert "9 weights unexpected: extra0, extra1," in text
    assert "extra7 and 1 more;" in text
    assert "1 weights of another shape: head.logit.weight [3], expected [1, 8, 1, 1]" in text
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_published_files_are_checked_as_strictly(tmp_path):
    published_datransnet(tmp_path / "file.pth.tar")
    content = torch.load(tmp_path / "file.pth.tar", weights_only=True)
    content["state_dict"]["model.encoder6.weight"] = content["state_dict"].pop("model.outc.1.bias")
    torch.save(content, tmp_path / "file.pth.tar")
    with pytest.raises(InputError, match=r"missing: head\.logit\.bias; 1 weights unexpected: encoder6\.weight"):
        load_model(tmp_path / "file.pth.tar")


def test_files_that_are_no_checkpoints(datransnet, tmp_path):
    with pytest.raises(InputError, match=r"there is no checkpoint file .*none\.pth; check the path"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(InputError, match="is a folder; expected a checkpoint file"):
        read_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "good.pth", datransnet, {})
    whole = (tmp_path / "good.pth").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"hello, world\n", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is not a checkpoint, or it is truncated"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_damage_ends_in_a_traceback(zipped, tmp_path):
    content = {"model": {"a": torch.ones(2, 3)}, "args": argparse.Namespace(x=1), "best": np.float64(0.5)}
    path = tmp_path / "damaged.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole, numbers = path.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[numbers.randrange(min(len(whole), 1200))] = numbers.randrange(256)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=re.escape(str(path))):
            load_model(path)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda content, path: torch.save(content, path), id="zip"),
        pytest.param(lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False), id="old"),
        pytest.param(lambda content, path: path.write_bytes(pickle.dumps(content, 2)), id="pickle 2"),
        pytest.param(lambda content, path: path.write_bytes(pickle.dumps(content)), id="pickle"),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_refused_and_not_run(write, tmp_path):
    path, target = tmp_path / "evil.pth", tmp_path / "harmed"
    write({"model": {"weight": torch.ones(1)}, "args": Attack(target)}, path)
    with pytest.raises(InputError, match=r"refused to load .*evil\.pth.*may be malicious"):
        read_checkpoint(path)
    assert not target.exists()
    if path.read_bytes().startswith(b"PK"):  # the attack is real
        torch.load(path, weights_only=False)
        assert target.exists()


def test_what_a_file_asks_to_build_is_named(tmp_path):
    torch.save({"model": Attack(tmp_path / "harmed")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"it asks to build '(posix|nt)\.system'"):
        read_checkpoint(tmp_path / "evil.pth")


def test_safe_types_are_forgotten_after_reading(datransnet, tmp_path):
    save_checkpoint(tmp_path / "good.pth", datransnet, {})
    read_checkpoint(tmp_path / "good.pth")
    assert not set(torch.serialization.get_safe_globals()) & {argparse.Namespace, *SAFE_TYPES[-2:]}


@pytest.mark.parametrize("name", ["pathlib.WindowsPath", "pathlib._local.PosixPath"])
def test_paths_of_other_systems_are_read(name, tmp_path, monkeypatch):
    kind = type(name.rpartition(".")[2], (), {"__reduce__": lambda self: (type(self), ("runs", "first"))})
    kind.__module__, kind.__qualname__ = name.rpartition(".")[0], kind.__name__
    module = type(os)(kind.__module__)
    setattr(module, kind.__name__, kind)
    plain = PlainDATransNet().state_dict()
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, kind.__module__, module)
        torch.save({"state_dict": plain, "args": argparse.Namespace(output=kind())}, tmp_path / "file.pth")
    assert read_checkpoint(tmp_path / "file.pth").settings["output"].parts == ("runs", "first")


def test_newer_and_incomplete_files_of_our_format(tmp_path):
    content = {"format": FORMAT, "version": VERSION + 1}
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=rf"newer version of this code \(format {VERSION + 1}.*update this code"):
        read_checkpoint(tmp_path / "file.pth")
    for content in ({"format": FORMAT}, {"format": FORMAT, "version": VERSION, "model": {"name": "datransnet"}}):
        torch.save(content, tmp_path / "file.pth")
        with pytest.raises(InputError, match="lacks a part of a checkpoint"):
            read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": torch.ones(1)}, r"unknown network \(first names: weight\); .* one of sgmp_unet or datransnet"),
        ({"model": {1: torch.ones(1)}}, "holds no network weights"),
        ({"model": {"weight": 3}}, "holds no network weights"),
        ([torch.ones(1)], "holds no network weights"),
        ({}, "holds no network weights"),
    ],
)
def test_other_contents(content, message, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / "file.pth")


def test_a_failed_write_leaves_the_old_file(datransnet, tmp_path):
    save_checkpoint(tmp_path / "file.pth", datransnet, {"run": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "file.pth", datransnet, {"run": lambda: 2})
    assert read_checkpoint(tmp_path / "file.pth").settings == {"run": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["file.pth"]


def test_a_disk_that_is_full_is_told_in_one_sentence(datransnet, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 832 vs 790")  # torch's words

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot write .*space"):
        save_checkpoint(tmp_path / "file.pth", datransnet, {})
