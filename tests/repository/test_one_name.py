"""One name in the environment: `istd`, with its command, beside other packages called `datasets` and `models`."""

import importlib
import re
import subprocess
import sys

import pytest

from istd import command
from istd.utils.errors import InputError
from tests.processes import run_code
from tests.reference.datasets_folders import REPOSITORY

FROM_ANYWHERE = """
import istd
assert {"Predictor", "build_metric", "load_model"} <= set(dir(istd))
network = istd.load_model("datransnet")
import datasets, istd.datasets, istd.train_script.settings
assert datasets.IS_OF_SOMEBODY_ELSE and istd.datasets.ClipDataset
assert isinstance(network, istd.models.DATransNet) and callable(istd.Predictor) and istd.build_metric("standard")
assert "demo" in istd.train_script.settings.config_names()
"""
BARE_NAMES = """
import models.datransnet, utils.metrics
from datasets import ClipDataset
from models import build_model
import istd.datasets, istd.models, istd.utils.metrics
assert isinstance(build_model("datransnet", width=4), models.datransnet.DATransNet)
assert models is istd.models and ClipDataset is istd.datasets.ClipDataset
assert utils.metrics.build_metric is istd.utils.metrics.build_metric
assert models.datransnet.__spec__.name == "istd.models.datransnet"
import train_script.losses, istd.train_script.losses
assert train_script.losses.LOSSES is istd.train_script.losses.LOSSES
"""


def test_istd_works_from_anywhere_beside_another_package_called_datasets(tmp_path):
    """As after `pip install -e .`, which makes `istd` alone importable, in an environment with another `datasets`."""
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "istd").symlink_to(REPOSITORY / "istd")
    theirs = tmp_path / "theirs" / "datasets"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("IS_OF_SOMEBODY_ELSE = True\n")
    run_code(tmp_path / "said.txt", FROM_ANYWHERE, tmp_path, [tmp_path / "installed", theirs.parent])


def test_bare_names_in_a_checkout_are_the_packages_of_istd(tmp_path):
    run_code(tmp_path / "said.txt", BARE_NAMES, REPOSITORY, [REPOSITORY])


@pytest.mark.parametrize("name", ["istd", "istd.datasets", "istd.test_script.predictor"])
def test_names_that_are_imported_at_their_first_use_are_listed_and_no_others_exist(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, public)) for public in package.__all__ if not public.isupper())
    with pytest.raises(AttributeError, match="no attribute 'load_modell'"):
        _ = package.load_modell


def test_every_command_is_one_of_istd():
    folders = ("datasets", "models", "test_script", "train_script", "utils")
    runnable = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert {entry.module for entry in command.COMMANDS.values()} == runnable
    assert all(entry.module.endswith(f".{name}") for name, entry in command.COMMANDS.items())


def test_the_console_script_is_that_function():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^\[project\.scripts\]\nistd = "istd\.command:run"$', text, re.MULTILINE)


def test_help_lists_every_command_without_importing_torch():
    code = "import sys; from istd.command import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, entry in command.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.about)}$", done.stdout, re.MULTILINE)


def test_a_command_gets_the_other_arguments(capsys):
    assert not command.main(["evaluate", "--list_protocols"])
    assert "standard: this repository's default" in capsys.readouterr().out


def test_a_misspelt_command_is_an_error():
    with pytest.raises(InputError, match="did you mean predict"):
        command.main(["predcit"])
