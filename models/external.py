"""Networks from the user's code: `path/to/net.py:ClassName`, or the dotted name of an importable class.

The code that runs is named by the user, on the command line or in a call, and never by a checkpoint: a checkpoint
records the file, the class, its options and the file's hash, and nothing of it is executed.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from istd.models.network import Network
from istd.utils.checkpoint import Checkpoint
from istd.utils.config import convert, nearest
from istd.utils.errors import InputError

FILE_NAME = re.compile(r"(?P<place>.+\.py):(?P<attribute>\w+)")
DOTTED_NAME = re.compile(r"(?P<place>[A-Za-z_]\w*(?:\.\w+)*)[.:](?P<attribute>\w+)")
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
PROBABILITY_MARGIN = 1e-6  # probabilities are clamped to this distance from 0 and 1 before they become logits
CHECKOUT = Path(__file__).resolve().parents[1]
TRIAL_SIDE = 256  # of the clip that a network is tried on, px


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives, as far as its code does not tell.

    frames: T, the frames of a clip.
    stride: distance of these frames within the sequence.
    target: the frame whose map it gives: middle (number T // 2) or last (causal, without latency).
    channels: 1 for grey, 3 for grey replicated to RGB.
    layout: axes of its input, BCHW (one frame), BTCHW or BCTHW; auto: BCHW for one frame, else BTCHW.
    size_multiple: height and width of its input are padded to multiples of it.
    output: what its maps hold: logits, probability (a sigmoid is its last layer), or softmax (logits [B, 2, H, W] of
        background and target).
    main: which of several outputs is the prediction: an index, such as 0 or -1, or a key of a dict. The others are
        auxiliary outputs.
    """

    frames: int = 1
    stride: int = 1
    target: Literal["middle", "last"] = "middle"
    channels: int = 1
    layout: Literal["auto", "BCHW", "BTCHW", "BCTHW"] = "auto"
    size_multiple: int = 32
    output: Literal["logits", "probability", "softmax"] = "logits"
    main: str | None = None


def is_external(name: str) -> bool:
    """Whether a model's name is that of code, by its form, rather than a name of the table of networks."""
    return bool(FILE_NAME.fullmatch(name) or DOTTED_NAME.fullmatch(name))


def short_name(name: str) -> str:
    """The class of an external network, or the name of any other."""
    return re.split(r"[.:]", name)[-1] if is_external(name) else name


def read_interface(values: dict[str, Any]) -> Interface:
    """An interface from names and texts; `InputError` for what it does not have."""
    annotations = get_type_hints(Interface)
    for name in values:
        if name not in annotations:
            known = ", ".join(field.name for field in fields(Interface))
            raise InputError(f"interface has no {name!r}; it has {known}{nearest(str(name), annotations)}")
    converted = {name: convert(f"interface {name}", value, annotations[name]) for name, value in values.items()}
    interface = Interface(**converted)
    for name in ("frames", "stride", "size_multiple"):
        if getattr(interface, name) < 1:
            raise InputError(f"interface {name}={getattr(interface, name)}; expected at least 1")
    if interface.channels not in (1, 3):
        raise InputError(f"interface channels={interface.channels}; expected 1 (grey) or 3 (RGB)")
    if interface.layout == "BCHW" and interface.frames > 1:
        raise InputError(f"interface layout=BCHW has no axis for {interface.frames} frames; use BTCHW or BCTHW")
    return interface


@lru_cache
def find_factory(name: str) -> Callable[..., nn.Module]:
    """The class, or the function that builds a network, of an external name. Imports, and so runs, its code.

    Raises `InputError` for a file, module or class that does not exist, or that cannot be imported.
    """
    match = FILE_NAME.fullmatch(name) or DOTTED_NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} names no code; expected path/to/net.py:ClassName or package.module.ClassName")
    place, attribute = match["place"], match["attribute"]
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        networks = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        listing = ", ".join(networks) or "none"
        raise InputError(f"{place} has no class {attribute}{nearest(attribute, networks)}; its networks: {listing}")
    return factory


