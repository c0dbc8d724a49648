"""Load the weights of a checkpoint, ours, published or pretrained, into a network."""

import re
import urllib.error
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.errors import InputError
from istd.utils.names import list_names
from istd.utils.ranks import barrier, is_main

MAX_NAMES = 8  # listed for each kind of mismatch
DERIVED = "relative_position_index"  # a buffer that the window's size determines; shipped files leave it out


class Undrawn(TorchFunctionMode):
    """Within, new layers of this thread begin with zeros instead of random weights, for a checkpoint to fill.

    Random numbers take most of the time to build SGMP-UNet. Everything but parameters, such as buffers that no
    checkpoint holds, stays the same.
    """

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        drawn = None
        if function in (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_):
            drawn = kwargs["tensor"]
        elif function in (Tensor.uniform_, Tensor.normal_):  # of the other functions of nn.init
            drawn = args[0]
        return nn.init.zeros_(drawn) if isinstance(drawn, nn.Parameter) else function(*args, **kwargs)


def load_weights(model: nn.Module, source: str | Path | Checkpoint) -> None:
    """Fill `model` with the weights of a checkpoint, given as a file or already read.

    Raises InputError for another network, missing or surplus weights, another shape or type, and values not finite.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    if checkpoint.kind == "ours" and checkpoint.model_name != model.name:
        raise InputError(f"{checkpoint.path} holds a {checkpoint.model_name} checkpoint; expected one of {model.name}")
    expected = model.state_dict()
    candidates = [renamed for renamed in _namings(model, checkpoint) if not expected.keys().isdisjoint(renamed)]
    if not candidates:
        raise unknown_network(checkpoint, [model.name])
    weights = next((renamed for renamed in candidates if not mismatches(expected, renamed)), candidates[0])
    if problems := mismatches(expected, weights):
        raise InputError(f"{checkpoint.path} does not fit {model.name} with options {model.options}: {problems}")
    check_finite(weights, checkpoint.path)
    model.load_state_dict(weights, strict=False)


def _namings(model: nn.Module, checkpoint: Checkpoint) -> Iterator[dict[str, Tensor]]:
    """Yield the weights without the prefixes of wrappers, then with prefixes, which may be part of the network's names.

    Published weights of the network get its names.
    """
    for start in reversed(range(len(checkpoint.prefixes) + 1)):
        prefix = "".join(checkpoint.prefixes[start:])
        weights = {prefix + name: weight for name, weight in checkpoint.weights.items()}
        is_published = checkpoint.kind == "published" and model.published_options(weights) is not None
        yield model.from_published(weights) if is_published else weights


def check_finite(weights: dict[str, Tensor], path: Path) -> None:
    """Raise InputError if a weight is infinite or NaN: the file is damaged, or its training diverged."""
    bad = [name for name, weight in weights.items() if weight.is_floating_point() and not weight.isfinite().all()]
    if bad:
        raise InputError(
            f"{path} has weights that are not finite ({list_names(bad, MAX_NAMES)}); the file is damaged or its "
            "training diverged: use another checkpoint"
        )


def load_fitting(model: nn.Module, source: str | Path | Checkpoint) -> str:
    """Fill `model` with the weights of a checkpoint, of any network, whose names and shapes fit.

    Returns the `mismatches`. Raises InputError if nothing fits.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    expected = model.state_dict()
    shapes = {name: value.shape for name, value in expected.items()}

    def fitting_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in weights.items() if shapes.get(name) == value.shape}

    weights = max(_namings(model, checkpoint), key=lambda renamed: len(fitting_part(renamed)))
    fitting = fitting_part(weights)
    if not fitting:
        raise InputError(f"no weight of {checkpoint.path} fits {model.name}: {mismatches(expected, weights)}")
    check_finite(fitting, checkpoint.path)
    model.load_state_dict(fitting, strict=False)
    return mismatches(expected, weights)


def unknown_network(checkpoint: Checkpoint, expected: list[str]) -> InputError:
    """The error for weights that are neither in our format nor published for one of the networks `expected`."""
    return InputError(
        f"{checkpoint.path} holds weights of an unknown network (first names: {', '.join(list(checkpoint.weights)[:3])}"
        f"); expected a checkpoint of this repository or a published one of {' or '.join(expected)}"
    )


def mismatches(expected: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """The names of `expected` and `weights` that do not match, by the kind of mismatch; "" if all match."""
    shared = [(name, weights[name], weight) for name, weight in expected.items() if name in weights]
    problems = {
        "missing": [name for name in expected if name not in weights and not name.endswith(DERIVED)],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {list(weight.shape)}, expected {list(wanted.shape)}"
            for name, weight, wanted in shared
            if weight.shape != wanted.shape
        ],
        "of another type": [
            f"{name} ({weight.dtype}, {weight.layout}), expected {wanted.dtype}"
            for name, weight, wanted in shared
            if weight.is_floating_point() != wanted.is_floating_point() or weight.layout != wanted.layout
        ],
    }
    return "; ".join(
        f"{len(names)} weights {kind}: {list_names(names, MAX_NAMES)}" for kind, names in problems.items() if names
    )


def load_pretrained_backbone(model: nn.Module, source: str) -> None:
    """Fill `model` with torchvision's weights, named by its attribute `pretrained`; `source`: a file, or `download`.

    Raises `InputError` for a network without such a part, a failed download, or weights that do not fit.
    """
    if not model.pretrained:
        raise InputError(f"{model.name} has no pretrained backbone; leave --pretrained_backbone at none")
    from torchvision.models import get_weight  # imported here, since it takes as long as PyTorch

    pretrained = get_weight(model.pretrained)
    weights = _download(pretrained) if source == "download" else read_checkpoint(source).weights
    renamed = model.from_backbone(weights)
    part = {name: weight for name, weight in model.state_dict().items() if re.match(model.pretrained_part, name)}
    if problems := mismatches(part, renamed):
        raise InputError(
            f"the weights of {source} do not fit {model.name} with options {model.options}: {problems}; expected "
            f"torchvision's {pretrained}, from `download` or {pretrained.url}, and a network of its size"
        )
    check_finite(renamed, Path(source))
    model.load_state_dict(renamed, strict=False)


def _download(pretrained: Enum) -> dict[str, Tensor]:
    """torchvision's weights from PyTorch's server, kept in torch's cache; the main process fetches them first."""
    try:
        weights = pretrained.get_state_dict(progress=True, check_hash=True) if is_main() else None
        barrier()
        return weights or pretrained.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"cannot download {pretrained}: {error}; fetch {pretrained.url} elsewhere and give the file with "
            "--pretrained_backbone FILE, or none to start from random weights"
        ) from error


def rename_weights(weights: dict[str, Tensor], table, unused: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A published checkpoint's weights under our names.

    The rows of `table`, a regular expression and its replacement, are applied to each name in order. Weights whose
    published name starts with a word of `unused` are left out.
    """
    renamed = {}
    for name, weight in weights.items():
        if not name.startswith(unused or "\0"):
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
            renamed[name] = weight
    return renamed


def to_zero_based(before: str, after: str) -> Callable[[re.Match], str]:
    """A replacement in which a number of the published name, counted from 1, counts from 0."""
    return lambda match: f"{before}{int(match[1]) - 1}{after}"
