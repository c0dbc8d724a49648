"""Every command, given wrong input on purpose: one clear sentence on stderr, exit code 2, no traceback."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from istd.models import build_model
from istd.utils.checkpoint import save_checkpoint
from istd.utils.errors import run_main
from tests.reference.datasets_folders import frame_and_mask, write_image, write_lists, write_pairs, write_sequences

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "train": "istd.train_script.train",
    "inference": "istd.test_script.inference",
    "matrix": "istd.test_script.matrix",
    "predict": "istd.test_script.predict",
    "evaluate": "istd.test_script.evaluate",
    "track_curves": "istd.test_script.track_curves",
    "export": "istd.test_script.export",
    "benchmark": "istd.test_script.benchmark",
    "check": "istd.datasets.check",
    "synthetic": "istd.datasets.synthetic",
    "dim": "istd.datasets.dim",
}


def load(command: str) -> Callable[[list[str]], int | None]:
    return importlib.import_module(COMMANDS[command]).main


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """Paths by name: good things to combine with bad ones, and bad ones."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_checkpoint(root / "net.pth", build_model("datransnet"), {})
    (root / "text.pth").write_text("this is no checkpoint\n")
    (root / "empty").mkdir()
    (root / "text.txt").write_text("a text\n")
    (root / "text.png").write_text("this is no image\n")
    (root / "text.mp4").write_text("this is no video\n")
    (root / "file").write_text("")
    (root / "unknown.yaml").write_text("learning_rate: 0.1\n")
    (root / "latin.yaml").write_bytes("dataset: f\xfcr\n".encode("latin-1"))
    torch.save({"layer.weight": torch.zeros(3)}, root / "foreign.pth")
    (root / "foreign_run").mkdir()
    (root / "foreign_run" / "run.json").write_text("{")

    good = root / "good"
    write_pairs(good / "images", good / "masks", list("abcdefgh"))
    write_lists(good, train=list("abcdef"), test=["g", "h"])
    write_sequences(root / "video", ["s1", "s2", "s3"])
    write_lists(root / "video", train=["s1", "s2"], val=["s3"])
    write_sequences(root / "two_sizes", ["s1", "s2", "s3"])
    write_lists(root / "two_sizes", train=["s1", "s2"], val=["s3"])
    for kind, pixels in zip(("images", "masks"), frame_and_mask(0, (48, 48)), strict=True):
        for sequence in ("s1", "s3"):
            write_image(root / "two_sizes" / kind / sequence / "1.png", pixels)
    for name in ("text_image", "text_mask", "other_size"):
        folder = root / name
        write_pairs(folder / "images", folder / "masks", list("abcdefgh"))
        write_lists(folder, train=list("abcdef"), test=["g", "h"])
        for frame in "abcdefgh":
            if name == "other_size":
                write_image(folder / "masks" / f"{frame}.png", frame_and_mask(0, (48, 48))[1])
            else:
                (folder / name.replace("text_", "").replace("image", "images").replace("mask", "masks")).joinpath(
                    f"{frame}.png"
                ).write_text("no image\n")

    write_pairs(root / "no_masks" / "images", root / "no_masks" / "masks", list("abcd"))
    for mask in (root / "no_masks" / "masks").iterdir():
        mask.unlink()
    write_pairs(root / "other_list" / "images", root / "other_list" / "masks", list("abcd"))
    write_lists(root / "other_list", train=["x", "y"], test=["z"])
    (root / "objects_predictions").mkdir()
    np.save(root / "objects_predictions" / "a.npy", np.array([{}]), allow_pickle=True)
    (root / "one_mask").mkdir()
    write_image(root / "one_mask" / "a.png", frame_and_mask(0)[1])
    (root / "three.csv").write_text("a,b,c\n")

    (root / "text_predictions").mkdir()
    for frame in "abcdefgh":
        (root / "text_predictions" / f"{frame}.png").write_text("no image\n")
    paths = {path.stem if path.is_dir() else path.name: str(path) for path in root.iterdir()}
    return {
        **paths,
        "nowhere": str(root / "nowhere"),
        "unwritable": str(root / "file" / "out"),
        "out": str(root / "out"),
    }


