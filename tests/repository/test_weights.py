"""weights/README.md: the files are those it names, and its metrics can be reproduced."""

import hashlib
import json
import re
import shlex

import pytest

from istd.datasets.synthetic import main as render
from istd.test_script.inference import main as infer
from tests.reference.datasets_folders import REPOSITORY

WEIGHTS = REPOSITORY / "weights"
README = (WEIGHTS / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+\.pth)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
RENDERED = "data/rendered"  # as the README calls it
FACTS = ("for", "sha256", "network", "images seen", "training data", "command", "seed", "duration", "machine")
# Another processor may decide a pixel differently; one is 0.1 percentage points of IoU here, and 4.5e-6 of Fa.
TOLERANCES = (0.3, 0.3, 0.3, 5, 0.3)


def rows(section: str) -> list[list[str]]:
    """The cells of the tables in a section."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]


def test_every_file_has_a_section_with_its_facts_and_sha256():
    assert set(SECTIONS) == {path.name for path in WEIGHTS.glob("*.pth")}
    for name, section in SECTIONS.items():
        assert README.count(f"| [`{name}`]") == 1
        facts = dict(row for row in rows(section) if len(row) == 2)
        assert facts["sha256"] == f"`{hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest()}`", name
        assert all(facts.get(fact) for fact in FACTS), name


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> str:
    """The folder of the dataset that the command of the README renders."""
    (command,) = re.findall(r"^python -m datasets\.synthetic (.*)$", README, re.MULTILINE)
    folder = str(tmp_path_factory.mktemp("data") / "rendered")
    render([word.replace(RENDERED, folder) for word in shlex.split(command)])
    return folder


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", SECTIONS)
def test_the_metrics_on_the_rendered_dataset_are_reproduced(name, rendered, tmp_path):
    (row,) = (row for row in rows(SECTIONS[name]) if f"--dataset {RENDERED} " in row[-1])
    options = row[-1].strip("`").replace(RENDERED, rendered)
    infer(["--model_path", str(WEIGHTS / name), *shlex.split(options), "--output_dir", str(tmp_path / "out")])

    protocol, written = row[2].strip("`"), [float(cell) for cell in row[3:8]]
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["protocols"][protocol]
    measured = [found["iou"] * 100, found["niou"] * 100, found["pd"] * 100, found["fa"] * 1e6, found["f1"] * 100]
    for value, expected, tolerance in zip(measured, written, TOLERANCES, strict=True):
        assert value == pytest.approx(expected, abs=tolerance), (measured, written)
