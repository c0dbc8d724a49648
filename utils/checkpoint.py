"""Write and read our checkpoint files, and read published files; no code in a file is ever run.

Our files hold a dict {"format", "version", "model": {"name", "options"}, "weights", "settings", "training"}.
`models.load_model` recognises the network of a published file by the names of its weights.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from istd.utils.checkpoint_files import read_content, write_safetensors
from istd.utils.checkpoint_paths import find_checkpoint
from istd.utils.errors import InputError
from istd.utils.files import atomic_path

FORMAT = "istd-checkpoint"
VERSION = 1

# keys under which other programs save weights, in the order of the search
WEIGHT_KEYS = (
    "state_dict", "model", "model_state_dict", "net", "network", "params", "weights", "ema_state_dict",
)  # fmt: skip
# prefixes by DataParallel, a Lightning-like holder, a class around a network, and torch.compile
WRAPPER_PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
COUNTERS = ("total_ops", "total_params")  # buffers that thop leaves in every layer it has counted
PARTS = {"version": int, "model": dict, "weights": dict, "settings": dict, "training": dict}  # of our files
MODEL_PARTS = {"name": str, "options": dict, "code": dict}
CODE_PARTS = {"class": str, "file": str, "sha256": str, "interface": dict}
SETTINGS = {"preset": str, "model": str, "train_size": int, "val_size": int}  # used in loading, if recorded
FORMER_PRESETS = {"fast": "grey", "contrast": "local_contrast"}  # names in files of earlier versions


@dataclass
class Checkpoint:
    """The content of a checkpoint file.

    kind is "ours" or "published"; only our files have a name and options (as for `models.build_model`). Weights are
    named as in the file, without the prefixes of wrappers, which `prefixes` lists, the outermost first. training is
    empty if the file has no training state of ours; code (`models.user_code.describe_code`) is empty for our networks.
    """

    path: Path
    kind: str
    weights: dict[str, Tensor]
    model_name: str | None = None
    options: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    code: dict = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()


def current_preset(name: Any) -> Any:
    """The present name of a preset of `datasets.presets`, which may have had another name in earlier versions."""
    return FORMER_PRESETS.get(name, name) if isinstance(name, str) else name


def save_checkpoint(path: str | Path, model: nn.Module, settings: dict, training: dict | None = None) -> None:
    """Write `model` (with its `name` and `options`), the run's settings and its training state, atomically.

    They must consist of tensors, numbers, strings, None, lists, tuples and dicts, which can be read back safely. A path
    that ends in .safetensors becomes a safetensors file, without the training state.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": model.name, "options": model.options, "code": getattr(model, "code", {})},
        "weights": model.state_dict(),
        "settings": settings,
        "training": training or {},
    }
    if Path(path).suffix == ".safetensors":
        return write_safetensors(Path(path), content)
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # the disk is full
            raise OSError(str(error)) from error


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint, ours or published, onto the CPU.

    `source`: a file, a folder of the Hugging Face Hub, or the name of weights that ship with the repository. Raises
    InputError for a file that is missing, damaged, not a checkpoint, or that asks for anything but plain data.
    """
    path = find_checkpoint(source)
    content = read_content(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return _read_ours(content, path)
    settings = content.get("args") if isinstance(content, dict) else None
    settings = vars(settings) if isinstance(settings, argparse.Namespace) else {}
    weights, prefixes = _find_weights(content, path)
    return Checkpoint(path, "published", weights, settings=settings, prefixes=prefixes)


def _read_ours(content: dict, path: Path) -> Checkpoint:
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        versions = f"(format {version}, known up to {VERSION})"
        raise InputError(f"{path} was written by a newer version of this code {versions}; update this code")
    _check_types(path, content, PARTS)
    model = {"code": {}, **content["model"]}
    _check_types(path, model, MODEL_PARTS, "model.")
    if model["code"]:
        _check_types(path, model["code"], CODE_PARTS, "model.code.")
    if "." in model["name"] or ":" in model["name"]:  # the form of code, which a checkpoint must not make us import
        raise _wrong_part(path, f"model.name is {model['name']!r}", "the name of a class")
    for name, weight in content["weights"].items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise _wrong_part(path, f"weight {name!r} is a {type(weight).__name__}", "named tensors")
    if not all(isinstance(name, str) for name in (*model["options"], *content["settings"])):
        raise _wrong_part(path, "an option or setting has a name that is no text", "names")
    settings = content["settings"]
    _check_types(path, settings, {name: SETTINGS[name] for name in SETTINGS if settings.get(name)}, "settings.")
    if "preset" in settings:
        settings = settings | {"preset": current_preset(settings["preset"])}
    parts = (content["weights"], model["name"], model["options"], settings, content["training"], model["code"])
    return Checkpoint(path, "ours", *parts)


def _check_types(path: Path, content: dict, types: dict[str, type], prefix: str = "") -> None:
    """Raise `InputError` unless `content` has these entries, of these types."""
    for name, kind in types.items():
        if name not in content:
            raise InputError(f"{path} lacks a part of a checkpoint ({prefix}{name}); it was not written by this code")
        if not isinstance(content[name], kind):
            raise _wrong_part(path, f"{prefix}{name} is a {type(content[name]).__name__}", f"a {kind.__name__}")


def _wrong_part(path: Path, came: str, expected: str) -> InputError:
    return InputError(f"{path} is not as this code writes checkpoints: {came}, expected {expected}; copy it again")


def _find_weights(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The dict of tensors in a checkpoint, whatever its key, and its prefixes; see `_without_prefixes`."""
    if isinstance(content, dict):
        named = {key: content[key] for key in WEIGHT_KEYS if _is_weights(content.get(key))}
        if named or _is_weights(content):
            key, weights = next(iter(named.items()), ("", content))
            if len(named) > 1:
                print(f"{path} holds several sets of weights ({', '.join(named)}); '{key}' is used")
            return _without_prefixes(
                {name: weight for name, weight in weights.items() if name.rpartition(".")[2] not in COUNTERS}
            )
    keys = ", ".join(f"'{key}'" for key in WEIGHT_KEYS)
    raise InputError(f"{path} holds no network weights; expected a dict of tensors, alone or under {keys}")


def _is_weights(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in content.items())
    )


def _without_prefixes(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights without the prefixes of wrappers, which all names share, and these prefixes, the outermost first."""
    removed = []
    while prefix := next((p for p in WRAPPER_PREFIXES if weights and all(n.startswith(p) for n in weights)), None):
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
        removed.append(prefix)
    return weights, tuple(removed)
