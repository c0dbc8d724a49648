"""The output folder of a run: bound to its network and its data, held by one command, and without leftovers."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from istd.test_script.results.run_folder import check_run, checkpoint_label, default_folder, start_run
from istd.test_script.results.shards import Shard, load_shards, save_shard
from istd.utils.errors import InputError
from istd.utils.metrics import build_metric

FACTS = {"dataset": "X", "split": "test", "checkpoint": "a.pth", "model_sha256": "a", "data": "1", "frames": 2}


def measured_shard():
    metric, shard = build_metric("standard"), Shard(0, "s", [0, 1])
    mask = np.zeros((8, 9), bool)
    mask[2:4, 3:5] = True
    for frame in ("a", "b"):
        metric.update(mask.astype(float), mask, "s", frame)
        shard.curves.update(mask * 0.7 + np.linspace(0, 0.2, 72).reshape(8, 9), mask)
        shard.sizes.append(mask.shape)
        shard.pairs.append([[0], [0], [0.0]])
        shard.targets.append([[3.5, 2.5]])
    shard.rows["standard"] = metric.rows
    shard.detections.append(["s", "a", 1, 3.5, 2.5, 3, 2, 2, 2, 4, 1.0, 1.0])
    return shard


def test_a_shard_is_read_by_its_run_alone(tmp_path):
    """Network A finished a shard in a folder in which B was begun, killed, and is resumed."""
    written, read = measured_shard(), Shard(0, "s", [0, 1])
    save_shard(tmp_path, written, FACTS)
    assert load_shards(tmp_path, [read], FACTS | {"model_sha256": "b"}) == [read]
    assert load_shards(tmp_path, [read], FACTS | {"checkpoint": "moved/a.pth"}) == []
    assert read.rows == written.rows and read.detections == written.detections
    assert read.curves.compute().ap == written.curves.compute().ap == 1
    others = [Shard(0, "s", [0, 1, 2]), Shard(1, "s", [2])]
    assert load_shards(tmp_path, others, FACTS) == others


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", "deep", "rows", "short", "targets", "curves"])
def test_a_damaged_shard_is_measured_again(damage, tmp_path, capsys):
    save_shard(tmp_path, measured_shard(), FACTS)
    file = tmp_path / "parts" / "000000.json"
    content = json.loads(file.read_text())
    if damage == "rows":
        content["rows"]["standard"][0] = 3
    elif damage == "short":
        del content["sizes"][0]
    elif damage == "targets":
        del content["targets"][0]
    elif damage == "curves":
        del content["curves"]["matched"][0]
    edited = damage in ("rows", "short", "targets", "curves")
    file.write_text(json.dumps(content) if edited else "[" * 100_000 if damage == "deep" else damage)
    shard = Shard(0, "s", [0, 1])
    assert load_shards(tmp_path, [shard], FACTS) == [shard] and not shard.rows and not shard.sizes
    assert "000000.json is damaged" in capsys.readouterr().out


def test_other_data_of_equal_names_is_not_taken_for_the_same(tmp_path, capsys):
    start_run(tmp_path, FACTS, resume=False)
    assert check_run(tmp_path, FACTS, resume=True) == "same"
    (tmp_path / "parts").mkdir()
    assert check_run(tmp_path, FACTS | {"data": "2", "frames": 3}, resume=True) == "other data"
    start_run(tmp_path, FACTS, resume=True)
    assert (tmp_path / "parts").is_dir() and not capsys.readouterr().out
    start_run(tmp_path, FACTS | {"data": "2"}, resume=True)
    assert not (tmp_path / "parts").exists() and "measuring again" in capsys.readouterr().out
    with pytest.raises(InputError, match="model_sha256 'a', now 'b'; give the same options"):
        check_run(tmp_path, FACTS | {"model_sha256": "b"}, resume=True)
    with pytest.raises(InputError, match="dataset 'X', now 'Y'; choose another --output_dir"):
        check_run(tmp_path, FACTS | {"dataset": "Y"}, resume=False)


def test_a_rerun_leaves_nothing_of_the_old_one_and_all_that_is_not_of_a_run(tmp_path, capsys):
    record = start_run(tmp_path, FACTS, resume=False)
    assert json.loads((tmp_path / "run.json").read_text()) == FACTS | {"provenance": record}
    assert {"command", "commit", "version", "python", "torch", "machine", "processor", "gpus", "cores", "date"} <= {
        *record
    }
    for name in ("probabilities/s/0.npy", "masks/s/.unfinished-1.png", "parts/000000.json", "mine/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("tracks.csv", "report.html", "notes.txt"):
        (tmp_path / name).touch()
    assert not capsys.readouterr().out
    start_run(tmp_path, FACTS | {"model_sha256": "b"}, resume=False)
    assert capsys.readouterr().out == f"replacing the results of a.pth in {tmp_path}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "notes.txt", "run.json"]
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "run.json").unlink()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"holds masks, but no run\.json"):
        start_run(tmp_path, FACTS, resume=False)


def test_what_cannot_be_removed_is_named_and_a_link_is_removed_alone(tmp_path, monkeypatch):
    start_run(tmp_path / "run", FACTS, resume=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    (tmp_path / "run" / "masks").symlink_to(elsewhere)
    start_run(tmp_path / "run", FACTS, resume=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"] and (elsewhere / "a.png").exists()

    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", Path(path).name)

    (tmp_path / "run" / "parts").mkdir()
    for target, name in ((os, "rmdir"), "parts"), ((Path, "unlink"), "masks"):
        with monkeypatch.context() as patch, pytest.raises(InputError, match=f"cannot remove .*run.{name}: Permission"):
            patch.setattr(*target, refuse)
            start_run(tmp_path / "run", FACTS, resume=False)


def test_default_folders_and_names_of_checkpoints():
    assert checkpoint_label("outputs/X/datransnet_fast/train/checkpoint_best.pth") == "datransnet_fast/checkpoint_best"
    assert checkpoint_label("runs/a/checkpoint_last.pth") == "a/checkpoint_last"
    assert checkpoint_label("weights/datransnet.pth") == "datransnet"
    assert default_folder("X", "o/fast/train/checkpoint_best.pth").as_posix() == "predict/X/fast_checkpoint_best"
    assert default_folder("..", "...pth").as_posix() == "predict/__/__"  # not beside predict/
