"""Fit clips of any size to a network whose sides are multiples of 32: padding, resizing, overlapping tiles."""

from collections.abc import Callable, Iterable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def round_up(length: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple


def reflected_index(length: int, before: int, after: int, device: torch.device | str = "cpu") -> Tensor:
    """Index into an axis of `length` that continues it at both ends by reflection: 0 1 2 3 2 1 0 1 ....

    Unlike `torch.nn.functional.pad` it reflects as often as needed: an image of 5 pixels can be padded to 32.
    """
    last = length - 1
    period = torch.arange(2 * last, 2 * last + 1, device=device)  # a tensor: ONNX's remainder takes no symbolic number
    places = torch.arange(-before, length + after, device=device)
    return last - (places.remainder(period.clamp(min=1)) - last).abs()


def pad_to(clip: Tensor, sides: Iterable[int]) -> Tensor:
    """Pad [..., H, W] by reflection at the bottom and the right to `sides` (height, width)."""
    for axis, padded in zip((-2, -1), sides, strict=True):
        length = clip.shape[axis]
        if length < padded:
            clip = clip.index_select(axis, reflected_index(length, 0, padded - length, clip.device))
    return clip


def pad_to_multiple(clip: Tensor, multiple: int) -> Tensor:
    """Pad [..., H, W] by reflection at the bottom and the right until both sides are multiples of `multiple`."""
    return pad_to(clip, (round_up(side, multiple) for side in clip.shape[-2:]))


def resize_clips(clips: Tensor, scale: float, multiple: int) -> Tensor:
    """Resize clips [B, T, C, H, W] as SGMP-UNet's 2026 release does: int(scale * side) rounded up to `multiple`.

    Scale 1 leaves the clips as they are; they are padded to the multiple later.
    """
    if scale == 1.0:
        return clips
    sides = [round_up(max(1, int(scale * side)), multiple) for side in clips.shape[-2:]]
    resized = F.interpolate(clips.flatten(0, 1), size=sides, mode="bilinear", align_corners=False)
    return resized.unflatten(0, clips.shape[:2])


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map [H, W] bilinearly to `size`."""
    if values.shape == torch.Size(size):
        return values
    return F.interpolate(values[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest evenly spaced tiles that cover `length` and overlap by at least `overlap` pixels."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blend_weights(tile: int, overlap: int) -> Tensor:
    """Weights [tile, tile] of a tile: 1 inside, falling linearly towards 0 over `overlap` pixels to each edge."""
    distance = torch.minimum(torch.arange(tile), torch.arange(tile).flip(0)) + 1.0
    ramp = (distance / (overlap + 1)).clamp(max=1)
    return ramp[:, None] * ramp[None, :]


def run_tiled(run: Callable[[Tensor], Tensor], clips: Tensor, tile: int, overlap: int) -> Tensor:
    """Run a network over overlapping square tiles and blend its logits without seams.

    `clips` [B, T, C, H, W] of any size; `run` maps [B, T, C, tile, tile] to logits [B, 1, tile, tile]. Returns logits
    [B, 1, H, W]: at each pixel the mean over its tiles, weighted by `blend_weights`.
    """
    height, width = clips.shape[-2:]
    padded = pad_to(clips, (max(height, tile), max(width, tile)))
    weights = blend_weights(tile, overlap).to(clips.device)
    total = torch.zeros(len(clips), 1, *padded.shape[-2:], device=clips.device)
    weight = torch.zeros(padded.shape[-2:], device=clips.device)
    for top, left in product(*(tile_starts(side, tile, overlap) for side in padded.shape[-2:])):
        window = (..., slice(top, top + tile), slice(left, left + tile))
        total[window] += run(padded[window]) * weights
        weight[window] += weights
    return (total / weight)[..., :height, :width]