# command, arguments ({name}: a path of `world`), what the sentence must say
CASES = [
    ("train", "--dataset NUDT-SIRTS", "NUDT-SIRST"),
    ("train", "--dataset {text.txt}", "text.txt"),
    ("train", "--dataset {text_image} --model datransnet --select_on test --batch_size 2", "not a complete png"),
    ("train", "--dataset {other_size} --model datransnet --select_on test --batch_size 2", "48 x 48"),
    ("train", "--dataset {good} --model sgmp_unet_small --init_weights {net.pth}", "datransnet checkpoint"),
    ("train", "--dataset {good} --model datransnet --resume {nowhere}", "nowhere"),
    ("train", "--dataset {good} --model datransnet --resume {text.pth}", "not a checkpoint"),
    ("train", "--config datransnet_fats", "datransnet_fast"),
    ("train", "--config {text.txt}", "text.txt"),
    ("train", "--dataset {good} --model datransnet --output_root {unwritable} --batch_size 2", "cannot write"),
    ("train", "--dataset {good} --epoch 3", "epochs"),
    ("train", "--dataset {good} --model unet", "sgmp_unet"),
    ("train", "datransnet_fast", "--config datransnet_fast"),
    ("train", "--config {unknown.yaml}", "'learning_rate'"),
    ("train", "--config {latin.yaml}", "cannot read the configuration"),
    ("train", "--dataset {good} --model datransnet --init_weights {foreign.pth}", "unknown network"),
    ("train", "--dataset {good} --model datransnet --resume {net.pth}", "--init_weights"),
    ("train", "--dataset {good} --model datransnet --resume {empty}", "does not exist"),
    ("train", "--dataset {good} --model datransnet --pretrained_backbone {net.pth}", "no pretrained backbone"),
    ("train", "--dataset {video} --pretrained_backbone {text.pth}", "not a checkpoint"),
    ("train", "--dataset {video} --pretrained_backbone {nowhere}", "no checkpoint file"),
    ("train", "--dataset {video} --num_frames 5", "num_frames=5"),
    ("train", "--dataset {good} --model datransnet --model_options size=5", "its options: image_size, width"),
    ("train", "--dataset {good} --model datransnet --device meta", "'meta'"),
    ("train", "--dataset {two_sizes} --model sgmp_unet_small", "48 x 48, most of its sequence 40 x 32"),
    ("train", "--dataset {no_masks} --model datransnet", "has a mask"),
    ("train", "--dataset {other_list} --model datransnet", "none of its entries"),
    ("inference", "--dataset {good}", "--model_path"),
    ("inference", "--dataset {good} --model_path {nowhere}", "no checkpoint file"),
    ("inference", "--dataset {good} --model_path {text.pth}", "not a checkpoint"),
    ("inference", "--dataset IRDST --data_root {nowhere} --model_path {net.pth}", "IRDST"),
    ("inference", "--dataset {nowhere} --model_path {net.pth}", "nowhere"),
    ("inference", "--dataset {text_mask} --model_path {net.pth} --output_dir {out}/2", "not a complete png"),
    ("inference", "--dataset {good} --model_path {net.pth} --split vall", "'vall'"),
    ("inference", "--dataset {good} --model_path {net.pth} --output_dir {unwritable}", "cannot write"),
    ("inference", "--dataset {good} --model_path {net.pth} --device gpu", "'gpu'"),
    ("inference", "--dataset {good} --model_path {net.pth} --scales -1", "-1"),
    ("inference", "--dataset {good} --model_path {net.pth} --scales nan", "nan"),
    ("inference", "--dataset {good} --model_path {net.pth} --num_workers -1", "--num_workers is -1"),
    ("inference", "--dataset {good} --model_path {net.pth} --flips", "--flips"),
    ("inference", "--dataset {good} --model_path {net.pth} --output_dir {foreign_run}", "run.json"),
    ("inference", "--dataset {good} --model_path {net.pth} --output_dir {file}", "file is not a folder"),
    ("matrix", "--models {net.pth}", "--datasets"),
    ("matrix", "--models {net.pth} {text.pth} --datasets {good}", "not a checkpoint"),
    ("matrix", "--models {net.pth} {net.pth} --datasets {good}", "twice"),
    ("matrix", "--models {net.pth} --datasets {good} {nowhere}", "nowhere"),
    ("matrix", "--models {net.pth} --datasets {good} {good}", "different names"),
    ("matrix", "--models {net.pth} --datasets {good} --protocol standrad", "standard"),
    ("matrix", "--models {net.pth} --datasets {good} --output_dir {unwritable}", "cannot write"),
    ("inference", "--dataset {good} --model_path {net.pth} --min_track 2", "give a dataset of sequences"),
    ("predict", "--model_path {net.pth}", "--input"),
    ("predict", "--input {good}/images --model_path {nowhere}", "no checkpoint file"),
    ("predict", "--input {text.png} --model_path {net.pth} --output_dir {out}/4", "not a complete png"),
    ("predict", "--input {text.mp4} --model_path {net.pth}", "cannot open video"),
    ("predict", "--input {good}/images --model_path {net.pth} --output_dir {unwritable}", "cannot write"),
    ("predict", "--input {good}/images --model_path {net.pth} --threshold 50", "threshold is 50"),
    ("predict", "--input {good}/images --model_path {net.pth} --fps 0", "--fps is 0"),
    ("predict", "--input {good}/images --model_path {net.pth} --min_track 0", "--min_track is 0"),
    ("predict", "--input {good}/images --model_path {net.pth} --track_speed nan", "--track_speed is"),
    ("predict", "--input {good}/images/a.png --model_path {net.pth} --min_track 2", "is no sequence; give a video"),
    ("predict", "--input 97 --model_path {net.pth}", "cannot open camera 97"),
    ("predict", "--input rtsp://127.0.0.1:9/x --model_path {net.pth}", "cannot open camera rtsp"),
    ("predict", "--input {good}/images --model_path {net.pth} --labels x", "--labels"),
    ("evaluate", "--predictions {good}/masks", "--masks is missing"),
    ("evaluate", "--predictions {good}/masks --masks {empty}", "holds no"),
    ("evaluate", "--predictions {text_predictions} --masks {good}/masks", "not a complete png"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --protocol standrad", "standard"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --list {nowhere}", "nowhere"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --output {unwritable}.json", "cannot write"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --curves {unwritable}", "cannot write"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --curves {file}", "file is not a folder"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --list {file}", "is empty"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --groups {three.csv}", "NAME,GROUP"),
    ("evaluate", "--predictions {good}/masks --masks {good}/masks --protcol all", "--protcol"),
    ("evaluate", "--predictions {objects_predictions} --masks {one_mask}", "cannot read"),
    ("track_curves", "--predictions {empty} --dataset {good}", "give a dataset of sequences"),
    ("track_curves", "--predictions {empty} --dataset {video}", "has no folder of a sequence"),
    ("track_curves", "--predictions {video}/masks --dataset {video} --min_track 0", "--min_track is 0"),
    ("track_curves", "--predictions {video}/masks --dataset {video} --output {out}/curves", "ends in .png"),
    ("track_curves", "--predictions {video}/masks --dataset {video} --output {out}/curves.csv", "ends in .png"),
    ("export", "--output {out}/m.onnx", "--model_path"),
    ("export", "--model_path {nowhere} --output {out}/m.onnx", "no checkpoint file"),
    ("export", "--model_path {net.pth} --output {out}/m.onnx --size 0 0", "--size 0 0; expected the height and width"),
    ("export", "--model_path {net.pth} --output {empty}", "it is a folder"),
    ("benchmark", "--model datransnet --output {empty}", "it is a folder"),
    ("check", "", "--dataset"),
    ("check", "--dataset NUDT-SIRTS", "NUDT-SIRST"),
    ("check", "--dataset {empty}", "no dataset layout recognised"),
    ("check", "--dataset {good} --previw sheet.png", "--previw"),
    ("synthetic", "", "--output"),
    ("synthetic", "--output {file}/new --sequences 1 --frames 1", "file is not a folder"),
    ("synthetic", "--output {out}/6 --seed -1", "--seed -1"),
    ("synthetic", "--output {out}/6 --speed inf inf", "--speed inf inf"),
    ("synthetic", "--output {out}/6 --targets -1 2", "--targets -1 2"),
    ("synthetic", "--output {out}/6 --bits 12", "12"),
    ("synthetic", "--output {out}/6 --clutter rain", "cloud"),
]


def run(command: str, arguments: str, world: dict[str, str], folder: Path, monkeypatch) -> int:
    """Exit code of a command as `python -m` runs it, in an empty folder."""
    monkeypatch.chdir(folder)
    filled = [re.sub(r"{([^}]+)}", lambda match: world[match[1]], word) for word in arguments.split()]
    with pytest.raises(SystemExit) as end:
        run_main(lambda: load(command)(filled))
    return end.value.code


def sentence(stderr: str) -> str:
    """The one error line of stderr, after argparse's usage if it is argparse that complains."""
    assert "Traceback" not in stderr, stderr
    usage = re.match(r"usage: .*\n( .*\n)*", stderr)
    lines = stderr[usage.end() if usage else 0 :].splitlines()
    errors = [line for line in lines if re.match(r"(python -m \S+: )?error: ", line)]
    assert len(errors) == 1, stderr
    rest = lines[lines.index(errors[0]) + 1 :]
    assert all(line.startswith("  ") for line in rest), stderr  # a list of choices may follow
    return "\n".join(lines)


@pytest.mark.parametrize(("command", "arguments", "said"), CASES, ids=[f"{c} {a}".strip() for c, a, _ in CASES])
def test_wrong_input(command, arguments, said, world, tmp_path, monkeypatch, capfd):
    code = run(command, arguments, world, tmp_path, monkeypatch)
    error = sentence(capfd.readouterr().err)
    assert code == 2
    assert said in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 1 TiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 409600000000 bytes"),
    ],
    ids=["python", "GPU", "CPU"],
)
def test_too_little_memory_is_one_sentence(error, world, tmp_path, monkeypatch, capfd):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("istd.test_script.benchmark.count_parameters", fail)
    assert run("benchmark", "--model datransnet", world, tmp_path, monkeypatch) == 2
    assert "out of memory; give it smaller inputs" in sentence(capfd.readouterr().err)