def _import_module(name: str) -> ModuleType:
    with _import_errors(name):
        return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file, as part of the package that its folder belongs to, if any, with its neighbours importable."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; --model takes path/to/net.py:ClassName")
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    folders = [str(folder) for folder in dict.fromkeys((path.parent, root))]
    before = list(sys.path)
    # Its `models` and `utils` are those beside it, not the folders of this checkout.
    sys.path[:] = folders + [entry for entry in before if Path(entry).resolve() != CHECKOUT]
    try:
        with _import_errors(str(path)):
            if len(parts) > 1:
                return importlib.import_module(".".join(parts))
            spec = importlib.util.spec_from_file_location(f"external_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
            return module
    finally:
        sys.path[:] = before + [folder for folder in folders if folder not in before]


@contextmanager
def _import_errors(place: str) -> Iterator[None]:
    """Whatever goes wrong in an import becomes an `InputError` that names the code."""
    try:
        yield
    except ImportError as error:
        advice = "install that package, or put the folder that holds it on PYTHONPATH"
        raise InputError(f"cannot import {place}: {error}; {advice}") from error
    except Exception as error:  # of the user's code, whatever it does
        raise InputError(f"cannot import {place}: {type(error).__name__}: {error}") from error


def constructor_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options`, whose values may be text, as the parameters of an external network's constructor take them.

    A parameter annotated with a type of `utils.config.convert` is converted to it; the text of any other is read as
    yaml (numbers, lists, true, null). Raises `InputError` for unknown and for missing options.
    """
    parameters = inspect.signature(find_factory(name)).parameters
    named = {key: parameter for key, parameter in parameters.items() if parameter.kind not in VARIADIC}
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if (unknown := sorted(set(options) - set(named))) and not anything:
        raise InputError(f"{name} has no option '{', '.join(unknown)}'; its options: {', '.join(named) or 'none'}")
    missing = [key for key, parameter in named.items() if parameter.default is parameter.empty and key not in options]
    if missing:
        raise InputError(f"{name} needs {', '.join(missing)}; give --model_options {missing[0]}=VALUE")
    return {key: _convert_option(f"option {key} of {name}", value, named.get(key)) for key, value in options.items()}


def _convert_option(title: str, value: Any, parameter: inspect.Parameter | None) -> Any:
    if not isinstance(value, str):
        return value
    annotation = parameter.annotation if parameter else None
    if annotation in (bool, int, float, str):
        return convert(title, value, annotation)
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


class ExternalNetwork(Network):
    """A network from the user's code behind the interface of ours: clip [B, T, C, H, W] to logits [B, 1, H, W]."""

    def __init__(self, name: str, interface: Interface, options: dict[str, Any]):
        super().__init__()
        self.name, self.interface, self.options = short_name(name), interface, options
        self.num_frames, self.in_channels = interface.frames, interface.channels
        self.size_multiple, self.frame_stride = interface.size_multiple, interface.stride
        self.code = describe_code(name) | {"interface": asdict(interface)}
        try:
            self.net = find_factory(name)(**options)
        except Exception as error:  # of the user's code, whatever it does
            raise InputError(f"cannot build {name} with options {options}: {type(error).__name__}: {error}") from error
        if not isinstance(self.net, nn.Module):
            raise InputError(f"{name} gives a {type(self.net).__name__}; expected a torch.nn.Module")

    @property
    def target_index(self) -> int:
        """Number of the target frame within the clip, as declared."""
        return self.num_frames - 1 if self.interface.target == "last" else self.num_frames // 2

    @staticmethod
    def published_options(weights: dict[str, Tensor]) -> dict:
        """Any weights may be those of the network; whether they fit is found when they are loaded."""
        return {}

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the network alone, as its authors save them."""
        return {f"net.{name}": weight for name, weight in weights.items()}

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """clip [B, T, C, H, W] to logits [B, 1, H, W]; `with_aux`: a list with those of all outputs, main first."""
        self.check_clip(clip)
        layout = self.interface.layout
        if layout == "BCTHW":
            clip = clip.transpose(1, 2)
        elif layout == "BCHW" or (layout == "auto" and self.num_frames == 1):
            clip = clip[:, 0]
        outputs = self._main_first(self.net(clip))
        if not with_aux:
            outputs = outputs[:1]
        logits = [self._as_logits(output, clip) for output in outputs]
        return logits if with_aux else logits[0]

    def _main_first(self, outputs: Any) -> list[Tensor]:
        """All tensors of a network's output, the prediction first."""
        if isinstance(outputs, Tensor):
            return [outputs]
        named = dict(_flatten(outputs))
        main = self.interface.main
        keys = list(named)
        if main is None and len(keys) == 1:
            main = keys[0]
        elif main is not None and main not in named and re.fullmatch(r"-?\d+", main):
            index = int(main)
            main = keys[index] if -len(keys) <= index < len(keys) else None
        if main not in named:
            listing = ", ".join(f"{key} {list(output.shape)}" for key, output in named.items()) or "no tensors"
            raise InputError(
                f"{self.name} gives {type(outputs).__name__} of {listing}; say which one is the prediction: "
                f"--interface main={keys[0] if keys else 0}"
            )
        return [named[main], *(output for key, output in named.items() if key != main)]

    def _as_logits(self, output: Tensor, clip: Tensor) -> Tensor:
        """An output as logits [B, 1, H, W]; maps of another size are resized (bilinear)."""
        channels = 2 if self.interface.output == "softmax" else 1
        if output.dim() == 3 and channels == 1:
            output = output[:, None]
        if output.dim() != 4 or output.shape[0] != clip.shape[0] or output.shape[1] != channels:
            raise InputError(
                f"{self.name} gives a map of shape {list(output.shape)} for an input of shape {list(clip.shape)}; "
                f"expected [B, {channels}, H, W] (--interface output={self.interface.output})"
            )
        if self.interface.output == "softmax":
            output = output[:, 1:] - output[:, :1]
        elif self.interface.output == "probability":
            output = torch.logit(output.float(), eps=PROBABILITY_MARGIN)
        if output.shape[-2:] != clip.shape[-2:]:
            output = F.interpolate(output, size=clip.shape[-2:], mode="bilinear", align_corners=False)
        return output


def _flatten(outputs: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of nested lists, tuples and dicts; keys of nested ones are joined by dots."""
    if isinstance(outputs, Tensor):
        yield prefix, outputs
    elif isinstance(outputs, dict | list | tuple):
        items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
        for key, value in items:
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))


def describe_code(name: str) -> dict[str, str]:
    """The name, the class, the file and the file's SHA-256 of an external network, for its checkpoints."""
    file = inspect.getsourcefile(inspect.unwrap(find_factory(name))) or ""
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return {"name": name, "class": short_name(name), "file": Path(file).name, "sha256": digest}


def choose_code(checkpoint: Checkpoint, code: list[str]) -> str:
    """Of the names in `code`, that of the network whose weights a checkpoint holds.

    Says in a line if the file has changed since the training. Raises `InputError` without code of that class.
    """
    if not checkpoint.code:
        if len(code) > 1:
            raise InputError(f"{checkpoint.path} does not record its network, and --model names {len(code)}; name one")
        return code[0]
    recorded = checkpoint.code
    name = next((name for name in code if short_name(name) == recorded["class"]), None)
    if name is None:
        given = f"--model gives {', '.join(code)}; " if code else ""
        raise InputError(
            f"{checkpoint.path} holds weights of {recorded['class']}, trained from {recorded['file']} (SHA-256 "
            f"{recorded['sha256'][:12]}); {given}a checkpoint brings no code, so name it: "
            f"--model path/to/{recorded['file']}:{recorded['class']}"
        )
    if describe_code(name)["sha256"] != recorded["sha256"]:
        print(f"note: {recorded['file']} has changed since {checkpoint.path} was trained")
    return name


@torch.enable_grad()
def try_network(network: ExternalNetwork, side: int = TRIAL_SIDE) -> list[str]:
    """Run a network once on a clip of noise of about `side` px; returns what is odd about its output, a sentence each.

    Raises `InputError` that says what came if it fails, gives anything but a map of the clip's target frame, or ends in
    a sigmoid although its output was said to be logits (or the other way round).
    """
    side = -(-side // network.size_multiple) * network.size_multiple
    clip = torch.rand(
        1, network.num_frames, network.in_channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    device = next(iter(network.parameters()), clip).device
    training = network.training
    network.eval()
    raw: list[Any] = []
    hook = network.net.register_forward_hook(lambda module, given, output: raw.append(output))
    try:
        network(clip.to(device))
    except InputError:
        raise
    except Exception as error:  # of the user's code, whatever it does
        raise InputError(
            f"{network.name} fails on a clip of {network.num_frames} frame(s), {network.in_channels} channel(s), "
            f"{side} x {side} px (layout {network.interface.layout}): {type(error).__name__}: {error}; see --interface"
        ) from error
    finally:
        hook.remove()
        network.train(training)
    main = network._main_first(raw[0])[0]
    values = main.detach()
    low, high = float(values.min()), float(values.max())
    declared = network.interface.output
    if declared == "probability" and not (low >= 0 and high <= 1):
        raise InputError(
            f"{network.name} gives values from {low:.3g} to {high:.3g}, which are no probabilities; "
            "use --interface output=logits"
        )
    if declared == "logits" and "Sigmoid" in type(main.grad_fn).__name__:
        raise InputError(f"{network.name} ends in a sigmoid, so it gives no logits; use --interface output=probability")
    if main.shape[-2:] != clip.shape[-2:]:
        return [f"{network.name}: maps of {list(main.shape[-2:])} px for {side} x {side} px are resized"]
    return []
