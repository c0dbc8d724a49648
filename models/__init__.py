"""The networks: `build_model(name, **options)` has fresh weights, `load_model(path)` the weights of a checkpoint."""

import functools
import inspect
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from istd.models.datransnet import DATransNet
from istd.models.external import ExternalNetwork, read_interface, try_network
from istd.models.network import Network
from istd.models.sgmp_unet import SMALL, SGMPUNet
from istd.models.user_code import choose_code, constructor_options, constructor_parameters, is_external, short_name
from istd.models.weights import Undrawn, load_weights, mismatches, unknown_network
from istd.utils.bare_names import share_with_istd
from istd.utils.checkpoint import Checkpoint, read_checkpoint
from istd.utils.config import convert_options
from istd.utils.errors import InputError

__all__ = [
    "MODELS",
    "Network",
    "build_model",
    "check_options",
    "complete_options",
    "is_external",
    "load_model",
    "load_weights",
    "recognise_network",
    "short_name",
    "try_network",
]

share_with_istd(__name__)

NETWORKS = (SGMPUNet, DATransNet)
MODELS = {network.name: network for network in NETWORKS} | {"sgmp_unet_small": functools.partial(SGMPUNet, **SMALL)}


def check_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Convert `options`, whose values may be text, to the types in the signature of the model's constructor.

    Raises InputError for an unknown model or option, with a list of the known names, and for a value of another type.
    """
    if is_external(name):
        return constructor_options(name, options)
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'; known models: {', '.join(sorted(MODELS))}")
    return convert_options(name, options, model_options(name))


def model_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a model: the parameters of its constructor, with their types and defaults."""
    if is_external(name):
        return constructor_parameters(name)
    return dict(inspect.signature(MODELS[name], eval_str=True).parameters)


def build_model(name: str, /, interface: dict[str, Any] | None = None, **options) -> Network:
    """Build a network with fresh weights.

    `name`: of `MODELS`, or code, as `path/to/net.py:ClassName` or a dotted name, which is imported; `interface` then
    describes the network's inputs and outputs (see `models.external.Interface`). Raises InputError for an unknown name
    or option, with a list of the known names, and for a value that does not fit.
    """
    options = check_options(name, options)
    if is_external(name):
        return ExternalNetwork(name, read_interface(interface or {}), options)
    if interface:
        raise InputError(f"the interface of {name} is known; leave out {interface}")
    return MODELS[name](**options)


def complete_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The values of all options of a model: `options`, and the defaults of the options that they leave out."""
    return {option: parameter.default for option, parameter in model_options(name).items()} | options


def load_model(
    source: str | Path | Checkpoint, /, code: Iterable[str] = (), interface: dict[str, Any] | None = None, **options
) -> Network:
    """The network of a checkpoint, ours or published, with its weights, in eval mode.

    `source` is the file, a folder of the Hugging Face Hub, the name of weights that ship with the repository, such as
    "datransnet", or a checkpoint already read with `utils.checkpoint.read_checkpoint`. `options` override the options
    in the file (e.g. `image_size` for a published DATransNet file, which does not record it).

    A network from the user's code needs that code, since a checkpoint never contains code: `code` holds names as for
    `build_model`, and the name with the class of the checkpoint is used. `interface` overrides the interface in the
    file; weights of other programs have none. Raises InputError if the file is no checkpoint of a known network.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    code = [code] if isinstance(code, str) else list(code)
    name, recorded, known = recognise_network(checkpoint, code, options)
    if code and not is_external(name):
        print(f"note: {checkpoint.path} holds weights of {name}, which needs no --model; {', '.join(code)} is not used")
    with nullcontext() if is_external(name) else Undrawn():
        model = build_model(name, {**known, **(interface or {})}, **{**recorded, **options})
    load_weights(model, checkpoint)
    model.settings = checkpoint.settings if checkpoint.kind == "ours" else {}
    return model.eval()


def recognise_network(
    checkpoint: Checkpoint, code: list[str], options: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name, the options and the interface of the network of a checkpoint, as far as its file tells them.

    `code`: as for `load_model`; `options`: those that the network will have besides. Raises InputError if the network
    is unknown, or if it comes from code that `code` does not name.
    """
    if checkpoint.code or (code and checkpoint.kind == "published"):
        return choose_code(checkpoint, code), checkpoint.options, checkpoint.code.get("interface", {})
    if checkpoint.kind == "ours":
        return checkpoint.model_name, checkpoint.options, {}
    for network in NETWORKS:
        if (published := network.published_options(checkpoint.weights)) is not None:
            return network.name, published, {}
    return network_of_names(checkpoint, options), {}, {}


def network_of_names(checkpoint: Checkpoint, options: dict[str, Any]) -> str:
    """The name of our network whose weights have the names in a checkpoint, a plain `state_dict()`.

    If several networks have these names, the network whose weights, built with these `options`, also have the shapes.
    Raises InputError if the names belong to no network.
    """
    alike = []
    for name in MODELS:
        with torch.device("meta"), suppress(InputError):  # of options for another network
            expected = build_model(name, **options).state_dict()
            if not mismatches(expected, checkpoint.weights):
                return name
            if not expected.keys().isdisjoint(checkpoint.weights):
                alike.append(name)
    if not alike:
        raise unknown_network(checkpoint, [network.name for network in NETWORKS])
    return alike[0]
