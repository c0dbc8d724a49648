"""A fingerprint of data, by which a run knows whether it goes on with the images it was begun with."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from istd.datasets.layouts import Sequence
from istd.utils.errors import InputError


def fingerprint(sequences: Iterable[Sequence], times: bool = False) -> str:
    """SHA-256 over the names of sequences and frames and the sizes of their files in bytes.

    The same data at another place has the same fingerprint; the order of the sequences counts. `times`: the files'
    modification times count, too, so that a mask that was changed at equal size is noticed, but a copy is other data.
    """
    digest = hashlib.sha256()
    for sequence in sequences:
        for frame in sequence.frames:
            files = [file_state(path, times) for path in (frame.image, frame.mask) if path is not None]
            digest.update(repr((sequence.name, frame.name, files)).encode())
    return digest.hexdigest()


def file_state(path: Path, times: bool) -> tuple[int, ...]:
    """The size of a file in bytes, and with `times` when it was changed, in nanoseconds."""
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the dataset's folder") from error
    return (state.st_size, state.st_mtime_ns) if times else (state.st_size,)
