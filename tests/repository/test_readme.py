"""The pages agree with the code: commands parse, examples run, links and paths exist, tables are complete."""

import argparse
import ast
import importlib
import re
import shlex
import sys

import numpy as np
import pytest

from istd.command import COMMANDS
from istd.datasets.catalog import CATALOG
from istd.models import MODELS, DATransNet, build_model
from istd.train_script import demo
from istd.train_script.settings import DESCRIPTION, config_names, merge_settings, parse_command_line
from istd.utils.command_line import split_examples
from istd.utils.metrics import PROTOCOLS
from tests.reference.datasets_folders import REPOSITORY

FILES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "weights" / "README.md"]
FILES += sorted((REPOSITORY / "docs").rglob("*.md"))
PAGES = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
TEXT = "\n".join(PAGES.values())
README = PAGES["README.md"]
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_README_WORDS = 1200
MAX_PICTURE_BYTES = 500_000  # of the README's, together
RUN_ELSEWHERE = ("CONTRIBUTING.md", "docs/your_network.md")
MADE_BY_RUNS = ("outputs/", "data/", "predict/", "path/to/")  # not in the repository
SUFFIXES = (".py", ".md", ".txt", ".yaml", ".pth", ".toml")


class Parsed(Exception):
    """A command's arguments were accepted."""


def commands(text: str) -> list[list[str]]:
    """The shell commands of all bash blocks, in words, and those in inline code; without scripts of a scheduler."""
    blocks = [content for kind, content in BLOCK.findall(text) if kind == "bash" and not content.startswith("#!")]
    lines = [line for content in blocks for line in content.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(python -m [^`]+)`", BLOCK.sub("", text))
    return [shlex.split(part, comments=True) for line in lines for part in re.split(r"&&|\|", line)]


def accept(module: str, arguments: list[str], monkeypatch) -> None:
    """Give arguments to a command's own parser and stop there."""
    module = f"istd.{module.removeprefix('istd.')}"
    if module == "istd.train_script.train":
        merge_settings(*parse_command_line(arguments))
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, argv=None, namespace=None):
        parse_args(parser, argv, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        importlib.import_module(module).main(arguments)


def commands_of_all_pages() -> list[list[str]]:
    """Every command once, but those that tests of other files run on the examples beside them."""
    texts = [text for page, text in PAGES.items() if page not in RUN_ELSEWHERE]
    return [list(words) for words in dict.fromkeys(tuple(words) for text in texts for words in commands(text))]


@pytest.mark.parametrize("words", commands_of_all_pages(), ids=" ".join)
def test_every_command_parses(words, monkeypatch):
    if words[:2] == ["python", "-m"] or words[0] == "torchrun":
        module, *arguments = words[words.index("-m") + 1 :]
        if module.startswith("tests."):
            assert (REPOSITORY / module.replace(".", "/")).with_suffix(".py").is_file() and not arguments
        elif not arguments:  # the command is named, not shown
            assert hasattr(importlib.import_module(f"istd.{module}"), "main")
        elif not arguments[-1].endswith("FILE"):  # else the rest stands in a table, which has a test of its own
            accept(module, arguments, monkeypatch)
    elif words[0] == "make":
        (target,) = words[1:]
        assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        extra = re.fullmatch(r"\.(?:\[(\w+)\])?", words[-1])[1]
        assert words[1:-1] == ["install", "-e"] and (extra is None or extra in extras())
    else:
        assert words[0] in ("python3", ".", "tensorboard", "ffmpeg")


@pytest.mark.parametrize("options", sorted(set(re.findall(r"`(--dataset [^`]+)`", TEXT))))
def test_commands_in_the_table_of_published_metrics_parse(options, monkeypatch):
    accept("test_script.inference", ["--model_path", "FILE", *options.split()], monkeypatch)


def test_the_commands_of_make_demo_parse(tmp_path, monkeypatch):
    assert "-m train_script.demo" in (REPOSITORY / "Makefile").read_text()
    steps = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "step", lambda title, command, options: steps.append((command.__module__, options)))
    monkeypatch.setattr(demo, "standard_metrics", lambda folder: {"iou": 0.5, "pd": 1.0})
    demo.main([])
    assert [module.rpartition(".")[2] for module, _ in steps] == [
        "inference", "predict", "figure", "synthetic", "synthetic", "inference", "train", "inference",
    ]  # fmt: skip
    for module, options in steps:
        accept(module, shlex.split(options), monkeypatch)


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    for folder in ("weights", "docs"):
        (tmp_path / folder).symlink_to(REPOSITORY / folder)
    monkeypatch.chdir(tmp_path)
    first, notebook, hub, _ = (  # the last one, an ONNX file's, runs in tests/test/test_export.py
        content for kind, content in BLOCK.findall(PAGES["docs/python_and_export.md"]) if kind == "python"
    )
    frames = np.random.default_rng(0).random((2, 40, 50), dtype=np.float32)
    names = {"frames": frames}
    exec(first, names)
    assert names["result"].probability.shape == names["result"].mask.shape == frames.shape

    names = {}
    exec(notebook, names)
    assert (names["metrics"]["pd"], names["metrics"]["fa"]) == (1, 0) and names["metrics"]["iou"] > 0.8
    out = capsys.readouterr().out
    assert "Prediction(1 frame of 256 x 320 px, 1 detection)" in out and "[Detection(x 262.3, y 51.6, " in out
    assert (tmp_path / "example.png").is_file()
    assert names["probability"].shape == (1, 1, 256, 320)

    pushed = []
    monkeypatch.setattr(DATransNet, "push_to_hub", lambda network, name: pushed.append(name))
    exec(hub, {})
    assert pushed == ["user/datransnet"] and (tmp_path / "datransnet-folder" / "config.json").is_file()


@pytest.mark.parametrize("model", ["sgmp_unet_small", "datransnet"])
def test_diagrams_use_the_names_of_the_code(model):
    """Those set in the font of code are attributes or classes of the network."""
    network = build_model(model)
    known = {type(module).__name__ for module in network.modules()}
    known |= {part for name, _ in network.named_modules() for part in name.split(".")}
    drawing = (REPOSITORY / "docs" / f"{network.name}.svg").read_text(encoding="utf-8")
    text = " ".join(re.findall(r'<text [^>]*class="(?:name|groupname)"[^>]*>([^<]+)<', drawing))
    drawn = set(re.findall(r"\w+", text))
    assert len(drawn) > 10
    assert drawn <= known


def test_download_tables_are_those_of_the_catalog():
    from istd.datasets.links import checkpoint_table, dataset_table

    assert dataset_table() in PAGES["docs/data.md"]
    assert checkpoint_table() in PAGES["docs/reproduce.md"]


def test_the_readme_fits_on_a_few_screens():
    assert len(README.split()) <= MAX_README_WORDS


def test_the_pictures_of_the_readme_are_small():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) >= 2
    assert sum((REPOSITORY / picture).stat().st_size for picture in pictures) < MAX_PICTURE_BYTES


def test_every_file_of_weights_is_named():
    for path in (REPOSITORY / "weights").glob("*.pth"):
        assert f"\n| `{path.name}` |" in README


def anchors(text: str) -> set[str]:
    """The names that a page's headings have in links."""
    titles = re.findall(r"^##+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    links = {link for link in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", PAGES[page])) if "://" not in link}
    for link in links:
        name, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page):
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    named = set(re.findall(r"`([^`\s]+)`", BLOCK.sub("", PAGES[page])))
    paths = {name for name in named if "/" in name and (name.endswith(SUFFIXES) or name.split("/")[0] in folders)}
    paths -= {"models/contrast_net.py"}  # the example of CONTRIBUTING.md makes it
    paths = {name for name in paths if not name.startswith(MADE_BY_RUNS) and "NAME" not in name}
    assert sorted(name for name in paths if not (REPOSITORY / name).exists()) == []


