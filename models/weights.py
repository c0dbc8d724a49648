"""The weights of a checkpoint, ours, published or pretrained, put into a network."""

import re
import urllib.error
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torchvision.models import WeightsEnum

from istd.models.network import Network
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.distributed import barrier, is_main
from istd.utils.errors import InputError

LISTED = 8  # names shown of each kind of mismatch
DERIVED = "relative_position_index"  # a buffer that the window's size determines; shipped files leave it out


def load_weights(model: Network, source: str | Path | Checkpoint) -> None:
    """Fill `model` with the weights of a checkpoint file, or of one already read.

    Raises InputError if it is of another network, or if any weight is missing, left over or of another shape.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    weights = checkpoint.weights
    if checkpoint.kind == "published":
        if model.published_options(weights) is None:
            raise unknown_network(checkpoint, [model.name])
        weights = model.from_published(weights)
    elif checkpoint.model_name != model.name:
        raise InputError(f"{checkpoint.path} holds a {checkpoint.model_name} checkpoint; expected one of {model.name}")
    if problems := _mismatches(model.state_dict(), weights):
        raise InputError(f"{checkpoint.path} does not fit {model.name} with options {model.options}: {problems}")
    model.load_state_dict(weights, strict=False)


def unknown_network(checkpoint: Checkpoint, expected: list[str]) -> InputError:
    """The error for weights that are neither in our format nor published for one of the networks `expected`."""
    return InputError(
        f"{checkpoint.path} holds weights of an unknown network (first names: {', '.join(list(checkpoint.weights)[:3])}"
        f"); expected a checkpoint of this repository or a published one of {' or '.join(expected)}"
    )


def _mismatches(own: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """The names of `own` and `weights` that do not match, by the kind of mismatch; empty if all do."""
    problems = {
        "missing": [name for name in own if name not in weights and not name.endswith(DERIVED)],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {list(weights[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    return "; ".join(
        f"{len(names)} weights {kind}: {', '.join(names[:LISTED])}"
        + (f", and {len(names) - LISTED} more" if len(names) > LISTED else "")
        for kind, names in problems.items()
        if names
    )


def load_pretrained_backbone(model: Network, source: str) -> None:
    """Fill `model` from `source`: a file of torchvision's weights that its class names as `pretrained`, or `download`.

    Raises `InputError` for a network without such a part, a failed download, or weights that do not fit.
    """
    if model.pretrained is None:
        raise InputError(f"{model.name} has no pretrained backbone; leave --pretrained_backbone at none")
    weights = _download(model.pretrained) if source == "download" else read_checkpoint(source).weights
    renamed = model.from_pretrained(weights)
    own = {name: weight for name, weight in model.state_dict().items() if re.match(model.pretrained_part, name)}
    if problems := _mismatches(own, renamed):
        raise InputError(
            f"the weights of {source} do not fit {model.name} with options {model.options}: {problems}; expected "
            f"torchvision's {model.pretrained}, from `download` or {model.pretrained.url}, and a network of its size"
        )
    model.load_state_dict(renamed, strict=False)


def _download(pretrained: WeightsEnum) -> dict[str, Tensor]:
    """The weights from PyTorch's server, kept in torch's cache; the main process fetches them first."""
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

    Each row of `table` is a regular expression and its replacement; the rows are applied to a name one after the other.
    Weights whose published name starts with a word of `unused` are left out.
    """
    renamed = {}
    for name, weight in weights.items():
        if not name.startswith(unused or "\0"):
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
            renamed[name] = weight
    return renamed


def down_one(before: str, after: str) -> Callable[[re.Match], str]:
    """Replacement that counts from 0 what the published name counts from 1."""
    return lambda match: f"{before}{int(match[1]) - 1}{after}"
