"""Training from the command line: what it writes, how it continues, what it refuses."""

import json
import os
import re
import shutil
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from istd.models import load_model
from istd.train_script import steps, trainer, validation
from istd.train_script.signals import SIGNALS
from istd.train_script.tensorboard import EPOCH_LOSS, EXAMPLE_TAG, draw_target, open_writer
from istd.train_script.train import main
from istd.utils.checkpoint import read_checkpoint
from istd.utils.drawing import PREDICTED, TRUTH
from istd.utils.errors import InputError
from tests.processes import start
from tests.reference.datasets_folders import write_lists, write_pairs

IMAGES = 22  # 20 train (2 of them held out), 2 test


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("data") / "blobs")


def write_blobs(root):
    """Small images with one bright target each, in the commonest layout."""
    names = [f"{index:02d}" for index in range(IMAGES)]
    write_pairs(root / "images", root / "masks", names)
    write_lists(root / "img_idx", train_blobs=names[:-2], test_blobs=names[-2:])
    return root


def arguments(folder, outputs, name="run", **options):
    """Command line of a small run: 4 steps an epoch."""
    values = {
        "dataset": folder,
        "model": "datransnet",
        "model_options": "width=4",
        "train_size": 32,
        "batch_size": 4,
        "epochs": 2,
        "val_batch_size": 2,
        "amp": "none",
        "ema": 0.9,
        "tensorboard": False,
        "final_test": False,
        "output_root": outputs,
        "experiment_name": name,
    } | options
    return [text for key, value in values.items() for text in (f"--{key}", str(value))]


def folder_of(outputs, name="run"):
    return Path(outputs) / "blobs" / name / "train"


def rows(folder):
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("train_seconds", "val_seconds", "minutes", "samples_per_second", "data_share")
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines]