def test_every_page_is_listed_and_opens_with_a_sentence():
    for page, text in PAGES.items():
        if page.startswith("docs/") and not page.endswith("README.md"):
            assert f"({page})" in README and f"({page.removeprefix('docs/')})" in PAGES["docs/README.md"], page
            title, opening = text.split("\n\n")[:2]
            assert title.startswith("# ") and re.search(r"[.:]$", opening) and opening[0] not in "#|!*", page


def test_tables_name_every_model_dataset_protocol_and_recipe():
    for name in PROTOCOLS:
        assert TEXT.count(f"\n| `{name}` |") == 1, name
    for name in [*MODELS, *CATALOG, *config_names()]:
        assert re.search(rf"^\|.*[`|, ]{re.escape(name)}[`|, ]", TEXT, re.MULTILINE), name
    for name in set(re.findall(r"`((?:sgmp_unet|datransnet)_\w+)`", TEXT)) - set(MODELS):
        merge_settings(name, {})  # a recipe


def test_published_metrics_are_those_of_the_catalog():
    rows = {
        (cells[1], cells[2].strip("`")): [float(cell) for cell in cells[3:]]
        for cells in (
            [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGES["docs/reproduce.md"].splitlines()
        )
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
    ours_or_optional = {"istd", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "h5py", "wandb"}
    names = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "yaml": "pyyaml"}
    roots = {module.split(".")[0] for module in modules} - ours_or_optional - sys.stdlib_module_names
    needed = {names.get(root, root) for root in roots}
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    required = {re.split(r"[<>=\[]", line)[0] for line in lines if not line.startswith("#")}
    assert needed <= required
    assert required - needed <= {"timm", "scikit-image"}


def extras() -> dict[str, list[str]]:
    """The extras of pyproject.toml and what they require."""
    section = PYPROJECT.split("[project.optional-dependencies]\n")[1].split("\n\n")[0]
    return {name: ast.literal_eval(value) for name, value in re.findall(r"^(\w+) = (\[.*\])", section, re.MULTILINE)}


def test_the_extra_for_tests_is_that_of_the_requirements():
    lines = (REPOSITORY / "requirements-test.txt").read_text().splitlines()
    assert lines[0] == "-r requirements.txt"
    assert {*extras()["test"], *extras()["export"]} == {*lines[1:], "istd[export]"}


def imported(node: ast.AST) -> list[str]:
    """Modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []


def help_texts() -> dict[str, str]:
    """What the helps of all commands say."""
    texts = {command.module: importlib.import_module(f"istd.{command.module}").__doc__ for command in COMMANDS.values()}
    return texts | {"train_script.train": DESCRIPTION}


@pytest.mark.parametrize("module, text", help_texts().items())
def test_every_help_ends_with_examples_that_parse(module, text, monkeypatch):
    lines = [re.split(r" {2,}", line.strip())[0] for line in split_examples(text)[1].splitlines()]
    examples = [shlex.split(part) for line in lines for part in line.split("|") if "-m " in part]
    assert module in {words[words.index("-m") + 1] for words in examples}
    for words in examples:
        name, *arguments = words[words.index("-m") + 1 :]
        accept(name, arguments, monkeypatch)
