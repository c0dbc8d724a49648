"""A fingerprint of data, by which a run that continues knows whether its images are still the same."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from istd.datasets.layouts import Sequence
from istd.utils.errors import InputError
from istd.utils.image_stacks import StackPage

DIGITS = 8  # of `image_digests`; two sets of 1000 images share a digest by chance with a probability of 0.0002
END_BYTES = 2**18  # of the beginning and of the end of an image; `image_digests` do not see what lies between


def fingerprint(sequences: Iterable[Sequence], contents: bool = False, tables: Iterable[Path] = ()) -> str:
    """SHA-256 over the names of sequences and frames and the sizes of their files in bytes.

    The same data at another place has the same fingerprint; the order of the sequences counts. `contents`: the contents
    of the files count, too, so that a mask changed at equal size is noticed. `tables`: files that count if they exist.
    """
    digest = hashlib.sha256()

    @cache  # a stack is the file of many frames
    def state(file: Path) -> tuple[int | str, ...]:
        return file_state(file, contents)

    for sequence in sequences:
        for frame in sequence.frames:
            files = [state(Path(path)) for path in (frame.image, frame.mask) if path is not None]
            digest.update(repr((sequence.name, frame.name, files)).encode(errors="surrogateescape"))
    for path in tables:
        if path.is_file():
            digest.update(repr((path.name, state(path))).encode(errors="surrogateescape"))
    return digest.hexdigest()


def image_digests(sequences: Iterable[Sequence]) -> list[str]:
    """`DIGITS` hexadecimal digits for each sequence that stand for the contents of its first image with a mask.

    A checkpoint records them, at nine bytes each, to tell which images of another dataset it was trained on, whatever
    their names. Parts of the same sequence, whose other frames are context without masks, have different digests.
    """
    targets = ([frame.image for frame in sequence.frames if frame.has_mask] for sequence in sequences)
    return [_digest(images[0]) for images in targets if images]


def _digest(image: Path | StackPage) -> str:
    state = file_state(image, contents=True, ends_only=True)
    if isinstance(image, StackPage):
        state += (image.page,)
    return hashlib.sha256(repr(state).encode()).hexdigest()[:DIGITS]


def file_state(path: Path | StackPage, contents: bool, ends_only: bool = False) -> tuple[int | str, ...]:
    """The size of a file in bytes, and with `contents` its SHA-256; `ends_only`: that of its ends (`END_BYTES`)."""
    try:
        size = path.stat().st_size
        if not contents:
            return (size,)
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(END_BYTES))
            if ends_only:
                file.seek(max(END_BYTES, size - END_BYTES))
            while chunk := file.read(END_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the dataset's folder") from error
    return (size, digest.hexdigest())
