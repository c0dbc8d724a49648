"""Networks from the user's code, wrapped to have the interface of our networks."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from istd.models.network import Network
from istd.models.user_code import describe_code, find_factory, short_name, user_code
from istd.utils.config import convert, nearest
from istd.utils.errors import InputError

LAST_LAYER = re.compile(r"(Sigmoid|Softmax)Backward")  # matches the name of a gradient's function
PROBABILITY_MARGIN = 1e-6  # probabilities are clamped to this distance from 0 and 1 before they become logits
TRIAL_SIDE = 256  # of the clip that a network is tried on, px
Count = Annotated[int, lambda number: number >= 1, "at least 1"]
Channels = Annotated[int, lambda number: number in (1, 3), "1 (grey) or 3 (RGB)"]
MAP_CHANNELS = {"logits": (1,), "probability": (1, 2), "softmax": (2,)}  # of each `Interface.output`


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a network, as far as its code does not tell.

    frames: T, the frames of a clip.
    stride: distance of these frames within the sequence.
    target: the frame of the predicted map: middle (number T // 2) or last (causal, without latency).
    channels: 1 for grey, 3 for grey replicated to RGB.
    layout: axes of its input, BCHW (one frame), BTCHW or BCTHW; auto: BCHW for one frame, else BTCHW.
    size_multiple: height and width of its input are padded to multiples of it.
    output: the values of its maps: logits [B, 1, H, W], probability (its last layer is a sigmoid, or a softmax over
        [B, 2, H, W]), or softmax (logits [B, 2, H, W] of background and target).
    main: which of several outputs is the prediction: an index, such as 0 or -1, or a key of a dict. Other outputs are
        auxiliary outputs if they are maps.
    """

    frames: Count = 1
    stride: Count = 1
    target: Literal["middle", "last"] = "middle"
    channels: Channels = 1
    layout: Literal["auto", "BCHW", "BTCHW", "BCTHW"] = "auto"
    size_multiple: Count = 32
    output: Literal["logits", "probability", "softmax"] = "logits"
    main: str | None = None


def read_interface(values: dict[str, Any]) -> Interface:
    """An interface from names and texts; raises `InputError` for unknown names and wrong values."""
    types = get_type_hints(Interface, include_extras=True)
    for name in values:
        if name not in types:
            raise InputError(f"interface has no {name!r}; it has {', '.join(types)}{nearest(str(name), types)}")
    interface = Interface(**{name: convert(f"interface {name}", value, types[name]) for name, value in values.items()})
    if interface.layout == "BCHW" and interface.frames > 1:
        raise InputError(f"interface layout=BCHW has no axis for {interface.frames} frames; use BTCHW or BCTHW")
    return interface


