"""Atomic writing: a file or folder appears complete or not at all."""

import csv
import errno
import fcntl
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from istd.utils.errors import InputError
from istd.utils.names import table_cell

UNFINISHED = ".unfinished-"  # begins the names of files and folders that are being written
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)
PROBE_BYTES = 4096  # an empty file can be created even on a full disk


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; flush it to disk and rename it to `path` if the block succeeds.

    A reader never sees a half-written file, and an existing file is kept until the new file is complete. Leftovers of
    killed processes are removed. The folder is created. Raises `InputError` if the file cannot be written.
    """
    with _folder_beside(Path(path)) as folder:
        temporary = folder / Path(path).name
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def renamed_path(path: str | Path) -> Iterator[Path]:
    """`atomic_path` without the flush, for many small files that can be made again.

    Only one process at a time may write `path`.
    """
    path = Path(path)
    temporary = path.with_name(UNFINISHED + path.name)
    with _input_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a UTF-8 file, with or without a byte order mark; raises `InputError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; check the path") from error


def read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the last line and the cells of each row of a csv file; `InputError` for other files."""
    reader = csv.reader(read_text(path).splitlines())
    try:
        yield from ((reader.line_num, cells) for cells in reader)
    except csv.Error as error:
        raise InputError(f"cannot read line {reader.line_num} of {path}: {error}; expected a table as csv") from error


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, with escapes for the bytes of file names that are not UTF-8."""
    with open_atomic(path) as file:
        file.write(text)


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write nested `content` as JSON, NaN as null; raises `InputError` as `atomic_path` does."""
    write_text(path, json.dumps(json_ready(content), indent=indent, allow_nan=False) + "\n")


@contextmanager
def open_atomic(path: str | Path) -> Iterator[TextIO]:
    """Yield a text file, encoded as in `write_text`, that appears as `path` if the block succeeds."""
    options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_path(path) as temporary, open(temporary, "w", **options) as file:
        yield file


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a table of `csv_cells`; raises `InputError` as `atomic_path` does."""
    with open_atomic(path) as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *(csv_cells(row) for row in rows)])


def csv_cells(row: Iterable) -> list:
    """The cells of a row in a csv file: empty for NaN and None, text made safe by `table_cell`."""
    return [table_cell(json_ready(cell)) for cell in row]


def json_ready(value: Any) -> Any:
    """The same nested value with NaN, which JSON lacks, as None."""
    if isinstance(value, Mapping):
        return {key: json_ready(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [json_ready(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `path` if the block succeeds.

    Raises `InputError` if `path` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not an empty folder; choose a new one or remove it")
    with _folder_beside(path) as folder:
        unfinished = folder / path.name
        unfinished.mkdir()
        yield unfinished
        unfinished.replace(path)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, on the same disk, and remove it in the end; for errors see `_input_errors`.

    A killed process leaves its folder behind. A running process holds a lock on its folder, which ends with it, so that
    the next process that writes `path` recognises leftovers and removes them.
    """
    prefix = f"{UNFINISHED}{path.stem}-"
    with _input_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent, prefix)
        folder, lock = _make_locked_folder(path.parent, prefix)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _make_locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # another process took it for a leftover before it was locked


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders with this prefix whose process has ended."""
    for name in os.listdir(parent):
        if not name.startswith(prefix):
            continue
        folder = parent / name
        with suppress(OSError):  # the folder is locked, or gone
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Raise an `OSError` in writing `path` as an `InputError`; other errors pass."""
    try:
        yield
    except OSError as error:
        if not _concerns(path, error):
            raise
        no_folder = isinstance(error, FileExistsError | NotADirectoryError)
        reason = f"{path.parent} is not a folder" if no_folder else error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose a folder with space and write permission") from error


def _concerns(path: Path, error: OSError) -> bool:
    """Whether an error names `path`, its temporary file, or a folder above; or names no file and is a write error."""
    if error.filename is None:
        return error.errno in (None, *WRITE_ERRORS)  # None: raised from a library's message
    named, target = (Path(os.path.abspath(os.fsdecode(place))) for place in (error.filename, path))
    return target.is_relative_to(named) or str(named).startswith(str(target.parent / UNFINISHED))


def check_writable(path: str | Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise `InputError` now, before long work, if `path` cannot be written. The folder is created.

    suffixes: the allowed suffixes, in lower case; () allows any.
    """
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file name")
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise InputError(f"cannot write {path}: expected a file name that ends in {', '.join(suffixes)}")
    with _folder_beside(Path(path)) as folder:
        (folder / "probe").write_bytes(b"\0" * PROBE_BYTES)
