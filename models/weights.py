"""The weights of a checkpoint, ours or published, put into a network."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from models.network import Network
from utils.checkpoint import Checkpoint, read_checkpoint
from utils.errors import InputError

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
    own = model.state_dict()
    problems = {
        "missing": [name for name in own if name not in weights and not name.endswith(DERIVED)],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {list(weights[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(_listing(kind, names) for kind, names in problems.items() if names)
        raise InputError(f"{checkpoint.path} does not fit {model.name} with options {model.options}: {text}")
    model.load_state_dict(weights, strict=False)


def unknown_network(checkpoint: Checkpoint, expected: list[str]) -> InputError:
    """The error for weights that are neither in our format nor published for one of the networks `expected`."""
    return InputError(
        f"{checkpoint.path} holds weights of an unknown network (first names: {', '.join(list(checkpoint.weights)[:3])}"
        f"); expected a checkpoint of this repository or a published one of {' or '.join(expected)}"
    )


def _listing(kind: str, names: list[str]) -> str:
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} weights {kind}: {', '.join(names[:LISTED])}{more}"


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
