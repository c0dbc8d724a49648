"""Atomic writing: a file or folder appears complete or not at all."""

import csv
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from istd.utils.errors import InputError
from istd.utils.names import table_cell

PROBE_BYTES = 4096  # an empty file can be created even on a full disk


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; flush it to disk and rename it to `path` if the block succeeds.

    A reader never sees a half-written file, and an existing file is kept until the new one is complete.
    The folder is created. Raises `InputError` if the folder cannot be written to or the disk is full.
    """
    with _folder_beside(Path(path)) as folder:
        temporary = folder / Path(path).name
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a UTF-8 file, with or without a byte order mark; raises `InputError` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; check the path") from error


def write_json(path: str | Path, content: Any, indent: int | None = 1) -> None:
    """Write nested `content` as JSON, NaN as null; raises `InputError` as `atomic_path` does."""
    text = json.dumps(json_ready(content), indent=indent, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def open_atomic(path: str | Path) -> Iterator[TextIO]:
    """Yield a text file that appears as `path` if the block succeeds."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        yield file


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a table as csv, with an empty cell for NaN and None; raises `InputError` as `atomic_path` does."""
    with open_atomic(path) as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *(map(_cell, row) for row in rows)])


def _cell(value: Any) -> Any:
    return table_cell(json_ready(value))


def json_ready(value: Any) -> Any:
    """The same nested value with NaN, which JSON lacks, as None."""
    if isinstance(value, Mapping):
        return {key: json_ready(each) for key, each in value.items()}
    if isinstance(value, list):
        return [json_ready(each) for each in value]
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
    """Yield a hidden folder beside `path`, on the same disk, that is removed in the end; an `OSError` is the user's."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent, ignore_cleanup_errors=True) as name:
            yield Path(name)
    except OSError as error:
        of_folder = isinstance(error, FileExistsError | NotADirectoryError)
        reason = f"{path.parent} is not a folder" if of_folder else error.strerror or error
        raise InputError(f"cannot write {path}: {reason}; choose a folder with space and write permission") from error


def check_writable(path: str | Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise `InputError` now, before long work, if `path` cannot be written. The folder is created.

    `suffixes`: those that name a format which can be written, in lower case; () for any.
    """
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file name")
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise InputError(f"cannot write {path}: expected a file name that ends in {', '.join(suffixes)}")
    with _folder_beside(Path(path)) as folder:
        (folder / "probe").write_bytes(b"\0" * PROBE_BYTES)
