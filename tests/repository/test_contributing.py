"""The examples of CONTRIBUTING.md, applied to a copy of the repository and run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_code
from tests.reference.datasets_folders import REPOSITORY, write_lists, write_pairs

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = ("istd", "models", "datasets", "train_script", "test_script", "utils", "configs")
NAMES = [f"image{number}" for number in range(12)]
RUN_ALL = """
import importlib
for module, *arguments in CALLS:
    print(f"== {module}", flush=True)
    assert not importlib.import_module(module).main(arguments), module
"""


def blocks(kind: str) -> list[tuple[str, str]]:
    """(text since the block before, content) of the code blocks of a kind."""
    parts = re.split(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [(parts[i - 1], parts[i + 1]) for i in range(1, len(parts), 3) if parts[i] == kind]


def apply(root: Path, change: str) -> Path:
    """Apply a diff block to the one file of ours that its old lines are in, once; returns the file."""
    lines = change.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    files = [file for package in PACKAGES for file in (root / package).rglob("*.py") if old in file.read_text()]
    assert len(files) == 1 and files[0].read_text().count(old) == 1, f"{files} hold:\n{old}"
    files[0].write_text(files[0].read_text().replace(old, new))
    return files[0]


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the repository with every example applied, and data for them."""
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    for before, content in blocks("python"):
        path = root / re.findall(r"^`(\S+)`:$", before, re.MULTILINE)[-1]
        assert not path.exists()
        path.write_text(content)
    named = ""
    for before, content in blocks("diff"):
        named += before
        assert apply(root, content).relative_to(root).as_posix() in named  # the text says which file
    data = root / "data" / "MY-IR"
    write_pairs(data / "images", data / "masks", NAMES)
    write_lists(data, train=NAMES[:10], test=NAMES[10:])
    return root


def test_the_examples_are_as_clean_as_the_code(changed):
    ruff = [sys.executable, "-m", "ruff", "check", "--ignore", "I001", *PACKAGES]
    result = subprocess.run(ruff, cwd=changed, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_commands_run(changed):
    (commands,) = [content for _, content in blocks("bash")]
    calls = [re.fullmatch(r"python -m (.*)", line)[1].split() for line in commands.splitlines()]
    assert len(calls) == 4
    said = run_code(changed / "said.txt", f"CALLS = {calls}{RUN_ALL}", changed, [changed])
    checked, trained, measured, listed = said.split("== ")[1:]
    assert "MY-IR: 12 images" in checked and "train 10 images, test 2 images" in checked
    assert "train contrast_net" in trained and "test set (confident)" in trained
    assert "preset uniform, 32 px; tversky" in trained
    assert re.search(r"^confident ", measured, re.MULTILINE) and re.search(r"^basicirstd ", measured, re.MULTILINE)
    assert "confident: this example" in listed and "P > 0.9" in listed
    assert len(list((changed / "predict").rglob("report.html"))) == 1
