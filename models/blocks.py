"""Small pieces that several networks use."""

import math
import re
from collections.abc import Callable

from torch import Tensor, nn

STOCHASTIC_DEPTH = 0.1  # of the last block

# A quiet start: maps begin at a probability of 0.02, a few times the share of target pixels in a crop around a target,
# instead of 0.5, so that no steps go into learning that there is hardly ever anything (Lin et al. 2017, section 4.1).
FIRST_LOGIT = math.log(0.02 / (1 - 0.02))


def rising_drops(depths: tuple[int, ...]) -> list[list[float]]:
    """Stochastic-depth probabilities of stages of blocks: from 0 at the very first to the last, linearly."""
    last = max(1, sum(depths) - 1)
    return [
        [STOCHASTIC_DEPTH * (sum(depths[:stage]) + layer) / last for layer in range(depth)]
        for stage, depth in enumerate(depths)
    ]


def check_clip(model: nn.Module, clip: Tensor) -> None:
    """Raise ValueError, saying what came and what is expected, unless `clip` is [B, T, C, H, W] as `model` takes it."""
    frames, channels, multiple = model.num_frames, model.in_channels, model.size_multiple
    expected = f"{model.name} expects a float clip [B, {frames}, {channels}, H, W], H and W multiples of {multiple}"
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
        raise ValueError(f"{expected}; got dtype {clip.dtype}; convert the frames to float in the model's value range")


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
