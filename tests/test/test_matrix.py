"""Several checkpoints on several datasets: the same metrics as inference, resumed without measuring anything twice."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from istd.models import build_model, load_model
from istd.test_script import inference, matrix, measurement
from istd.test_script.matrix import checkpoint_names
from istd.test_script.results import set_results
from istd.test_script.results.run_folder import read_finished
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import InputError
from istd.utils.plots import write_heat_map
from tests.reference.datasets_folders import write_lists, write_pairs
from tests.reference.results import result_bytes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two checkpoints in files of one name, and two datasets of two test images."""
    root = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        model = build_model("datransnet", image_size=32, width=4).eval()
        bias = [parameter for parameter in model.parameters() if parameter.numel() == 1][-1]
        with torch.no_grad():  # logits around 0, so that masks are not all one value
            bias -= model(torch.rand(1, 1, 1, 32, 32) * 0.2 + 0.15).median() + 0.1
        save_checkpoint(root / name / "best.pth", model, {})
    for name, tested in (("X", ["c", "d"]), ("Y", ["a", "b"])):
        write_pairs(root / name / "images", root / name / "masks", list("abcd"))
        write_lists(root / name, train=sorted(set("abcd") - set(tested)), test=tested)
    return root


def run(world, output, *more):
    models = [str(world / name / "best.pth") for name in ("first", "second")]
    matrix.main(["--models", *models, "--datasets", str(world / "X"), str(world / "Y"), "--output_dir", str(output),
                 "--device", "cpu", *more])  # fmt: skip