class ExternalNetwork(Network):
    """A network from the user's code behind our interface: clip [B, T, C, H, W] to logits [B, 1, H, W]."""

    thread_safe = False  # its modules may keep values of a pass in attributes, buffers, lists, or hooks

    def __init__(self, name: str, interface: Interface, options: dict[str, Any]):
        super().__init__()
        self.name, self.interface, self.options = short_name(name), interface, options
        self.num_frames, self.in_channels = interface.frames, interface.channels
        self.size_multiple, self.frame_stride = interface.size_multiple, interface.stride
        self.causal = interface.target == "last"
        self.code = describe_code(name) | {"interface": asdict(interface)}
        with user_code(f"build {name} with options {options}"):
            self.net = find_factory(name)(**options)
        if not isinstance(self.net, nn.Module):
            raise InputError(f"{name} gives a {type(self.net).__name__}; expected a torch.nn.Module")

    @staticmethod
    def published_options(weights: dict[str, Tensor]) -> dict:
        """No options: any weights may belong to the network; loading them shows whether they fit."""
        return {}

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the network alone, as its authors save them."""
        return {f"net.{name}": weight for name, weight in weights.items()}

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """clip [B, T, C, H, W] to logits [B, 1, H, W]; `with_aux`: a list of the logits of all maps, main first."""
        self.check_clip(clip)
        outputs = list(self.outputs(clip).items())
        logits = list(self.as_logits(dict(outputs if with_aux else outputs[:1]), clip).values())
        return logits if with_aux else logits[0]

    def outputs(self, clip: Tensor) -> dict[str, Tensor]:
        """All tensors that the network returns, unchanged, the prediction first."""
        frames = clip.clone()  # networks may change their input
        layout = self.interface.layout
        if layout == "BCTHW":
            frames = frames.transpose(1, 2)
        elif layout == "BCHW" or (layout == "auto" and self.num_frames == 1):
            frames = frames[:, 0]
        result = self.net(frames)
        if isinstance(result, Tensor):
            return {"output": result}
        tensors = dict(_flatten(result))
        if not tensors:
            raise InputError(f"{self.name} gives {type(result).__name__}; expected tensors, alone or in a list or dict")
        keys = list(tensors)
        main = self.interface.main or (keys[0] if len(keys) == 1 else "")
        if main not in tensors and re.fullmatch(r"-?\d+", main) and -len(keys) <= int(main) < len(keys):
            main = keys[int(main)]
        if main not in tensors:
            listing = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in tensors.items())
            raise InputError(
                f"{self.name} gives {type(result).__name__} of {listing}; say which is the prediction: "
                f"--interface main={keys[0]}"
            )
        return {main: tensors.pop(main)} | tensors

    def as_logits(self, outputs: dict[str, Tensor], clip: Tensor) -> dict[str, Tensor]:
        """The outputs that are maps, as logits [B, 1, H, W], resized (bilinear) to the size of the clip.

        Raises `InputError` if the first output, the prediction, is no map.
        """
        kind, size = self.interface.output, clip.shape[-2:]
        channels = MAP_CHANNELS[kind]
        maps = {}
        for number, (key, output) in enumerate(outputs.items()):
            logits = output[:, None] if output.dim() == 3 and 1 in channels else output
            fits = logits.dim() == 4 and logits.shape[0] == clip.shape[0] and logits.shape[1] in channels
            if not (fits and logits.is_floating_point()):
                if number:
                    continue
                expected = " or ".join(f"[B, {count}, H, W]" for count in channels)
                raise InputError(
                    f"{self.name} gives a {output.dtype} map of shape {list(output.shape)} for a clip of shape "
                    f"{list(clip.shape)}; expected floating-point {expected} (--interface output={kind}; softmax takes "
                    "two channels, background and target)"
                )
            if kind == "probability":
                logits = torch.logit(logits[:, -1:].float(), eps=PROBABILITY_MARGIN)
            elif kind == "softmax":
                logits = logits[:, 1:] - logits[:, :1]
            resized = logits.shape[-2:] != size
            maps[key] = F.interpolate(logits, size=size, mode="bilinear", align_corners=False) if resized else logits
        return maps


def _flatten(outputs: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of nested lists, tuples and dicts; nested keys are joined by dots."""
    if isinstance(outputs, Tensor):
        yield prefix, outputs
    elif isinstance(outputs, dict | list | tuple):
        items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
        for key, value in items:
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))


@torch.enable_grad()
def try_network(network: ExternalNetwork, side: int = TRIAL_SIDE) -> list[str]:
    """Run a copy of a network on noise of about `side` px; returns a sentence for everything odd about its output.

    It runs in eval mode, and also in training mode if that is set. The copy is built anew, since the network's modules
    may keep what a pass left in them. Raises `InputError`, which says what came, if the network fails, returns anything
    but a map of the clip's target frame, or ends in a sigmoid or softmax although the interface declares logits (or the
    other way round).
    """
    name, kind = network.name, network.interface.output
    if any(map(is_lazy, network.parameters())):
        raise InputError(f"{name} has lazy layers without weights; give their numbers of input channels")
    side = -(-side // network.size_multiple) * network.size_multiple
    shape = [2, network.num_frames, network.in_channels, side, side]  # two, for batch norms in training
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(iter(network.parameters()), noise).device)
    notes = []
    with torch.random.fork_rng([]):
        trial = ExternalNetwork(network.code["name"], network.interface, network.options).to(noise.device)
        with user_code(f"copy the weights of {name}"):
            trial.load_state_dict(network.state_dict())
        for mode in dict.fromkeys((False, network.training)):
            trial.train(mode)
            clip = noise if mode else noise[:1]
            with user_code(f"run {name} on a clip of {list(clip.shape)}; see --interface"):
                outputs = trial.outputs(clip)
            maps = trial.as_logits(outputs, clip)
            main = next(iter(outputs.values()))
            low, high = float(main.detach().min()), float(main.detach().max())
            if kind == "probability" and (low < 0 or high > 1):
                raise InputError(
                    f"{name} gives values from {low:.3g} to {high:.3g}, which are no probabilities; "
                    "use --interface output=logits"
                )
            if kind != "probability" and (last := LAST_LAYER.match(type(main.grad_fn).__name__)):
                raise InputError(
                    f"{name} ends in a {last[1].lower()}, so it gives no logits; use --interface output=probability"
                )
            if mode and not main.requires_grad:
                raise InputError(f"{name} has no gradient, so it cannot be trained; use parameters, and no detach()")
            if not main.isfinite().all():
                notes.append(f"{name}: values of its map are not finite")
            if main.shape[-2:] != clip.shape[-2:]:
                notes.append(f"{name}: maps of {list(main.shape[-2:])} px for {side} x {side} px are resized")
            unused = ", ".join(f"{key} {list(outputs[key].shape)}" for key in outputs if key not in maps)
    if unused:
        notes.append(f"{name}: outputs that are no maps are not used ({unused})")
    return list(dict.fromkeys(notes))
