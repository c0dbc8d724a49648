"""The base class of all networks."""

import inspect
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from istd.models.hub import HubMixin
from istd.utils.errors import InputError

# `init_low_prior` lets maps begin at a probability of 0.02, a few times the share of target pixels in a crop around a
# target, instead of 0.5, so that no steps go into learning that targets are rare (Lin et al. 2017, section 4.1).
PRIOR_LOGIT = math.log(0.02 / (1 - 0.02))


class Network(HubMixin, nn.Module):
    """Base class of the networks: a clip [B, T, C, H, W] to logits [B, 1, H, W] of its target frame.

    A subclass sets the attributes below, implements `forward(clip, with_aux=False)`, which with `with_aux` returns a
    list of logits, the main logits first, and overrides the methods that apply to it. Its options are the parameters of
    its constructor, annotated with their types; `options` holds their values, which `models.build_model` checks.
    """

    name: str
    num_frames: int = 1  # T
    frame_stride: int = 1  # distance of a clip's frames within the sequence
    causal: bool = False  # whether the target frame is the last of the clip, instead of number T // 2
    in_channels: int = 1  # C: grey, or 3 for grey replicated to RGB
    size_multiple: int = 1  # H and W are multiples of it
    thread_safe: bool = True  # whether several threads may run it side by side: its modules keep nothing of a pass
    any_size_onnx: bool = True  # whether a single ONNX file can serve every size
    pretrained: str = ""  # name of torchvision's weights that `--pretrained_backbone` loads
    pretrained_part: str = ""  # regular expression for the names of the parameters that start from these weights
    recomputable: tuple[type[nn.Module], ...] = ()  # blocks without batch norms, for `--grad_checkpoint`
    options: dict[str, Any]
    settings: Mapping[str, Any] = MappingProxyType({})  # of the training run that its weights come from, if known

    def __new__(cls, *arguments: Any, **options: Any) -> "Network":
        """Record the options, also of a network that is built without `models.build_model`."""
        network = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(network, *arguments, **options)  # partial for copies
        bound.apply_defaults()
        _, *named = bound.arguments.items()
        network.options = dict(named)
        return network

    @property
    def target_index(self) -> int:
        """Number of the target frame within the clip."""
        return self.num_frames - 1 if self.causal else self.num_frames // 2

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that train at `lr_backbone`."""
        return []

    def init_low_prior(self) -> None:
        """Set the output bias to PRIOR_LOGIT, and whatever else lets training from random weights start sooner."""
        raise InputError(f"{self.name} has no low-prior initialisation; leave --init at published")

    @staticmethod
    def published_options(weights: dict[str, Tensor]) -> dict | None:
        """The options of a published checkpoint of this network, read from its weights; None for other weights."""
        return None

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint's weights under the names, and in the shapes, of this network."""
        return weights

    @staticmethod
    def from_backbone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of `pretrained` that this network has, under its names."""
        return weights

    def check_clip(self, clip: Tensor) -> None:
        """Raise ValueError, saying what came and what was expected, unless `clip` fits this network."""
        frames, channels, multiple = self.num_frames, self.in_channels, self.size_multiple
        expected = f"{self.name} expects a float clip [B, {frames}, {channels}, H, W], H and W multiples of {multiple}"
        shape = list(clip.shape)
        if clip.dim() != 5:
            raise ValueError(f"{expected}; got a tensor of shape {shape}, which has {clip.dim()} dimensions")
        if clip.shape[1] != frames:
            raise ValueError(f"{expected}; got T = {clip.shape[1]} frames in shape {shape}")
        if clip.shape[2] != channels:
            raise ValueError(f"{expected}; got C = {clip.shape[2]} channels in shape {shape}")
        if clip.shape[3] % multiple or clip.shape[4] % multiple or not clip.shape[3] or not clip.shape[4]:
            raise ValueError(f"{expected}; got H x W = {clip.shape[3]} x {clip.shape[4]}; pad or resize the frames")
        if not clip.is_floating_point():
            raise ValueError(f"{expected}; got dtype {clip.dtype}; convert the frames to float in the range it takes")
