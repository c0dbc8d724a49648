"""Atomic writing: a file or folder appears complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import InputError

PROBE_BYTES = 4096  # an empty file can be created even on a full disk


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; flush it to disk and rename it to `path` if the block succeeds.

    A reader never sees a half-written file, and an existing file is kept until the new one is complete.
    The folder is created. Raises `InputError` if the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp creates files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` if the block succeeds.

    Raises `InputError` if `path` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not an empty folder; choose a new one or remove it")
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())  # mkdtemp creates folders that only their owner can read
        unfinished.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The `InputError` for a failure to create `path`."""
    of_folder = isinstance(error, FileExistsError | NotADirectoryError)
    reason = f"{path.parent} is not a folder" if of_folder else error.strerror or error
    return InputError(f"cannot write {path}: {reason}; choose a folder with space and write permission")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


class _Discarded(Exception):
    """Leaves the block of `atomic_path` without writing a file."""


def check_writable(path: str | Path) -> None:
    """Raise `InputError` now, before long work, if `path` cannot be written. The folder is created."""
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give a file name")
    with suppress(_Discarded), atomic_path(path) as temporary:
        temporary.write_bytes(b"\0" * PROBE_BYTES)
        raise _Discarded
