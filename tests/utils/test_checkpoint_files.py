"""Checkpoint files as people have them: damaged, wrongly typed, wrapped by other programs, by name, as safetensors."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch

from istd.models import DATransNet, Network, build_model, load_model, load_weights
from istd.models.sgmp_unet import SGMPUNet
from istd.models.weights import load_fitting
from istd.utils.checkpoint import WEIGHT_KEYS, read_checkpoint, save_checkpoint
from istd.utils.checkpoint_paths import WEIGHTS, shipped_weights
from istd.utils.errors import InputError

DAMAGED = 1000  # bytes


@pytest.fixture(scope="module")
def network():
    """A small network whose weights are all different from those of a fresh one."""
    torch.manual_seed(7)
    return build_model("datransnet", width=8, image_size=64)


def flip_bytes(path, start, count=DAMAGED):
    data = bytearray(path.read_bytes())
    data[start : start + count] = bytes(255 - value for value in data[start : start + count])
    path.write_bytes(data)


def assert_same_weights(network, other):
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_damage_in_the_middle_is_noticed(tmp_path):
    path = shutil.copy(WEIGHTS / "datransnet.pth", tmp_path / "damaged.pth")
    flip_bytes(path, path.stat().st_size // 2)
    torch.load(path, weights_only=True)  # which torch does not notice
    with pytest.raises(InputError, match=r"damaged\.pth is damaged: the checksum of .*/data/\d+ in it is wrong"):
        load_model(path)


def test_a_file_without_checksums_is_read(network, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(network.state_dict(), tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same_weights(network, load_model(tmp_path / "plain.pth", width=8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(network, value, tmp_path):
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    weights["head.logit.bias"][0] = value
    torch.save(weights, tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"not finite \(head\.logit\.bias\); the file is damaged or its training"):
        load_model(tmp_path / "plain.pth", width=8)


@pytest.mark.parametrize("key", ["", *WEIGHT_KEYS])
@pytest.mark.parametrize("prefix", ["", "net.", "module.net."])
def test_weights_under_other_keys_and_prefixes(network, key, prefix, tmp_path):
    weights = {prefix + name: weight for name, weight in network.state_dict().items()}
    for layer in ("", "head.", "head.logit."):  # as thop leaves them
        weights[f"{prefix}{layer}total_ops"] = weights[f"{prefix}{layer}total_params"] = torch.zeros(1).double()
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "other.pth")
    loaded = load_model(tmp_path / "other.pth", width=8, image_size=64)
    assert loaded.options == network.options
    assert_same_weights(network, loaded)


def test_of_several_sets_of_weights_the_first_known_is_used_and_said(network, tmp_path, capsys):
    zeros = {name: torch.zeros_like(weight) for name, weight in network.state_dict().items()}
    torch.save({"ema_state_dict": zeros, "state_dict": network.state_dict()}, tmp_path / "both.pth")
    assert_same_weights(network, load_model(tmp_path / "both.pth", width=8))
    assert "several sets of weights (state_dict, ema_state_dict); 'state_dict' is used" in capsys.readouterr().out


def test_a_prefix_that_belongs_to_the_network_is_no_wrapper(tmp_path):
    class Wrapped(torch.nn.Module):
        name, options = "wrapped", {}
        published_options = staticmethod(lambda weights: None)

        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(2, 1)

    network = Wrapped()
    torch.save({f"module.{name}": weight for name, weight in network.state_dict().items()}, tmp_path / "file.pth")
    other = Wrapped()
    load_weights(other, tmp_path / "file.pth")
    assert_same_weights(network, other)
    other = Wrapped()
    assert load_fitting(other, tmp_path / "file.pth") == ""
    assert_same_weights(network, other)


def test_a_plain_state_dict_of_other_options_says_what_differs(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"does not fit datransnet with options .*'width': 16.*of another shape"):
        load_model(tmp_path / "plain.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4447676\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html>\n<html><body>sign in</body></html>", r"a web page \(HTML\)"),
        (b"PK\x03\x04 no zip after all", "not a checkpoint, or it is truncated"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(content, message, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "weights.pth")


def test_a_zip_file_of_something_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "best.pth").write_bytes(b"x")
    archive = shutil.make_archive(str(tmp_path / "download"), "zip", tmp_path / "folder")
    with pytest.raises(InputError, match=r"a zip file of something else \(best\.pth\); unpack it"):
        read_checkpoint(archive)


def test_a_whole_network_is_refused_with_the_line_that_makes_a_good_file(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"refused.*torch\.load\('whole\.pth', weights_only=False\)\.state_dict\(\)"):
        read_checkpoint(tmp_path / "whole.pth")


WRONG = {
    "version": "1", "model": ["datransnet"], "weights": [torch.ones(1)], "settings": None, "training": "none",
    "model.name": 3, "model.options": ["width"], "model.code": "net.py", "weights.head.logit.bias": 1.0,
    "settings.preset": ["grey"], "settings.val_size": "256",
}  # fmt: skip


@pytest.mark.parametrize("part", WRONG)
def test_files_of_our_format_with_wrong_types(network, part, tmp_path):
    save_checkpoint(tmp_path / "good.pth", network, {})
    content = torch.load(tmp_path / "good.pth", weights_only=True)
    *folder, name = part.split(".", 1)
    (content[folder[0]] if folder else content)[name] = WRONG[part]
    torch.save(content, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=r"wrong\.pth is not as this code writes checkpoints: .*, expected "):
        load_model(tmp_path / "wrong.pth")


def test_integers_as_weights_are_named(network, tmp_path):
    weights = dict(network.state_dict()) | {"head.logit.bias": torch.zeros(1, dtype=torch.long)}
    torch.save(weights, tmp_path / "plain.pth")
    with pytest.raises(InputError, match=r"1 weights of another type: head\.logit\.bias \(torch\.int64"):
        load_model(tmp_path / "plain.pth", width=8)


def test_safetensors_come_back_whole(network, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_checkpoint(path, network, {"preset": "grey", "scales": [0.5, 1.0]}, {"epoch": 3})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.kind, checkpoint.model_name, checkpoint.training) == ("ours", "datransnet", {})
    assert checkpoint.options == network.options
    assert checkpoint.settings == {"preset": "grey", "scales": [0.5, 1.0]}
    assert_same_weights(network, load_model(path))
    flip_bytes(path, path.stat().st_size // 2, 4)
    with pytest.raises(InputError, match=r"weights\.safetensors is damaged: the checksum of its weights is wrong"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a safetensors file, or it is damaged"):
        read_checkpoint(path)


def test_safetensors_of_other_programs_are_read(network, tmp_path):
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "timm.safetensors")
    assert_same_weights(network, load_model(tmp_path / "timm.safetensors", width=8))


def test_weights_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"datransnet", "datransnet_nudt-sirst", "sgmp_unet_small"} <= set(shipped_weights())
    assert read_checkpoint("datransnet").path == WEIGHTS / "datransnet.pth"
    (tmp_path / "datransnet").mkdir()  # a folder of that name changes nothing
    assert read_checkpoint("datransnet").path == WEIGHTS / "datransnet.pth"
    with pytest.raises(InputError, match=r"no checkpoint file unet; check the path, or name shipped weights: .*small"):
        load_model("unet")


def test_a_network_goes_to_the_hub_and_comes_back(network, tmp_path):
    """Offline: with a local folder instead of a repository of the Hub."""
    save_checkpoint(tmp_path / "best.pth", network, {"preset": "local_contrast", "dataset": "NUDT-SIRST"})
    load_model(tmp_path / "best.pth").save_pretrained(tmp_path / "hub")
    assert {file.name for file in (tmp_path / "hub").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    card = (tmp_path / "hub" / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for words in (
        "license: mit",
        "library_name: istd",
        f"{parameters:,} parameters",
        "preset `local_contrast`",
        "NUDT-SIRST",
    ):
        assert words in card
    assert_same_weights(network, DATransNet.from_pretrained(tmp_path / "best.pth"))
    with pytest.raises(InputError, match=r"last\.pth"):  # a checkpoint's name is not looked up in the Hub
        DATransNet.from_pretrained(tmp_path / "last.pth")
    back = DATransNet.from_pretrained(tmp_path / "hub")
    assert (back.options, back.training) == (network.options, False)
    assert back.settings["preset"] == "local_contrast"
    assert_same_weights(network, back)
    for other in (load_model(tmp_path / "hub"), Network.from_pretrained(tmp_path / "hub")):
        assert_same_weights(network, other)
    other = type("Other", (DATransNet,), {"name": "other"})
    with pytest.raises(
        InputError, match=r"holds a datransnet; load it with models\.Network\.from_pretrained\(\"/.*hub\"\)"
    ):
        other.from_pretrained(tmp_path / "hub")


def test_a_network_built_by_its_class_knows_its_options(tmp_path):
    built = DATransNet(64, width=8)
    assert built.options == copy.deepcopy(built).options == {"image_size": 64, "width": 8}
    built.save_pretrained(tmp_path)
    assert DATransNet.from_pretrained(tmp_path).options == built.options
    with pytest.raises(
        InputError, match=r"does not fit datransnet with options \{'image_size': 64, 'width': 8\}: 207 we"
    ):
        load_weights(built, "datransnet")


def test_shipped_weights_are_not_looked_up_in_the_hub():
    assert DATransNet.from_pretrained("datransnet").settings["preset"] == "grey"
    with pytest.raises(
        InputError, match=r"datransnet holds a datransnet; load it with models\.Network\.from_pretrained"
    ):
        SGMPUNet.from_pretrained("datransnet")


def test_a_network_is_pushed_with_its_card_and_options(network, monkeypatch):
    """A stand-in for the Hub's service notes what would be uploaded."""
    uploads, visibility = [], []

    class Service:
        def __init__(self, token):
            self.token = token

        def create_repo(self, repo_id, exist_ok, private=False):
            assert exist_ok
            visibility.append(private)
            return SimpleNamespace(repo_id=f"user/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
            files = {file.name: file.read_text(errors="replace") for file in Path(folder_path).iterdir()}
            uploads.append((self.token, repo_id, revision, commit_message, files))
            return "https://commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Service)
    assert network.push_to_hub("net", token="key", branch="dev", commit_message="New weights") == "https://commit"
    ((*facts, files),) = uploads
    assert facts == ["key", "user/net", "dev", "New weights"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert json.loads(files["config.json"]) == {"image_size": 64, "width": 8}
    network.push_to_hub("net", private=True, commit_message="Again")
    assert visibility == [False, True], "huggingface_hub decides unless it is told"