def test_an_error_of_ours_keeps_its_traceback(world, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("istd.test_script.benchmark.count_parameters", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run_main(lambda: load("benchmark")(["--model", "datransnet"]))


def test_sigterm_interrupts_as_ctrl_c_does(tmp_path):
    """What `timeout` and batch systems send: nothing is left half written."""
    code = f"""
import os, signal
from istd.utils.errors import run_main
from istd.utils.files import atomic_path

def main():
    with atomic_path({str(tmp_path / "file")!r}) as path:
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)

run_main(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "terminated\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", COMMANDS)
def test_no_permission_to_write(command, world, tmp_path, monkeypatch, capfd):
    """As the operating system says it; for root, who may write everywhere, as a file system mounted read-only does."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):

        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.mkstemp", refuse)
        monkeypatch.setattr("tempfile.mkdtemp", refuse)
    for work in ("test_script.export.export", "test_script.evaluate.measure_maps",
                 "test_script.benchmark.count_parameters", "datasets.check.check_dataset",
                 "train_script.train.run_epochs"):  # fmt: skip
        monkeypatch.setattr(
            f"istd.{work}", lambda *arguments, **options: pytest.fail("long work before the disk was tried")
        )
    arguments = {
        "train": "--dataset {good} --model datransnet --batch_size 2 --output_root locked",
        "inference": "--dataset {good} --model_path {net.pth} --output_dir locked/out",
        "matrix": "--models {net.pth} --datasets {good} --output_dir locked/out",
        "predict": "--input {good}/images --model_path {net.pth} --output_dir locked/out",
        "evaluate": "--predictions {good}/masks --masks {good}/masks --output locked/metrics.json",
        "track_curves": "--predictions {video}/masks --dataset {video} --output locked/curves.png",
        "export": "--model_path {net.pth} --output locked/net.onnx --size 32 32",
        "benchmark": "--model datransnet --size 32 32 --output locked/metrics.json",
        "check": "--dataset {good} --preview locked/sheet.png",
        "synthetic": "--output locked/new --sequences 1 --frames 1",
        "dim": "--dataset {video} --output locked/new",
    }[command]
    code = run(command, arguments, world, tmp_path, monkeypatch)
    error = sentence(capfd.readouterr().err)
    assert code == 2
    assert "cannot write" in error and "ermission" in error


@pytest.mark.parametrize(("command", "broken"), [("train", "text_image"), ("inference", "other_size")])
def test_an_error_in_a_worker_is_one_sentence_too(command, broken, world, tmp_path, monkeypatch, capfd):
    """PyTorch hands it on as the text of a traceback."""
    arguments = {
        "train": f"--dataset {{{broken}}} --model datransnet --select_on test --batch_size 2 --num_workers 1",
        "inference": f"--dataset {{{broken}}} --model_path {{net.pth}} --num_workers 1",
    }[command]
    code = run(command, arguments, world, tmp_path, monkeypatch)
    error = sentence(capfd.readouterr().err)
    assert code == 2
    assert ("not a complete png" if broken == "text_image" else "48 x 48") in error
    assert "DataLoader" not in error


def test_check_names_bad_files_and_ends_with_1(world, tmp_path, monkeypatch, capfd):
    assert run("check", "--dataset {text_image}", world, tmp_path, monkeypatch) == 1
    assert "PROBLEM: unreadable files (8)" in capfd.readouterr().out
    assert run("check", "--dataset {other_size}", world, tmp_path, monkeypatch) == 1
    assert "48 x 48" in capfd.readouterr().out


def test_masks_of_any_depth_give_the_same_metrics(world, tmp_path, monkeypatch, capfd):
    """A mask of full precision is no error: 16-bit and float masks mean what 8-bit ones mean."""
    tables = []
    for name, convert in {
        "8bit.png": lambda mask: mask,
        "16bit.png": lambda mask: mask.astype(np.uint16) * 257,
        "float.tif": lambda mask: (mask > 0).astype(np.float32),
    }.items():
        folder = tmp_path / name
        for path in sorted(Path(world["good"], "masks").iterdir()):
            mask = convert(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
            write_image(folder / f"{path.stem}{Path(name).suffix}", mask)
        run("evaluate", f"--predictions {{good}}/masks --masks {folder}", world, tmp_path, monkeypatch)
        tables.append(capfd.readouterr().out)
    assert "8 images, 8 targets" in tables[0] and tables[1] == tables[0] and tables[2] == tables[0]


@pytest.mark.parametrize("module", COMMANDS.values())
def test_every_command_runs_through_run_main(module):
    source = ROOT.joinpath(*module.removeprefix("istd.").split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert source.endswith('if __name__ == "__main__":\n    run_main(main)\n')