def assert_same(left, right):
    """Equal to the last bit, through dicts and lists."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left.keys() - {"seconds", "train_seconds", "data_seconds"}:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


def assert_same_run(left, right):
    """Two runs ended with the same weights, training state, metrics and choice."""
    for name in ("checkpoint_last.pth", "checkpoint_best.pth"):
        one, other = read_checkpoint(left / name), read_checkpoint(right / name)
        assert_same(one.weights, other.weights)
        assert_same(one.training, other.training)
    assert rows(left) == rows(right)
    kept = [sorted(path.name for path in folder.glob("checkpoint_best_val*")) for folder in (left, right)]
    assert kept[0] == kept[1]


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    outputs = tmp_path_factory.mktemp("unbroken")
    assert main(arguments(dataset, outputs)) == 0
    return folder_of(outputs)


class PowerCut(BaseException):
    """Ends a run at once, as SIGKILL would."""


def cut_after(monkeypatch, writings):
    """Let the run end right after checkpoint_last.pth has been written so many times."""
    real, count = trainer.save_progress, 0

    def save_progress(*arguments):
        nonlocal count
        real(*arguments)
        count += 1
        if count == writings:
            raise PowerCut

    monkeypatch.setattr(trainer, "save_progress", save_progress)


def test_a_run_leaves_what_it_promises(dataset, tmp_path, capsys):
    options = {"tensorboard": True, "final_test": True, "keep_best": 1, "epochs": 3}
    assert main(arguments(dataset, tmp_path, **options)) == 0
    folder = folder_of(tmp_path)
    names = {path.name for path in folder.iterdir()}
    best = [name for name in names if name.startswith("checkpoint_best_val_iou_")]
    assert len(best) == 1
    plain = {"checkpoint_best.pth", "checkpoint_last.pth", "metrics.jsonl", "settings.yaml", "run.json"}
    assert names == plain | {"train.log", "tensorboard", "test.json", *best}
    lines = rows(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(line["selected_on"] == "holdout" and line["protocol"] == "standard" for line in lines)
    report = json.loads((folder / "test.json").read_text())
    scores = [line["val"]["iou"] for line in lines]
    assert report["epoch"] == max(epoch for epoch, score in enumerate(scores, 1) if score == max(scores))
    model = load_model(folder / "checkpoint_best.pth")
    assert model.name == "datransnet" and not model.training
    out = capsys.readouterr().out
    assert out == (folder / "train.log").read_text()
    assert "held out; the test set is evaluated once, at the end" in out
    assert "2 of 20 training images" in out

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()
    assert {"val/iou", "val/pd", "test/iou", "test/loss"} <= set(events.Tags()["scalars"])
    for tag, key in ((EPOCH_LOSS, "loss"), ("val/loss", "val_loss")):
        assert [point.value for point in events.Scalars(tag)] == pytest.approx([line[key] for line in lines])
    plugins = events.summary_metadata
    start = HParamsPluginData.FromString(plugins["_hparams_/session_start_info"].plugin_data.content)
    assert start.session_start_info.hparams["epochs"].number_value == 3
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    curves = layout.category[0].chart[0].multiline.tag
    assert all(any(re.fullmatch(curve, tag) for tag in events.Tags()["scalars"]) for curve in curves)
    assert f"val/{EXAMPLE_TAG}" in events.Tags()["images"]
    assert "val/pixel precision-recall" in events.Tags()["tensors"]


def test_a_target_is_drawn_enlarged_beside_its_scores():
    grey, mask = np.zeros((100, 100)), np.zeros((100, 100), bool)
    mask[10:12, 60:62] = True
    probability = np.zeros((100, 100))
    probability[20, 70] = 1
    picture = draw_target(grey, mask, probability)
    assert picture.shape == (48 * 4, 2 * 48 * 4, 3)
    left = round(60.5) - 24  # the frame's top edge keeps the window at row 0
    assert tuple(picture[4 * 10 - 1, 4 * (60 - left)]) == TRUTH == tuple(picture[4 * 10 - 1, 4 * (48 + 60 - left)])
    assert tuple(picture[4 * 20 - 1, 4 * (70 - left)]) == PREDICTED
    assert tuple(picture[4 * 20, 4 * (48 + 70 - left)]) == (255, 255, 255)


def test_selection_on_the_test_set_is_said(dataset, tmp_path, capsys):
    assert main(arguments(dataset, tmp_path, select_on="test", epochs=1, final_test=True)) == 0
    out = capsys.readouterr().out
    assert "ON THE TEST SET" in out and "chosen on the same images" in out


def test_a_run_that_chooses_nothing_trains_on_all_images_and_ends_with_its_last_weights(dataset, tmp_path, capsys):
    words = arguments(dataset, tmp_path, select_on="none", final_test=True, resume="auto")
    assert main(words) == 0
    folder = folder_of(tmp_path)
    best, last = (read_checkpoint(folder / f"checkpoint_{name}.pth") for name in ("best", "last"))
    assert_same(best.weights, last.weights)
    (record,) = last.training["data"]
    assert best.training == {"epoch": 2, "selected_by": None, "selected_on": "none", "data": [record]}
    assert "val" not in record and (record["train"]["frames"], record["test"]["frames"]) == (20, 2)
    assert not list(folder.glob("checkpoint_best_val*"))
    assert [(row["selected_on"], "val" in row, row["step"]) for row in rows(folder)] == [
        ("none", False, 5),  # 20 images in batches of 4
        ("none", False, 10),
    ]
    report = json.loads((folder / "test.json").read_text())
    chosen = {name: report[name] for name in ("epoch", "selected_by", "selected_on", "val_score")}
    assert chosen == {"epoch": 2, "selected_by": None, "selected_on": "none", "val_score": None}
    out = capsys.readouterr().out
    assert "selection: none; all training images" in out and "nothing was held out or chosen" in out
    assert main(words) == 0 and "test set (" not in capsys.readouterr().out
    with pytest.raises(InputError, match="do not compare"):
        main(arguments(dataset, tmp_path, select_on="holdout", resume="auto"))


def test_the_test_set_is_measured_again_only_with_other_weights(dataset, tmp_path, capsys):
    words = arguments(dataset, tmp_path, epochs=1, final_test=True, resume="auto")
    assert main(words) == 0
    report = folder_of(tmp_path) / "test.json"
    first = report.read_text()
    capsys.readouterr()
    assert main(words) == 0 and "test set (" not in capsys.readouterr().out
    report.write_text(first.replace('"epoch": 1', '"epoch": 7'))  # as if the run had gone on
    assert main(words) == 0 and "test set (" in capsys.readouterr().out
    assert report.read_text() == first


def test_it_learns(dataset, tmp_path):
    options = {"epochs": 6, "epoch_samples": 48, "val_every": 6, "lr": 0.02, "loss": "soft_iou", "ema": 0}
    assert main(arguments(dataset, tmp_path, **options)) == 0
    lines = rows(folder_of(tmp_path))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["val"]["iou"] > 0.85  # rounding decides the third digit
    assert [("val" in line) for line in lines] == [False] * 5 + [True]


def test_same_seed_same_weights_other_seed_others(dataset, unbroken, tmp_path):
    main(arguments(dataset, tmp_path, num_workers=1))
    assert_same_run(folder_of(tmp_path), unbroken)
    main(arguments(dataset, tmp_path, "other", seed=7, epochs=1))
    assert rows(folder_of(tmp_path, "other"))[0]["loss"] != rows(unbroken)[0]["loss"]


def test_killed_in_mid_epoch_and_resumed_equals_unbroken(dataset, unbroken, tmp_path):
    argv = arguments(dataset, tmp_path, save_steps=1, resume="auto")
    last = folder_of(tmp_path) / "checkpoint_last.pth"
    process = start(tmp_path / "said.txt", main, argv)
    while not last.exists() and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    position = read_checkpoint(last).training["position"]
    assert position["epoch"] == 0 and 1 <= position["step"] < 4
    assert main(argv) == 0
    assert_same_run(last.parent, unbroken)


def test_losses_that_are_read_every_few_steps_and_saved_by_the_clock_change_nothing(
    dataset, unbroken, tmp_path, monkeypatch
):
    """As on a GPU, where reading a loss waits for it."""
    saves, save = [], trainer.save_progress
    monkeypatch.setattr(
        trainer, "save_progress", lambda run, training: (saves.append(training.progress.step), save(run, training))
    )
    monkeypatch.setattr(trainer, "steps_between_reads", lambda device: 3)
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0)
    main(arguments(dataset, tmp_path))
    assert_same_run(folder_of(tmp_path), unbroken)
    assert saves == [3, 4, 0] * 2  # after step 3, at the end of the epoch, and after validation


def test_a_signal_to_another_process_stops_validation_in_this_one(dataset, tmp_path, monkeypatch):
    gather = validation.gather_objects
    monkeypatch.setattr(validation, "gather_objects", lambda item: [*gather(item), (signal.SIGTERM, item[1])])
    assert main(arguments(dataset, tmp_path)) == 128 + signal.SIGTERM


@pytest.mark.parametrize("writings", [1, 2])
def test_cut_after_an_epoch_or_before_its_validation_equals_unbroken(
    dataset, unbroken, tmp_path, monkeypatch, writings
):
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut_after(patch, writings)
        main(arguments(dataset, tmp_path))
    assert main(arguments(dataset, tmp_path, resume="auto")) == 0
    assert_same_run(folder_of(tmp_path), unbroken)


def test_resuming_by_path_alone_takes_the_settings_of_the_run(dataset, unbroken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut_after(patch, 2)
        main(arguments(dataset, tmp_path))
    assert main(["--resume", str(folder_of(tmp_path))]) == 0
    assert_same_run(folder_of(tmp_path), unbroken)


def test_a_run_goes_on_where_it_was_begun_on(dataset, unbroken, tmp_path, monkeypatch):
    folder = folder_of(tmp_path)
    shutil.copytree(unbroken, folder)
    saved = torch.load(folder / "checkpoint_last.pth", weights_only=True)
    saved["settings"]["device"] = "cuda:1"
    torch.save(saved, folder / "checkpoint_last.pth")
    asked = []
    monkeypatch.setattr(
        "istd.train_script.train.process_group", lambda device: asked.append(device) or nullcontext("cpu")
    )
    monkeypatch.setattr("istd.train_script.train.train", lambda *_: 0)
    main(["--resume", str(folder)])
    assert asked == ["cuda:1"]


def test_a_run_does_not_choose_by_two_metrics(dataset, unbroken, tmp_path):
    folder = folder_of(tmp_path)
    shutil.copytree(unbroken, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".log"}
    for options in ({"select_by": "pd"}, {"select_on": "test"}, {"protocol": "dtum"}):
        with pytest.raises(InputError, match=r"chosen by iou \(standard\) on holdout, now .* do not compare"):
            main(arguments(dataset, tmp_path, resume="auto", epochs=3, **options))
    assert before == {name: (folder / name).read_bytes() for name in before}
    assert main(arguments(dataset, tmp_path, resume="auto", select_by="iou", protocol="standard")) == 0


def test_a_refused_run_keeps_its_settings(dataset, unbroken, tmp_path):
    shutil.copytree(unbroken, folder_of(tmp_path))
    before = (folder_of(tmp_path) / "settings.yaml").read_text()
    with pytest.raises(InputError, match="options"):
        main(arguments(dataset, tmp_path, resume="auto", model_options="width=8"))
    assert (folder_of(tmp_path) / "settings.yaml").read_text() == before


def test_without_a_final_test_no_test_images_are_needed(tmp_path):
    names = [f"{index:02d}" for index in range(6)]
    write_pairs(tmp_path / "blobs" / "images", tmp_path / "blobs" / "masks", names)
    write_lists(tmp_path / "blobs", train=names, test=[])
    assert main(arguments(tmp_path / "blobs", tmp_path, epochs=1)) == 0
    with pytest.raises(InputError, match="split 'test' of blobs is empty"):
        main(arguments(tmp_path / "blobs", tmp_path, "tested", epochs=1, final_test=True))


def test_a_run_that_was_never_validated_cannot_be_tested(dataset, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut_after(patch, 2)
        main(arguments(dataset, tmp_path, val_every=2, epochs=2))
    with pytest.raises(InputError, match="was validated"):
        main(arguments(dataset, tmp_path, val_every=2, epochs=1, final_test=True, resume="auto"))


def test_tensorboard_keeps_the_last_validation_of_a_resumed_run(tmp_path):
    for first, step in ((0, 100), (100, 200)):
        writer = open_writer(tmp_path, first, {})
        writer.add_scalar("val/iou", step / 1000, step)
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val/iou")] == [100, 200]


def test_accumulated_parts_resume_too(dataset, tmp_path, monkeypatch):
    options = {"accumulate": 2, "epochs": 1, "limit_train": 8, "amp": "bf16", "ema": 0}  # two steps
    main(arguments(dataset, tmp_path, "unbroken", **options))
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut_after(patch, 1)
        main(arguments(dataset, tmp_path, save_steps=1, **options))
    assert main(arguments(dataset, tmp_path, resume="auto", **options)) == 0
    assert_same_run(folder_of(tmp_path), folder_of(tmp_path, "unbroken"))


def test_without_a_good_checkpoint_it_stops(dataset, unbroken, tmp_path):
    folder = folder_of(tmp_path)
    shutil.copytree(unbroken, folder)
    last = folder / "checkpoint_last.pth"
    os.truncate(last, last.stat().st_size // 2)
    with pytest.raises(InputError, match=r"cannot continue: .*truncated.* --init_weights .*checkpoint_best.pth"):
        main(arguments(dataset, tmp_path, resume="auto"))
    with pytest.raises(InputError, match="does not exist"):
        main(arguments(dataset, tmp_path, resume=tmp_path / "nothing.pth"))


def test_weights_alone_are_not_resumed(dataset, unbroken, tmp_path):
    shutil.copy(unbroken / "checkpoint_best.pth", tmp_path / "best.pth")
    with pytest.raises(InputError, match="--init_weights"):
        main(arguments(dataset, tmp_path, resume=tmp_path / "best.pth"))
    assert main(arguments(dataset, tmp_path, "started", init_weights=tmp_path / "best.pth", epochs=1)) == 0


def test_a_run_whose_state_is_lost_goes_on_at_its_place_of_the_schedule(dataset, unbroken, tmp_path):
    weights = unbroken / "checkpoint_last.pth"
    options = {"init_weights": weights, "epochs": 4, "start_epoch": 3, "ema": 0.5}
    assert main(arguments(dataset, tmp_path, **options)) == 0
    (row,) = rows(folder_of(tmp_path))
    assert (row["epoch"], row["step"]) == (4, 16)
    assert row["lr"] == pytest.approx(0.001 / 25 * 1e-4), "the end of the schedule"
    assert read_checkpoint(folder_of(tmp_path) / "checkpoint_last.pth").training["updates"] == 16


def test_changed_settings_are_said(dataset, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, folder_of(tmp_path))
    main(arguments(dataset, tmp_path, resume="auto", epochs=3, sync_bn=True))
    assert "settings changed since then" in (out := capsys.readouterr().out) and "epochs 2 -> 3" in out
    assert "sync_bn" not in out, "a single process has nothing to synchronise"
    assert [row["epoch"] for row in rows(folder_of(tmp_path))] == [1, 2, 3]


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_ctrl_c_sigterm_and_a_preemption_save_and_exit(
    dataset, unbroken, tmp_path, monkeypatch, capsys, signum, status
):
    real, count = steps.accumulate_gradients, 0
    handlers = [signal.getsignal(number) for number in SIGNALS]

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signum)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "accumulate_gradients", interrupted)
        assert main(arguments(dataset, tmp_path)) == status
    assert "interrupted in epoch 1 after step 3 of 4" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert main(arguments(dataset, tmp_path, resume="auto")) == 0
    assert_same_run(folder_of(tmp_path), unbroken)


def train_in_a_session(words):
    os.setsid()  # the processes that load data get signals with this one
    trainer.steps_between_reads = lambda device: 10  # as on a GPU: until it reads a signal, it needs their data
    return main(words)


def test_a_signal_to_all_processes_leaves_the_loading_ones_alive(dataset, tmp_path):
    words = arguments(dataset, tmp_path, num_workers=2, epochs=200, epoch_samples=40, val_every=200)
    process = start(tmp_path / "said.txt", train_in_a_session, words)
    while "\nepoch 2/" not in read(tmp_path / "said.txt") and process.is_alive():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    said = read(tmp_path / "said.txt")
    assert process.exitcode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said and "interrupted in epoch" in said


def read(path):
    return path.read_text(encoding="utf-8") if path.exists() else ""


def train_with_an_error(words):
    trainer.train_step = lambda run, training, parts: next(parts) / 0
    return main(words)


def test_an_error_does_not_wait_for_loading_processes(dataset, tmp_path):
    process = start(tmp_path / "said.txt", train_with_an_error, arguments(dataset, tmp_path, num_workers=2))
    process.join(60)
    assert process.exitcode == 1 and "unsupported operand" in read(tmp_path / "said.txt")


@pytest.mark.parametrize(("every", "save_steps"), [(1, 1), (10, 2)])  # as on a CPU, and as on a GPU
def test_a_loss_that_is_not_finite_stops_with_the_samples_named(dataset, tmp_path, monkeypatch, every, save_steps):
    real, count = steps.total_loss, 0

    def broken(*args):
        nonlocal count
        count += 1
        return real(*args) * (float("nan") if count == 3 else 1)

    monkeypatch.setattr(steps, "total_loss", broken)
    monkeypatch.setattr(trainer, "steps_between_reads", lambda device: every)
    with pytest.raises(InputError, match=r"epoch 1, step 3: loss nan.*samples were \d\d/\d\d, .*last good checkpoint"):
        main(arguments(dataset, tmp_path, save_steps=save_steps))
    saved = read_checkpoint(folder_of(tmp_path) / "checkpoint_last.pth")
    assert saved.training["position"]["step"] == 2
    assert all(weight.isfinite().all() for weight in saved.weights.values())


@pytest.mark.parametrize(("tf32", "products"), [(False, "highest"), (True, "high")])
def test_float32_in_training_is_float32_unless_tf32_is_asked_for(monkeypatch, tf32, products):
    def precision(*_given):
        return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()

    monkeypatch.setattr("istd.train_script.train.train", precision)
    before = precision()
    assert main(["--dataset", "any", "--tf32", str(tf32)]) == (tf32, True, products)
    assert precision() == before


def test_a_folder_that_cannot_be_written_is_known_before_training(dataset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        main(arguments(dataset, tmp_path / "file"))
    full = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(InputError, match="has 10 MB free, the checkpoints of this run need about"):
        main(arguments(dataset, tmp_path, model_options="width=16"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 50}, "train_size is 50, datransnet expects a multiple of 32"),
        ({"batch_size": 64}, "fewer than batch_size 64"),
        ({"batch_size": 5, "accumulate": 2}, "use a multiple of 2"),
        ({"protocol": "standrd"}, "standrd"),
        ({"select_by": "fa"}, "select_by is 'fa', expected one of"),
        ({"select_by": "loc_missed"}, "select_by is 'loc_missed', expected one of"),
        ({"amp": "fp16", "device": "cpu"}, "needs a CUDA GPU"),
        ({"dataset": "nowhere"}, "no dataset 'nowhere'"),
        ({"seed": -1}, "seed is -1, expected a number from 0 to 4294967295"),
        ({"start_epoch": 2}, "start_epoch is 2, expected less than epochs (2)"),
        ({"init_weights": "nothing.pth"}, "nothing.pth"),
    ],
)
def test_mistakes_are_told_before_training(dataset, tmp_path, options, message):
    with pytest.raises(InputError) as error:
        main(arguments(dataset, tmp_path, **options))
    assert message in str(error.value)
    assert not folder_of(tmp_path).exists()


def test_a_finished_run_is_not_overwritten(dataset, unbroken):
    with pytest.raises(InputError, match="already holds a run; continue it with --resume auto"):
        main(arguments(dataset, unbroken.parents[2]))


@pytest.fixture(scope="module")
def two_datasets(dataset, tmp_path_factory):
    """The dataset, and half of it as another one, joined by '+'."""
    half = tmp_path_factory.mktemp("half") / "half"
    shutil.copytree(dataset, half)
    (half / "img_idx" / "train_blobs.txt").rename(half / "img_idx" / "train_half.txt")
    (half / "img_idx" / "test_blobs.txt").rename(half / "img_idx" / "test_half.txt")
    names = (half / "img_idx" / "train_half.txt").read_text().splitlines()[::2]
    (half / "img_idx" / "train_half.txt").write_text("\n".join(names))
    return f"{dataset}+{half}"


def test_several_datasets_train_together_and_resume_exactly(two_datasets, tmp_path, monkeypatch, capsys):
    options = {"dataset_weights": "1 3", "epoch_samples": 16, "save_steps": 1, "final_test": True}

    def argv(name, **more):
        words = arguments(two_datasets, tmp_path, name, **options, **more)
        place = words.index("1 3")
        return [*words[:place], "1", "3", *words[place + 1 :]]

    assert main(argv("unbroken")) == 0
    out = capsys.readouterr().out
    assert "4 samples an epoch" in out and "12 samples an epoch" in out
    assert "2 of 20 training images of blobs, 1 of 10 training images of half, held out" in out
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut_after(patch, 6)  # in the second epoch
        main(argv("run"))
    assert main(argv("run", resume="auto")) == 0
    unbroken, resumed = (tmp_path / "blobs+half" / name / "train" for name in ("unbroken", "run"))
    assert_same_run(resumed, unbroken)

    report = json.loads((unbroken / "test.json").read_text())
    for metrics, by_dataset in [(report["metrics"], report["by_dataset"])] + [
        (row["val"], row["val_by_dataset"]) for row in rows(unbroken)
    ]:
        assert by_dataset.keys() == {"blobs", "half"}
        for name in ("iou", "pd", "fa"):
            assert metrics[name] == pytest.approx((by_dataset["blobs"][name] + by_dataset["half"][name]) / 2)
    assert report == json.loads((resumed / "test.json").read_text())


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("{0}+nowhere", {}, "no dataset 'nowhere'"),
        ("{0}+{0}", {}, "all different"),
        ("{0}+", {}, "expected names or folders, joined by '\\+'"),
        ("{0}+{0}/../blobs", {}, r"has datasets called \['blobs', 'blobs'\]; expected datasets of different names"),
        ("{0}+NUDT-SIRST", {"dataset_weights": "1"}, "dataset_weights is .1.0., expected 2 number"),
    ],
)
def test_mistakes_with_several_datasets_are_named(dataset, tmp_path, names, options, message):
    with pytest.raises(InputError, match=message):
        main(arguments(names.format(dataset), tmp_path, **options))


def test_a_run_of_an_earlier_version_resumes(dataset, unbroken, tmp_path):
    """Its settings hold names that are gone, or called otherwise now."""
    folder = folder_of(tmp_path)
    shutil.copytree(unbroken, folder)
    content = torch.load(folder / "checkpoint_last.pth", weights_only=True)
    assert content["training"].keys() == {"optimizer", "scaler", "position", "network", "updates", "data"}
    del content["training"]["data"], content["training"]["position"]["start"]
    assert content["training"]["updates"] == 8  # two epochs of four steps
    del content["settings"]["init"], content["model"]["options"]["image_size"]  # which has its default
    content["settings"] |= {"start": "published", "warmup_epochs": 0.0, "step_factor": 0.1, "channels_last": False}
    torch.save(content, folder / "checkpoint_last.pth")
    assert main(["--resume", str(folder), "--epochs", "3"]) == 0
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
