"""What a run refuses, records and says, so that its numbers are those of its data and its weights."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from istd.models import build_model
from istd.models.weights import load_fitting
from istd.train_script import selection, trainer
from istd.train_script.run_folder import Log, append_metrics, forget_later_metrics
from istd.train_script.settings import merge_settings
from istd.train_script.several_seeds import starts_of_seeds
from istd.train_script.signals import Interrupted
from istd.train_script.starting_point import find_start, last_component, start_from_weights
from istd.train_script.state import Progress
from istd.train_script.train import main
from istd.utils.checkpoint import read_checkpoint
from istd.utils.errors import InputError
from istd.utils.folder_lock import locked_folder
from tests.reference.datasets_folders import REPOSITORY
from tests.train.test_train import arguments, assert_same_run, dataset, folder_of, rows, unbroken  # noqa: F401


@pytest.fixture
def resumable(unbroken, tmp_path):  # noqa: F811
    """A copy of the run that nothing interrupted."""
    shutil.copytree(unbroken, folder_of(tmp_path))
    return folder_of(tmp_path)


def test_two_runs_do_not_share_a_folder(dataset, tmp_path):  # noqa: F811
    with locked_folder(folder_of(tmp_path)), pytest.raises(InputError, match=r"another command is writing to .*train"):
        main(arguments(dataset, tmp_path))
    assert not list(folder_of(tmp_path).iterdir())


@pytest.mark.parametrize("left", ["checkpoint_best.pth", "metrics.jsonl", "test.json"])
def test_a_run_that_cannot_be_continued_is_not_overwritten(tmp_path, left):
    options = {"dataset": "blobs", "output_root": str(tmp_path), "experiment_name": "run"}
    folder = folder_of(tmp_path)
    folder.mkdir(parents=True)
    for name in ("train.log", "run.json", "settings.yaml"):  # of a run that was killed in its first epoch
        (folder / name).touch()
    for resume in (None, "auto"):
        start = find_start(None, options | {"resume": resume})
        assert (start.folder, start.saved) == (folder, None)
    (folder / left).touch()
    for resume in (None, "auto"):
        with pytest.raises(InputError, match=f"holds {left} of a run whose checkpoint_last.pth is missing"):
            find_start(None, options | {"resume": resume})
    starts = starts_of_seeds(None, options | {"seeds": [1, 2]})  # in folders of their own
    assert [start.folder for start in starts] == [folder_of(tmp_path, f"run_seed{seed}") for seed in (1, 2)]


def test_data_commit_versions_and_command_are_recorded(dataset, resumable, tmp_path):  # noqa: F811
    assert main(arguments(dataset, tmp_path, resume="auto", epochs=3)) == 0
    record = json.loads((resumable / "run.json").read_text())
    assert [session["from_epoch"] for session in record["sessions"]] == [0, 2]
    assert {"command", "commit", "version", "python", "torch", "machine"} <= record["sessions"][0].keys()
    (data,) = record["data"]
    assert (data["name"], data["train"]["frames"], data["val"]["frames"]) == ("blobs", 18, 2)
    for name in ("checkpoint_last.pth", "checkpoint_best.pth"):
        assert read_checkpoint(resumable / name).training["data"] == record["data"]
    assert len({row["data"] for row in rows(resumable)}) == 1
    text = (resumable / "settings.yaml").read_text()
    assert f"# data: blobs, held-out images: 2, fingerprint {data['val']['fingerprint']}" in text
    assert yaml.safe_load(text)["epochs"] == 3


def test_a_run_goes_on_with_its_data_only_wherever_they_lie(dataset, resumable, tmp_path, capsys):  # noqa: F811
    last = (resumable / "checkpoint_last.pth").read_bytes()
    other = tmp_path / "other" / "blobs"  # the same last name, so the same folder of results
    shutil.copytree(dataset, other)
    lists = other / "img_idx"
    train, test = ((lists / f"{part}_blobs.txt").read_text().splitlines() for part in ("train", "test"))
    (lists / "train_blobs.txt").write_text("\n".join([*train[1:], test[0]]))
    (lists / "test_blobs.txt").write_text("\n".join([train[0], test[1]]))
    with pytest.raises(InputError, match=r"other data: training images of blobs \(18 then, 18 now, others\)"):
        main(arguments(other, tmp_path, resume="auto"))  # although nothing is left to be done
    assert (resumable / "checkpoint_last.pth").read_bytes() == last

    moved = tmp_path / "moved" / "blobs"
    shutil.copytree(dataset, moved, copy_function=shutil.copyfile)
    capsys.readouterr()
    assert main(arguments(moved, tmp_path, resume="auto", epochs=3)) == 0
    assert "an unbroken one: epochs 2 -> 3\n" in capsys.readouterr().out, "the place of the data is no change"
    shutil.rmtree(moved)
    with pytest.raises(
        InputError, match=r"checkpoint_last.pth names its dataset .*moved.* give its place with --dataset"
    ):
        main(["--resume", str(resumable)])
    assert main(["--resume", str(resumable), "--dataset", str(dataset)]) == 0


def test_weights_bring_their_network_and_preset(dataset, tmp_path, capsys):  # noqa: F811
    assert main(arguments(dataset, tmp_path, "first", epochs=1, preset="local_contrast")) == 0
    weights = folder_of(tmp_path, "first") / "checkpoint_best.pth"
    words = arguments(dataset, tmp_path, "second", epochs=1, init_weights=weights, resume="auto")
    for option in ("--model", "--model_options"):
        del words[words.index(option) : words.index(option) + 2]
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"preset local_contrast instead of grey, since {weights} was trained with it" in out
    assert "before the first epoch: validation (holdout, standard): IoU" in out
    second = read_checkpoint(folder_of(tmp_path, "second") / "checkpoint_last.pth")
    assert (second.model_name, second.options["width"]) == ("datransnet", 4)
    assert second.settings["preset"] == "local_contrast"
    assert second.training["position"]["start"] is not None
    weights.unlink()  # no longer needed
    assert main([*words, "--epochs", "2"]) == 0
    assert "settings changed" in (out := capsys.readouterr().out) and "preset local_contrast ->" not in out


def test_another_preset_than_that_of_the_weights_is_said(dataset, unbroken, tmp_path, capsys):  # noqa: F811
    options = {"init_weights": unbroken / "checkpoint_best.pth", "epochs": 1, "preset": "local_contrast"}
    assert main(arguments(dataset, tmp_path, **options)) == 0
    assert "was trained with preset grey, this run shows it frames of preset local_contrast" in capsys.readouterr().out
    assert read_checkpoint(folder_of(tmp_path) / "checkpoint_last.pth").settings["preset"] == "local_contrast"


def keep(scores, monkeypatch, start=None):
    """The best entries after epochs with these scores, and what the log says of the last of them."""
    saved = []
    monkeypatch.setattr(selection, "save_weights", lambda run, training, names, **note: saved.extend(names))
    run = SimpleNamespace(settings=SimpleNamespace(keep_best=2), select_by="iou")
    training = SimpleNamespace(progress=Progress(start=start))
    said = [selection.keep_if_best(run, training, score, epoch) for epoch, score in enumerate(scores, 1)]
    assert saved[1] == selection.BEST and saved[0].endswith("epoch_1.pth")
    return training.progress.best, said[-1]


def test_of_equal_scores_the_later_epoch_is_kept(monkeypatch):
    assert keep([0.5, 0.5, 0.25], monkeypatch) == ([[0.5, 2], [0.5, 1]], "")
    assert keep([0.0, None, 0.0], monkeypatch) == ([[0.0, 3], [0.0, 1]], " (kept; iou is zero in every epoch so far)")
    assert keep([None], monkeypatch)[1] == " (kept; iou is undefined in every epoch so far)"
    assert keep([0.25, 0.5], monkeypatch, start=0.625)[1] == (
        " (best so far, but the weights it began with have IoU 62.50 %)"
    )


def test_a_run_that_chooses_nothing_ends_with_its_last_weights_wherever_it_ends(tmp_path, monkeypatch):
    network = nn.Linear(1, 1)
    network.name, network.options = "linear", {}
    measured = []
    monkeypatch.setattr(
        trainer, "evaluate_sets", lambda *_, **__: measured.append(network.weight.item()) or ({"iou": 0.5}, {}, None)
    )
    for epochs, trained in ((8, 8), (10, 10), (5, 10)):  # 8: lowered to the epochs that were already trained
        settings = merge_settings(None, {"dataset": "x", "select_on": "none", "epochs": epochs})
        facts = {"data_record": [], "norm_sets": [], "test_loaders": [], "protocol": "standard", "select_by": "iou"}
        run = SimpleNamespace(settings=settings, folder=tmp_path, log=print, batches=SimpleNamespace(steps=1), **facts)
        nn.init.constant_(network.weight, trained)
        trainer.run_epochs(run, SimpleNamespace(progress=Progress(epoch=trained), weights=lambda: network))
        best = read_checkpoint(tmp_path / "checkpoint_best.pth")
        assert (best.weights["weight"].item(), best.training["epoch"]) == (trained, trained)
        assert json.loads((tmp_path / "test.json").read_text())["epoch"] == trained
    assert measured == [8, 10]


def test_only_the_writers_errors_ask_for_space(tmp_path, monkeypatch):
    log = Log()
    log.path = tmp_path / "train.log"

    def closed(*_given, **_options):
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", closed)
        with pytest.raises(BrokenPipeError):
            log("a line")
    assert log.path.read_text() == "a line\n", "the file has it all the same"
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*metrics.jsonl: .*; make space and continue"):
        append_metrics(tmp_path, {})


def test_lines_that_a_kill_cut_off_spoil_no_others(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for cut, kept in (('{"epo', [1]), ('{"epoch": 2}', [1, 2]), ('{"epoch": 3}\n', [1])):
        metrics.write_text('{"epoch": 1}\n' + cut)
        forget_later_metrics(tmp_path, 2)
        append_metrics(tmp_path, {"epoch": 3})
        assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [*kept, 3]


def test_no_name_leads_out_of_the_output_folder(tmp_path, monkeypatch):
    (tmp_path / "blobs" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "blobs" / "images")
    assert list(map(last_component, ("..", ".", "a/b/"))) == ["blobs", "images", "b"]
    assert last_component("../..") == tmp_path.name
    for name in ("..", ".", "a/b", ""):
        with pytest.raises(InputError, match="the name of one folder"):
            main(["--dataset", "x", "--experiment_name", name])


def test_weights_that_fit_in_part_are_loaded_and_the_rest_is_listed(dataset, unbroken, tmp_path, capsys):  # noqa: F811
    weights = unbroken / "checkpoint_best.pth"
    options = {"init_weights": weights, "epochs": 1, "model_options": "width=8"}
    with pytest.raises(InputError, match="does not fit datransnet"):
        main(arguments(dataset, tmp_path, **options))
    assert main(arguments(dataset, tmp_path, init_partial=True, lr=0, ema=0, **options)) == 0
    out = capsys.readouterr().out
    assert f"{weights} does not fill all of datransnet: " in out and "weights of another shape: " in out
    first, second = (read_checkpoint(path).weights for path in (weights, folder_of(tmp_path) / "checkpoint_last.pth"))
    same = [name for name in first if first[name].shape == second[name].shape and "running" not in name]
    assert same and all(first[name].equal(second[name]) for name in same if "num_batches" not in name)
    other = nn.Linear(1, 1)
    other.name = "other"
    with pytest.raises(InputError, match=r"no weight of .* fits other"):
        load_fitting(other, weights)


def test_fine_tuning_continues_with_the_network_and_preset_of_its_weights(dataset, tmp_path, capsys):  # noqa: F811
    assert main(arguments(dataset, tmp_path, "first", epochs=1, preset="local_contrast")) == 0
    weights = folder_of(tmp_path, "first") / "checkpoint_best.pth"
    words = arguments(dataset, tmp_path, "tuned", epochs=1, init_weights=weights, resume="auto", config="fine_tune")
    for option in ("--model", "--model_options"):
        del words[words.index(option) : words.index(option) + 2]
    assert main(words) == 0
    weights.unlink()
    capsys.readouterr()
    assert main([*words, "--epochs", "2"]) == 0
    assert "an unbroken one: epochs 1 -> 2\n" in capsys.readouterr().out
    saved = read_checkpoint(folder_of(tmp_path, "tuned") / "checkpoint_last.pth")
    assert (saved.model_name, saved.settings["lr"]) == ("datransnet", 0.0001)
    assert saved.settings["preset"] == "local_contrast"


def test_weights_that_are_named_bring_their_network_to_a_run_that_may_be_continued():
    options = {"init_weights": "datransnet", "resume": "auto", "dataset": "demo"}
    settings, _ = start_from_weights("fine_tune", options)
    assert (settings.model, settings.preset) == ("datransnet", "grey")


def test_fine_tuning_begins_with_weights_whether_or_not_they_are_named():
    settings, _ = start_from_weights("fine_tune", {"dataset": "x"})
    assert (settings.model, settings.preset, settings.init_weights) == ("datransnet", "grey", "datransnet")
    other = str(REPOSITORY / "weights" / "sgmp_unet_small.pth")
    settings, _ = start_from_weights("fine_tune", {"dataset": "x", "init_weights": other})
    assert settings.init_weights == other and settings.model != "datransnet"


def test_options_of_a_configuration_go_before_those_of_the_weights(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("init_weights: datransnet\nmodel_options: {image_size: 512}\n")
    for options, size in (({}, 512), ({"model_options": {"image_size": "64"}}, 64)):
        settings, _ = start_from_weights(str(config), {"dataset": "x"} | options)
        assert (settings.model, settings.model_options) == ("datransnet", {"image_size": size, "width": 16})
    config.write_text("init_weights: datransnet\nmodel: sgmp_unet_small\nmodel_options: {width: 24}\n")
    settings, _ = start_from_weights(str(config), {"dataset": "x"})
    assert (settings.model, settings.model_options) == ("sgmp_unet_small", {"width": 24})
    settings, _ = start_from_weights(None, {"dataset": "x", "init_weights": "datransnet", "model": "datransnet"})
    assert settings.model_options == {}, "a network that is named may be another size"


@pytest.mark.parametrize(
    ("weights", "options", "network"),
    [
        ({"model.contras1.query_convs.0.weight": (1, 8, 1, 1)}, {}, ("datransnet", {"image_size": 512, "width": 8})),
        ({"encoder.model.1.fusionst.proj_k.weight": (1, 2, 1, 1)}, {}, ("sgmp_unet", {"num_frames": 4})),
        ({}, {"width": "4"}, ("datransnet", {"image_size": 512, "width": 4})),
    ],
)
def test_weights_of_other_programs_bring_their_network_and_preset(tmp_path, weights, options, network):
    """Published files, which the names of these weights tell, and a plain state_dict()."""
    path = tmp_path / "weights.pth"
    plain = build_model("datransnet", width=4).state_dict()
    torch.save({name: torch.zeros(shape) for name, shape in weights.items()} or plain, path)
    start = {"init_weights": str(path), "dataset": "IRSTD-1K", "model_options": options}
    settings, notes = start_from_weights("fine_tune", start)
    assert (settings.model, settings.model_options, settings.preset) == (*network, network[0])
    assert notes == [f"preset {network[0]} instead of grey, since {path} was trained with it"]
    settings, notes = start_from_weights("fine_tune", start | {"preset": "grey"})
    assert settings.preset == "grey" and "trained with preset" in notes[0]


def test_weights_of_no_known_network_may_fit_in_part(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    settings, notes = start_from_weights(None, {"init_weights": str(tmp_path / "weights.pth"), "init_partial": True})
    assert (settings.model, notes) == ("sgmp_unet", [])


def test_an_interrupted_first_validation_is_made_up_for(dataset, resumable, tmp_path, monkeypatch, capsys):  # noqa: F811
    words = arguments(dataset, tmp_path, "second", epochs=1, init_weights=resumable / "checkpoint_best.pth")

    def interrupted(*_):
        raise Interrupted(15)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "evaluate_sets", interrupted)
        assert main(words) == 143
    capsys.readouterr()
    assert main([*words, "--resume", "auto"]) == 0
    assert "before the first epoch: validation" in capsys.readouterr().out
