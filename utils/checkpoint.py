"""Checkpoint files: ours written and read, published ones read, no code of a file ever run.

Ours is a dict {"format", "version", "model": {"name", "options"}, "weights", "settings", "training"}. Of which network
a published file is, `models.load_model` tells from the names of its weights.
"""

import argparse
import pathlib
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from istd.utils.errors import InputError
from istd.utils.files import atomic_path

FORMAT = "istd-checkpoint"
VERSION = 1

WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, a Lightning-like holder, torch.compile

# Beyond tensors and plain containers, what published files pickle; none of these runs anything when it is built.
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


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    kind is "ours" or "published". The name and the options (those of `models.build_model`) are known of ours only.
    Weights carry the file's own names, without wrappers' prefixes; training is empty where the file has no training
    state of ours. code describes the user's code that a network was built from (`models.external.describe_code`); it is
    empty for the networks of this repository.
    """

    path: Path
    kind: str
    weights: dict[str, Tensor]
    model_name: str | None = None
    options: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    code: dict = field(default_factory=dict)


def save_checkpoint(path: str | Path, model: nn.Module, settings: dict, training: dict | None = None) -> None:
    """Write `model` (with its `name` and `options`), the run's settings and its training state, atomically.

    Everything must be tensors, numbers, strings, None, lists, tuples and dicts, so that it can be read back safely.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": model.name, "options": model.options, "code": getattr(model, "code", {})},
        "weights": model.state_dict(),
        "settings": settings,
        "training": training or {},
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # of a disk that is full
            raise OSError(str(error)) from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours or a published one onto the CPU.

    Raises InputError for a file that is missing, truncated, not a checkpoint, or that asks for anything but plain data.
    """
    path = Path(path)
    content = _load_safely(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return _read_ours(content, path)
    settings = content.get("args") if isinstance(content, dict) else None
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else {}
    return Checkpoint(path, "published", _find_weights(content, path), settings=settings)


def _read_ours(content: dict, path: Path) -> Checkpoint:
    try:
        if content["version"] > VERSION:
            versions = f"(format {content['version']}, known up to {VERSION})"
            raise InputError(f"{path} was written by a newer version of this code {versions}; update this code")
        model, parts = content["model"], (content["settings"], content["training"])
        return Checkpoint(
            path, "ours", content["weights"], model["name"], model["options"], *parts, model.get("code", {})
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} lacks a part of a checkpoint ({error}); it was not written by this code") from error


def _load_safely(path: Path):
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a checkpoint file (.pth, .pth.tar)")
    if not path.exists():
        raise InputError(f"there is no checkpoint file {path}; check the path")
    try:
        with torch.serialization.safe_globals(SAFE_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"no permission to read {path}") from error
    except Exception as error:  # a damaged file makes the reader stumble in a dozen ways
        message = f"{path} is not a checkpoint, or it is truncated; download or copy it again"
        refused = isinstance(error, pickle.UnpicklingError)
        if refused and (named := re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))):
            reason = f"it asks to build '{named[1]}', and a checkpoint may hold only tensors and plain data; a file"
            message = f"refused to load {path}: {reason} from an untrusted source may be malicious"
        elif refused and "Unsupported operand" in str(error):
            reason = "it is not a file that torch.save writes, or it is damaged; a pickle"
            message = f"refused to load {path}: {reason} from an untrusted source may be malicious"
        raise InputError(message) from error


def _find_weights(content, path: Path) -> dict[str, Tensor]:
    """The dict of tensors in a checkpoint, whatever it is called there, without wrappers' prefixes."""
    for held in (content.get("state_dict"), content.get("model"), content) if isinstance(content, dict) else ():
        weights = dict(held) if isinstance(held, dict) else {}
        if weights and all(isinstance(name, str) and isinstance(one, Tensor) for name, one in weights.items()):
            while prefix := next((p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in weights)), None):
                weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
            return weights
    expected = "a dict of tensors, alone or as 'model' or 'state_dict'"
    raise InputError(f"{path} holds no network weights; expected {expected}")