def table(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_interrupted_and_continued_it_measures_each_pair_once(world, tmp_path, monkeypatch, capsys):
    measure, calls, drawn = inference.measure_dataset, [], {}

    def counted(job, output, resume):
        calls.append(output.relative_to(tmp_path).as_posix())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(job, output, resume)

    monkeypatch.setattr(matrix, "measure_dataset", counted)
    lines = {}
    monkeypatch.setattr(matrix, "write_curves", lambda curves, folder, title: lines.update({folder.name: curves}))
    monkeypatch.setattr(matrix, "write_heat_map", lambda path, *shown: drawn.update({path.name: shown}))
    monkeypatch.setattr(set_results, "write_curves", lambda *_: None)
    monkeypatch.setattr(measurement, "write_report", lambda output, *_: (output / "report.html").touch())
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path)
    assert not drawn and not (tmp_path / "matrix.csv").exists()
    run(world, tmp_path)
    assert calls == ["first/X", "first/Y", "second/X", "second/X", "second/Y"]
    first = {name: (tmp_path / name).read_bytes() for name in ("matrix.md", "matrix.csv")}
    run(world, tmp_path)
    assert len(calls) == 5 and first == {name: (tmp_path / name).read_bytes() for name in first}
    assert "pair 4 of 4, second on Y: finished before" in capsys.readouterr().out

    rows = table(tmp_path / "matrix.csv")
    assert [(row["checkpoint"], row["dataset"]) for row in rows] == [
        ("first", "X"), ("first", "Y"), ("second", "X"), ("second", "Y"),
    ]  # fmt: skip
    for row in rows:
        alone = json.loads((tmp_path / row["checkpoint"] / row["dataset"] / "metrics.json").read_text())
        for name in ("iou", "hiou", "fa", "loc_false", "ap"):
            assert row[name] == str(alone["protocols"]["standard"][name])
    text = (tmp_path / "matrix.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| second |"))
    assert [float(cell) for cell in line.split("|")[2:4]] == [round(100 * float(row["iou"]), 2) for row in rows[2:]]
    cells, lower_is_better = drawn["standard_fa.png"]
    assert lower_is_better and not drawn["standard_iou.png"][1] and "(heat_maps/standard_fa.png)" in text
    assert cells[0] == ["Fa x1e-6 (standard)", "X", "Y"] and [row[0] for row in cells[1:]] == ["first", "second"]
    assert cells[2][1] == f"{1e6 * float(rows[2]['fa']):.2f}"

    assert {name: list(curves) for name, curves in lines.items()} == {name: ["first", "second"] for name in "XY"}
    saved = json.loads((tmp_path / "second" / "X" / "metrics.json").read_text())["protocols"]["standard"]
    assert lines["X"]["second"].ap == saved["ap"] and saved["intervals"]["units"] == 2

    torch.save({"layer": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match="unknown network"):
        run(world, tmp_path / "other", "--models", str(world / "first" / "best.pth"), str(tmp_path / "foreign.pth"))
    with pytest.raises(InputError, match="flip False, now True; give the same options, or choose another"):
        run(world, tmp_path, "--flip")
    assert len(calls) == 5

    options = ["--model_path", str(world / "second" / "best.pth"), "--dataset", str(world / "Y"), "--device", "cpu"]
    inference.main([*options, "--protocol", "standard", "--output_dir", str(tmp_path / "alone")])
    both = [path / "metrics.json" for path in (tmp_path / "alone", tmp_path / "second" / "Y")]
    assert result_bytes(both[0]) == result_bytes(both[1])


def test_results_of_other_options_are_not_taken_for_finished(tmp_path):
    facts = {"dataset": "X", "flip": False, "checkpoint": "a.pth", "protocols": ["standard"]}
    metrics = {"standard": {"iou": 0.5}}
    (tmp_path / "metrics.json").write_text(json.dumps(facts | {"protocols": metrics}))
    assert read_finished(tmp_path, facts) is None  # the report is written last
    (tmp_path / "report.html").touch()
    assert read_finished(tmp_path, facts | {"checkpoint": "moved.pth"}) == metrics
    # as a run with --flip leaves it that began after this one had finished, and was interrupted
    assert read_finished(tmp_path, facts | {"flip": True}) is None
    assert read_finished(tmp_path, facts | {"protocols": ["standard", "dtum"]}) is None


def test_checkpoints_are_named_by_what_tells_them_apart():
    assert checkpoint_names(["a/train/best.pth", "b/train/best.pth"]) == ["a", "b"]
    assert checkpoint_names(["x/a/best.pth", "y/a/best.pth", "y/b/best.pth"]) == ["x_a", "y_a", "y_b"]
    assert checkpoint_names(["x/a.pth", "b.pth"]) == ["a", "b"]
    assert checkpoint_names(["x/a.pth", "x/a.pt"]) == ["a", "a.pt"]
    assert checkpoint_names(["x/a.pth"]) == checkpoint_names(["x/a.safetensors"]) == ["a"]
    assert checkpoint_names(["x/a.pth", "x/a.safetensors"]) == ["a.pth", "a.safetensors"]
    assert checkpoint_names(["x/a/model.safetensors", "x/b/model.safetensors"]) == ["a", "b"]
    assert checkpoint_names(["o/fast/train/checkpoint_best.pth"]) == ["fast_checkpoint_best"]
    both = [f"o/fast/train/checkpoint_{name}.pth" for name in ("best", "last")]
    assert checkpoint_names(both) == ["fast_checkpoint_best", "fast_checkpoint_last"]
    assert checkpoint_names(["/best.pth", "/runs/best.pth"]) == ["best", "runs_best"]
    assert checkpoint_names(["x/...pth"]) == ["__"]  # a folder below --output_dir, not ".."
    runs = [f"o/{run}/train/checkpoint_best.pth" for run in ("slow", "fast")]  # named alike, whatever is added
    assert checkpoint_names([*runs, "weights/net.pth"]) == ["slow_checkpoint_best", "fast_checkpoint_best", "net"]
    assert checkpoint_names(runs) == ["slow_checkpoint_best", "fast_checkpoint_best"]
    assert checkpoint_names(["p/fast/train/checkpoint_best.pth", *runs]) == ["p", "slow_checkpoint_best", "o"]
    assert checkpoint_names(["x/a/best.pth", "x/b/best.pth", "x/a.pth"]) == ["a_best", "b_best", "x_a"]
    with pytest.raises(InputError, match="twice"):
        checkpoint_names(["a.pth", "./a.pth"])


def test_heat_maps_of_few_and_missing_numbers(tmp_path):
    """Large numbers are dark: blue where higher is better, red where lower is; nothing is drawn where none is known."""
    write_heat_map(tmp_path / "none.png", [["IoU %", "one"], ["a", "-"]])
    inks = {False: ((8, 29, 88), (255, 255, 217)), True: ((127, 0, 0), (255, 247, 236))}
    for lower_is_better, (dark, light) in inks.items():
        write_heat_map(tmp_path / "a.png", [["", "one"], ["a", "0.00"], ["b", "-"], ["c", "99.00"]], lower_is_better)
        picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
        column = picture[:, round(0.6 * picture.shape[1])]  # beside the numbers
        high, low = ((np.abs(column - colour).max(axis=1) < 4) for colour in (dark, light))
        assert high.sum() > 20 and low.sum() > 20 and (column == 255).all(axis=1).sum() > 20
        assert np.flatnonzero(high).mean() > np.flatnonzero(low).mean()


def test_code_that_a_checkpoint_of_ours_does_not_need_is_mentioned(world, capsys):
    path = world / "first" / "best.pth"
    assert load_model(path, code=["net.py:Net"]).name == "datransnet"
    assert capsys.readouterr().out == (
        f"note: {path} holds weights of datransnet, which needs no --model; net.py:Net is not used\n"
    )
    load_model(path)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="the interface of datransnet is known; leave out"):
        load_model(path, interface={"frames": "1"})


def test_checkpoints_of_ours_beside_weights_of_the_users_network(world, tmp_path, capsys):
    """--model, --interface and --model_options concern the second alone, whose `width` ours has as well."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, width: int):\n"
        "        super().__init__(nn.Conv2d(3, width, 1), nn.Conv2d(width, 1, 1))\n"
    )
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1)).state_dict(), tmp_path / "theirs.pth")
    models = [str(world / "first" / "best.pth"), str(tmp_path / "theirs.pth")]
    matrix.main(["--models", *models, "--datasets", str(world / "X"), "--output_dir", str(tmp_path / "out"),
                 "--device", "cpu", "--model", f"{tmp_path / 'net.py'}:Net", "--interface", "channels=3",
                 "--model_options", "width=2"])  # fmt: skip
    assert {row["checkpoint"] for row in table(tmp_path / "out" / "matrix.csv")} == {"best", "theirs"}
    assert f"note: {models[0]} holds weights of datransnet, which needs no --model" in capsys.readouterr().out
