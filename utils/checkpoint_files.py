"""The content of checkpoint files, as plain data: of `torch.save` in both its formats, and of safetensors.

No code of a file is ever run, and a damaged file is recognised by the checksums that zip files carry.
"""

import argparse
import json
import pathlib
import pickle
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from istd.utils.checkpoint_paths import shipped_weights
from istd.utils.errors import InputError
from istd.utils.files import atomic_path
from istd.utils.names import list_names

POINTER_START = b"version https://git-lfs.github.com/spec/"
PAGE_STARTS = (b"<!doctype html", b"<html")
START_BYTES = 512  # of a file, in which these starts are searched
METADATA = "istd"  # the key under which the metadata of a safetensors file hold ours, as JSON

# Types that published files pickle, beyond tensors and plain containers; building them runs no code.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
SAFE_TYPES = [
    argparse.Namespace,
    # paths of another system, and of Python 3.13, which moved them, are read as names only
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
]


def read_content(path: Path) -> Any:
    """The content of a checkpoint file, on the CPU; our safetensors files give the same dict as our other files.

    Raises `InputError` for a file that is missing, damaged, not a checkpoint, or that asks for anything but plain data.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a checkpoint file (.pth, .pth.tar, .safetensors)")
    if not path.exists():
        names = ", ".join(shipped_weights()) or "(none)"
        raise InputError(f"there is no checkpoint file {path}; check the path, or name shipped weights: {names}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; expected a checkpoint file (.pth, .pth.tar, .safetensors)")
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise InputError(f"no permission to read {path}: {error.strerror}") from error
    if start.startswith(POINTER_START):
        raise InputError(f"{path} is a Git LFS pointer, not the weights themselves; fetch them: git lfs pull")
    if start.lstrip().lower().startswith(PAGE_STARTS):
        raise InputError(f"{path} is a web page (HTML), not a checkpoint; download the file that the page links to")
    if start[8:9] == b"{" and path.suffix == ".safetensors":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        _check_zip(path)
    return _load_safely(path)


def _check_zip(path: Path) -> None:
    """Compare the checksums of the files in a zip file with their content.

    If all are wrong, the file was written without checksums (`torch.serialization.set_crc32_options(False)`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            damaged = [name for name in names if not _is_intact(archive, name)]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not a checkpoint, or it is truncated; download or copy it again") from error
    if not any(name.endswith("data.pkl") for name in names):
        raise InputError(
            f"{path} is a zip file of something else ({list_names(names)}); unpack it, and give the checkpoint in it"
        )
    if damaged and len(damaged) < len(names):
        raise InputError(f"{path} is damaged: the checksum of {damaged[0]} in it is wrong; download or copy it again")


def _is_intact(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a file of a zip file can be read and has the checksum that is stored beside it."""
    try:
        with archive.open(name) as file:
            while file.read(1 << 20):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):
        return False
    return True


def _load_safely(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise errors of a dozen types
        message = f"{path} is not a checkpoint, or it is truncated; download or copy it again"
        refused = isinstance(error, pickle.UnpicklingError)
        if refused and (named := re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))):
            message = (
                f"refused to load {path}: it asks to build '{named[1]}', and a checkpoint may hold only tensors and "
                "plain data; a file from an untrusted source may be malicious. If it is a whole network that you "
                "trust, save its weights alone, in its authors' code: python -c \"import torch; "
                f"torch.save(torch.load('{path.name}', weights_only=False).state_dict(), 'weights.pth')\""
            )
        elif refused and "Unsupported operand" in str(error):
            reason = "it is not a file that torch.save writes, or it is damaged; a pickle"
            message = f"refused to load {path}: {reason} from an untrusted source may be malicious"
        raise InputError(message) from error


def write_safetensors(path: Path, content: dict) -> None:
    """Write the content of our checkpoints, without the training state, as a safetensors file.

    Everything but the weights is JSON in the file's metadata, with a checksum of the weights.
    """
    weights = {name: weight.detach().cpu().contiguous() for name, weight in content["weights"].items()}
    facts = {name: value for name, value in content.items() if name not in ("weights", "training")}
    facts["crc32"] = _checksum(weights)
    with atomic_path(path) as temporary:
        # clones, since weights that share memory are refused
        shared = {name: weight.clone() for name, weight in weights.items()}
        safetensors.torch.save_file(shared, temporary, {"format": "pt", METADATA: json.dumps(facts, default=str)})


def _read_safetensors(path: Path) -> dict:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a safetensors file, or it is damaged; download or copy it again") from error
    if METADATA not in metadata:
        return weights
    try:
        content = dict(json.loads(metadata[METADATA]))
        checksum = content.pop("crc32", None)
    except ValueError as error:
        raise InputError(f"the metadata of {path} is damaged; download or copy it again") from error
    if checksum is not None and checksum != _checksum(weights):
        raise InputError(f"{path} is damaged: the checksum of its weights is wrong; download or copy it again")
    return content | {"weights": weights, "training": {}}


def _checksum(weights: dict[str, Tensor]) -> int:
    """CRC-32 over the bytes of all weights, ordered by name."""
    value = 0
    for name in sorted(weights):
        value = zlib.crc32(weights[name].contiguous().flatten().view(torch.uint8).numpy(), value)
    return value
