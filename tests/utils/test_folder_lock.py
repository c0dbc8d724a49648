"""A folder that one command holds, and what is recorded of a command."""

import subprocess
import sys

import pytest

from istd.utils.errors import InputError
from istd.utils.folder_lock import locked_folder
from istd.utils.provenance import commit, package_version, provenance
from tests.reference.datasets_folders import REPOSITORY


def test_the_second_command_in_a_folder_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked_folder(folder):
        with pytest.raises(InputError, match=r"another command is writing to .*run; wait until it has ended"):
            locked_folder(folder).__enter__()
        with locked_folder(folder / "inner"):
            pass
    assert [path.name for path in folder.iterdir()] == ["inner"], "no lock file is left"
    with locked_folder(folder):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        locked_folder(tmp_path / "file").__enter__()


def test_the_commit_says_whether_files_were_changed(tmp_path):
    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True).stdout

    assert commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "first")
    head = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{head}-dirty"


def test_what_made_a_result_is_recorded_without_secrets(monkeypatch):
    words = ["python", "-m", "test_script.predict", "--input", "rtsp://me:secret@host/1?pwd=secret", "--fps", "5"]
    monkeypatch.setattr(sys, "orig_argv", words)
    record = provenance()
    assert record["command"].endswith("python -m test_script.predict --input rtsp://host/1 --fps 5")
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["cores"] >= 1 and record["command"].split()[0].strip("'").endswith("python")
    assert record["version"] == package_version(REPOSITORY)
    assert f'version = "{record["version"]}"' in (REPOSITORY / "pyproject.toml").read_text()
