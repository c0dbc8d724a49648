"""README.md and CONTRIBUTING.md say what is so: commands parse, paths exist, tables agree with the code."""

import argparse
import ast
import importlib
import re
import shlex
import sys

import pytest

from datasets.catalog import CATALOG
from models import MODELS
from test_script.predict import OUR_TRAINING, OUR_WEIGHTS
from tests.reference.datasets_folders import REPOSITORY
from train_script.settings import CONFIGS, config_names, merge_settings, parse_command_line
from utils.metrics import PROTOCOLS

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MADE_BY_RUNS = ("outputs/", "data/", "predict/", "path/to/")  # not in the repository
SUFFIXES = (".py", ".md", ".txt", ".yaml", ".pth", ".toml")


class Parsed(Exception):
    """A command's arguments were accepted."""


def commands(text: str) -> list[list[str]]:
    """The shell commands of all bash blocks, in words, and those in inline code."""
    lines = [line for kind, content in BLOCK.findall(text) if kind == "bash" for line in content.splitlines()]
    lines += re.findall(r"`(python -m [^`]+)`", BLOCK.sub("", text))
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]


def accept(module: str, arguments: list[str], monkeypatch) -> None:
    """Give arguments to a command's own parser and stop there."""
    if module == "train_script.train":
        merge_settings(*parse_command_line(arguments))
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, namespace=None):
        parse_args(parser, argv, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        importlib.import_module(module).main(arguments)


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_every_command_parses(words, monkeypatch):
    if words[:2] == ["python", "-m"] or words[0] == "torchrun":
        module, *arguments = words[words.index("-m") + 1 :]
        if module.startswith("tests."):
            assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file() and not arguments
        elif "FILE" not in arguments:  # else the rest stands in a table, which has a test of its own
            accept(module, arguments, monkeypatch)
    elif words[0] == "make":
        (target,) = words[1:]
        assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    elif words[:3] == ["pip", "install", "-r"]:
        assert (REPOSITORY / words[3]).is_file()
    else:
        assert words[0] in ("python3", ".", "pip", "tensorboard")


@pytest.mark.parametrize("options", re.findall(r"`(--dataset [^`]+)`", README))
def test_commands_in_the_table_of_published_metrics_parse(options, monkeypatch):
    accept("test_script.inference", ["--model_path", "FILE", *options.split()], monkeypatch)


def test_make_demo_does_what_the_readme_says():
    recipe = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    lines = [line.split()[1:] for line in recipe.splitlines() if line.startswith("\t$(BIN)/python -m ")]
    made = {" ".join(line) for line in lines if line[1] not in ("pip", "pytest")}
    written = {" ".join(words[1:]) for words in commands(README.split("## Use")[0])}
    assert len(made) == 3 and made <= written


def test_the_weights_that_predict_runs_are_those_the_readme_names():
    assert f"weights in [weights/](weights/README.md) ({OUR_TRAINING})" in README
    assert f"`{OUR_WEIGHTS.name}`" in (REPOSITORY / OUR_WEIGHTS).with_name("README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_path_exists(text):
    plain = BLOCK.sub("", text)
    links = {link for link in re.findall(r"\]\(([^)]+)\)", plain) if "://" not in link}
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    named = set(re.findall(r"`([^`\s]+)`", plain))
    paths = links | {
        name for name in named if "/" in name and (name.endswith(SUFFIXES) or name.split("/")[0] in folders)
    }
    if text is CONTRIBUTING:
        paths -= {"models/contrast_net.py"}  # the example makes it
    paths = {name for name in paths if not name.startswith(MADE_BY_RUNS) and "NAME" not in name}
    assert len(paths) >= 3
    missing = sorted(name for name in paths if not (REPOSITORY / name).exists())
    assert not missing


def test_tables_name_every_model_dataset_protocol_and_recipe():
    for name in PROTOCOLS:
        assert README.count(f"\n| `{name}` |") == 1, name
    for name in [*MODELS, *CATALOG, *config_names()]:
        assert re.search(rf"^\|.*[`|, ]{re.escape(name)}[`|, ]", README, re.MULTILINE), name
    for name in re.findall(r"`((?:sgmp_unet|datransnet)_\w+)`", README):
        assert name in MODELS or (CONFIGS / f"{name}.yaml").is_file()


def test_published_metrics_are_those_of_the_catalog():
    rows = {
        (cells[1], cells[2].strip("`")): [float(cell) for cell in cells[3:]]
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in README.splitlines())
        if len(cells) == 7 and cells[1] in CATALOG
    }
    assert rows == {
        (info.name, one.protocol): [one.iou, one.niou, one.pd, one.fa]
        for info in CATALOG.values()
        for one in info.metrics
    }


def test_the_packages_that_we_import_are_required():
    """And nothing is required in vain but what a user of such networks expects to find."""
    packages = ("models", "datasets", "train_script", "test_script", "utils")
    modules = {
        name
        for package in packages
        for path in (REPOSITORY / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported(node)
    }
    if "torch.utils.tensorboard" in modules:
        modules.add("tensorboard")
    ours_or_optional = {*packages, "onnx", "onnxruntime", "onnxscript"}
    names = {"cv2": "opencv-python-headless", "skimage": "scikit-image", "yaml": "pyyaml"}
    roots = {module.split(".")[0] for module in modules} - ours_or_optional - sys.stdlib_module_names
    needed = {names.get(root, root) for root in roots}
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    required = {re.split(r"[<>=\[]", line)[0] for line in lines if not line.startswith("#")}
    assert needed <= required
    assert required - needed <= {"timm", "scikit-image"}


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
