"""Atomic files and folders, and the check before long work."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from istd.utils.errors import InputError
from istd.utils.files import UNFINISHED, atomic_path, check_writable, new_folder, renamed_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "new" / "metrics.json"
    with atomic_path(file) as temporary:
        temporary.write_text("first")
        assert not file.exists() and file.parent in temporary.parents
    with pytest.raises(RuntimeError), atomic_path(file) as temporary:
        temporary.write_text("half of the sec")
        raise RuntimeError
    assert file.read_text() == "first" and names(file.parent) == ["metrics.json"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "new" / "dataset"
    with pytest.raises(RuntimeError), new_folder(folder) as unfinished:
        (unfinished / "half").write_text("half")
        raise RuntimeError
    assert names(folder.parent) == []
    folder.mkdir()  # an empty folder is as good as none
    with new_folder(folder) as unfinished:
        (unfinished / "inner").mkdir()
        (unfinished / "inner" / "file").write_text("whole")
        assert names(folder) == [] and folder.parent in unfinished.parents
    assert names(folder.parent) == ["dataset"] and (folder / "inner" / "file").read_text() == "whole"
    assert folder.stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    """Of its own file, and not while the process lives that writes there: it holds the lock."""
    for name in ("metrics-dead", "metrics-alive", "other-dead"):
        (tmp_path / (UNFINISHED + name)).mkdir()
        (tmp_path / (UNFINISHED + name) / "half").write_text("half")
    alive = os.open(tmp_path / f"{UNFINISHED}metrics-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    with atomic_path(tmp_path / "metrics.json") as outer:
        outer.write_text("outer")
        with atomic_path(tmp_path / "metrics.json") as inner:
            inner.write_text("inner")
    os.close(alive)
    kept = [f"{UNFINISHED}metrics-alive", f"{UNFINISHED}other-dead", "metrics.json"]
    assert names(tmp_path) == kept and (tmp_path / "metrics.json").read_text() == "outer"


def test_a_renamed_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "masks" / "1.npy"
    with renamed_path(file) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".npy" and not file.exists()
    with pytest.raises(RuntimeError), renamed_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "whole" and names(file.parent) == ["1.npy"]
    with pytest.raises(InputError, match=r"cannot write .*2\.npy: .*1\.npy is not a folder"):
        renamed_path(file / "2.npy").__enter__()


def test_a_folder_with_content_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="not an empty folder"), new_folder(path):
            pytest.fail("the block must not run")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match=r"cannot write .*: .*mine\.txt is not a folder"):
        new_folder(tmp_path / "mine.txt" / "new").__enter__()


def test_a_trial_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "new" / "metrics.json")
    assert names(tmp_path / "new") == []
    (tmp_path / "old.json").write_text("old")
    check_writable(tmp_path / "old.json")
    assert names(tmp_path) == ["new", "old.json"] and (tmp_path / "old.json").read_text() == "old"


def test_what_cannot_be_written_is_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*out\.json: .*file is not a folder"):
        check_writable(tmp_path / "file" / "out.json")
    with pytest.raises(InputError, match="it is a folder"):
        check_writable(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*out\.json: No space left"):
        check_writable(tmp_path / "out.json")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),  # of a print
        FileNotFoundError(errno.ENOENT, "No such file or directory", "input.png"),
        OSError(errno.EIO, "Input/output error", "a.csv.png"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
)
def test_an_error_of_something_else_is_no_fault_of_the_file(tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)
    for path in ("a.csv", tmp_path / "a.csv"):
        with pytest.raises(type(error), match=error.strerror), atomic_path(path):
            raise error
    assert names(tmp_path) == []


def test_errors_of_writing_are_said_whether_they_name_the_file_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    full = (errno.ENOSPC, "No space left on device")
    for error in (OSError(*full), OSError("a library's words"), OSError(*full, "a.csv"), OSError(*full, str(tmp_path))):
        with pytest.raises(InputError, match=r"cannot write a\.csv: (No space left|a library's words)"):  # noqa: SIM117
            with atomic_path("a.csv"):
                raise error
    with pytest.raises(InputError, match=r"cannot write a\.csv: No such file"), atomic_path("a.csv") as temporary:
        (temporary.parent / "absent" / "b").touch()
