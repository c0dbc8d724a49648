"""Fast forms of torchvision's shifted-window attention, of both versions, with the same weights and the same results.

torchvision pads the map to whole windows, rolls it, attends within all windows at once, and masks the pairs of tokens
that only the roll brought together. Two identities spare a CPU the padding, the roll and the masks:

* Windows of a rolled map are a grid displaced by the shift. At the ends of a side it cuts windows in two parts, which
  the mask keeps from seeing each other: they are windows of their own.
* Padded tokens of a window have the same key and value, so all of them count as one token, whose bias is the logarithm
  of the sum of their exponentials. Their own results are dropped, and never computed.

The windows are attended to a few at a time, so that their scores stay in the processor's cache, and the attention
weights are computed again in the backward pass. GPUs, and the compiler, take torchvision's way instead, in one
`scaled_dot_product_attention`.
"""

import functools
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from istd.models import ops

SCORES_BYTES = 8 << 20  # of scores in flight on a CPU: less than a third-level cache
NORM_EPS = 1e-12  # of `F.normalize`; vectors that are not longer become zero here
MASKED = -100.0  # what torchvision adds to the score of two tokens that a cyclic shift brought together


class Windows(NamedTuple):
    """Equal windows along one side of a map: their tokens, and where these lie in a whole window."""

    first: int  # of the map's tokens
    count: int
    tokens: slice  # of the whole window
    padded: slice  # of the whole window: the tokens, and the padding after them


def _windows_along(side: int, extent: int, shift: int) -> list[Windows]:
    """The windows of a side that is padded to whole windows and rolled by `-shift`, cut where the ends meet."""
    end = -(-side // extent) * extent
    equal = {}
    for start in range(shift - extent if shift else 0, side, extent):
        first = max(start, 0)
        equal.setdefault((first - start, min(extent, side - start), min(extent, end - start)), []).append(first)
    return [Windows(all_[0], len(all_), slice(a, b), slice(a, c)) for (a, b, c), all_ in equal.items()]


def _window_bias(bias: Tensor, sides: tuple[Windows, ...]) -> Tensor:
    """The bias [heads, tokens, tokens] of whole windows for windows of some of the tokens, and padding as one key more.

    bias: [heads, t, h, w, t, h, w] -> [heads, tokens, keys].
    """
    tokens, padded = [side.tokens for side in sides], [side.padded for side in sides]
    of_tokens = bias[(slice(None), *tokens, *tokens)].flatten(1, 3).flatten(2)
    if tokens == padded:
        return of_tokens
    padding = bias[(slice(None), *tokens, *padded)].flatten(1, 3).clone()
    time, height, width = (range(side.tokens.start, side.tokens.stop) for side in sides)
    padding[:, :, : len(time), : len(height), : len(width)] = -math.inf
    return torch.cat([of_tokens, padding.flatten(2).logsumexp(dim=-1, keepdim=True)], dim=-1)


def _as_windows(maps: Tensor, sides: tuple[Windows, ...]) -> Tensor:
    """A view of the windows in maps [B, T, H, W, ...]: [B, windows along T, H, W, their tokens along T, H, W, ...]."""
    for axis, side in enumerate(sides):
        size = side.tokens.stop - side.tokens.start
        maps = maps.narrow(2 * axis + 1, side.first, side.count * size).unflatten(2 * axis + 1, (side.count, size))
    return maps.permute(0, 1, 3, 5, 2, 4, 6, *range(7, maps.dim()))


def _unit_factor(x: Tensor) -> Tensor:
    """What makes vectors [..., d] of length 1, as `F.normalize` does: [..., 1], in float32 or better.

    In float16 NORM_EPS would be zero, and the square of the factor, which the gradient needs, infinite.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return norm.masked_fill(norm <= NORM_EPS, math.inf).reciprocal()  # padded tokens have keys of zero


class _WindowAttention(torch.autograd.Function):
    """Attention within windows that keeps queries, keys and values for the backward pass, and no weights.

    qkv [B, T, H, W, 3, heads, d] and `padding` [3, heads, d], which padded tokens have; scale [heads, 1, 1] of the
    scores; cosine: queries and keys count with length 1; groups: the sides of each kind of windows, and `biases` their
    biases. Returns [B, T, H, W, heads * d].
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, padding: Tensor, scale: Tensor, cosine: bool, groups, *biases: Tensor) -> Tensor:
        ctx.cosine, ctx.groups, ctx.shape = cosine, groups, qkv.shape
        saved = [scale]
        out = qkv.new_empty(*qkv.shape[:4], *qkv.shape[5:])
        for sides, bias in zip(groups, biases, strict=True):
            windows = _as_windows(qkv, sides).permute(7, 0, 1, 2, 3, 8, 4, 5, 6, 9)  # [3, B, ..., heads, t, h, w, d]
            shape = 3, -1, bias.shape[0], bias.shape[1], qkv.shape[-1]
            if bias.shape[2] > bias.shape[1]:
                padded_token = padding[:, None, :, None]
                parts = windows.reshape(shape)
                parts = torch.cat([parts, padded_token.expand(*parts.shape[:3], 1, -1)], dim=3)
            else:
                parts = windows.clone(memory_format=torch.contiguous_format).view(shape)
            factor = scale[:0]
            if cosine:
                factor = _unit_factor(parts[:2])
                parts[:2].mul_(factor)
            query, key, value = parts[0, :, :, : bias.shape[1]].mul_(scale), parts[1], parts[2]
            result = torch.empty_like(query)
            for few in _pieces(query, bias):
                result[few] = _weights(query[few], key[few], bias) @ value[few]
            target = _as_windows(out, sides).movedim(7, 4)  # [B, ..., heads, t, h, w, d]
            target.copy_(result.view(target.shape))
            saved += [query, key, value, factor, bias]
        ctx.save_for_backward(*saved)
        return out.flatten(-2)

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        scale, *saved = ctx.saved_tensors
        grad_out = grad_out.unflatten(-1, ctx.shape[-2:])
        grad_qkv = grad_out.new_empty(ctx.shape)
        total = {"dtype": torch.promote_types(scale.dtype, torch.float32)}
        grad_padding, grad_scale = scale.new_zeros(3, *ctx.shape[-2:], **total), torch.zeros_like(scale, **total)
        grad_biases = []
        for number, sides in enumerate(ctx.groups):
            query, key, value, factor, bias = saved[5 * number : 5 * number + 5]
            grads = key.new_empty(3, *key.shape)
            grads[0, :, :, bias.shape[1] :] = 0  # a padded token has no query
            grad_query = grads[0, :, :, : bias.shape[1]]
            grad_bias = torch.zeros_like(bias, **total)
            grad_results = _as_windows(grad_out, sides).movedim(7, 4).reshape(query.shape)
            for few in _pieces(query, bias):
                weights = _weights(query[few], key[few], bias)
                grad = grad_results[few]
                grads[2, few] = weights.mT @ grad
                grad_weights = grad @ value[few].transpose(-1, -2)
                grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_bias += grad_scores.sum(dim=0, dtype=total["dtype"])
                grad_query[few] = grad_scores @ key[few]
                grads[1, few] = grad_scores.mT @ query[few]
            grad_biases.append(grad_bias.to(bias.dtype))
            if ctx.cosine:  # moving along a vector does not change its direction
                along = (grad_query * query).sum(-1, keepdim=True)
                grad_scale += along.sum(dim=(0, 2), dtype=total["dtype"]).unsqueeze(-1) / scale
                grad_query.mul_(scale).sub_(query * (along / scale))
                grads[1] -= key * (grads[1] * key).sum(-1, keepdim=True)
                grads[:2] *= factor
            else:
                grad_query *= scale
            if bias.shape[2] > bias.shape[1]:
                grad_padding += grads[:, :, :, -1].sum(dim=1, dtype=total["dtype"])
                grads = grads[:, :, :, :-1]
            target = _as_windows(grad_qkv, sides).permute(7, 0, 1, 2, 3, 8, 4, 5, 6, 9)
            target.copy_(grads.reshape(target.shape))
        return grad_qkv, grad_padding.to(scale.dtype), grad_scale.to(scale.dtype), None, None, *grad_biases


def _pieces(query: Tensor, bias: Tensor) -> list[slice]:
    """Slices of some windows [windows, heads, tokens, d] whose scores are SCORES_BYTES or less."""
    step = max(1, SCORES_BYTES // (bias.numel() * bias.element_size()))
    return [slice(first, first + step) for first in range(0, len(query), step)]


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """softmax(query key^T + bias), [windows, heads, tokens, keys]."""
    scores = query @ key.transpose(-1, -2)
    scores += bias
    return scores.softmax(dim=-1)


def _attend_in_pieces(
    qkv: Tensor, padding: Tensor, scale: Tensor, bias: Tensor, window: tuple, shift: tuple, cosine: bool
) -> Tensor:
    """Shifted-window attention of qkv [B, T, H, W, 3, heads, d]: [B, T, H, W, heads * d]."""
    bias = bias.unflatten(2, window).unflatten(1, window)
    sides = [_windows_along(*side) for side in zip(qkv.shape[1:4], window, shift, strict=True)]
    groups = list(itertools.product(*sides))
    biases = [_window_bias(bias, group).to(qkv.dtype) for group in groups]
    return _WindowAttention.apply(qkv, padding.to(qkv.dtype), scale.to(qkv.dtype), cosine, groups, *biases)


def _attend_at_once(
    qkv: Tensor, padding: Tensor, scale: Tensor, bias: Tensor, window: tuple, shift: tuple, cosine: bool
) -> Tensor:
    """The same of a map padded to whole windows, as torchvision does it: rolled, and with one mask of all windows."""
    size, heads, width = qkv.shape[1:4], *qkv.shape[-2:]
    qkv = qkv.roll([-step for step in shift], dims=(1, 2, 3))
    extents = dict(zip(("wt", "wh", "ww"), window, strict=True))
    pattern = "b (t wt) (h wh) (w ww) three n d -> three b (t h w) n (wt wh ww) d"
    query, key, value = rearrange(qkv, pattern, **extents)
    if cosine:
        query, key = ((part * _unit_factor(part)).to(part.dtype) for part in (query, key))
    counts = tuple(side // extent for side, extent in zip(size, window, strict=True))
    together = (0, 1)  # windows count as samples
    bias = bias[None]
    if any(shift):  # every window has a mask of its own, so that windows count as heads
        together = (1, 2)
        make_mask = _shift_mask.__wrapped__ if ops.is_captured(bias) else _shift_mask
        bias = (bias + make_mask(counts, window, shift, bias.dtype, bias.device)).flatten(0, 1)[None]
    query, key, value = (part.flatten(*together) for part in (query * scale, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=1.0)
    out = out.reshape(-1, *counts, heads, *window, width)
    out = rearrange(out, "b t h w n wt wh ww d -> b (t wt) (h wh) (w ww) (n d)")
    return out.roll(shift, dims=(1, 2, 3))


@functools.lru_cache(maxsize=16)
def _shift_mask(counts: tuple, window: tuple, shift: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """MASKED between tokens of a window that a roll brought together, else 0: [windows, 1, tokens, tokens]."""
    regions = []
    for count, extent, step in zip(counts, window, shift, strict=True):
        at = torch.arange(count * extent, device=device)
        regions.append((at >= count * extent - step) if step else torch.zeros_like(at, dtype=torch.bool))
    number = sum(region.int() << axis for axis, region in enumerate(torch.meshgrid(*regions, indexing="ij")))
    extents = dict(zip(("wt", "wh", "ww"), window, strict=True))
    number = rearrange(number, "(t wt) (h wh) (w ww) -> (t h w) 1 (wt wh ww)", **extents)
    return (number[..., :, None] != number[..., None, :]).to(dtype) * MASKED


def _attend(x: Tensor, module: nn.Module, bias: Tensor, window: tuple, shift: tuple, cosine: bool) -> Tensor:
    """Shifted-window attention of x [B, T, H, W, C] with the module's projections; the same shape.

    `shift` counts along sides longer than a window only, as in torchvision.
    """
    *size, channels = x.shape[1:]
    heads = module.num_heads
    shift = tuple(0 if side <= extent else step for side, extent, step in zip(size, window, shift, strict=True))
    qkv_bias = module.qkv.bias
    if cosine:  # version 2 has no bias on its keys, whatever the parameter holds
        qkv_bias = torch.cat([qkv_bias[:channels], torch.zeros_like(qkv_bias[:channels]), qkv_bias[2 * channels :]])
        scale = module.logit_scale.clamp(max=math.log(100.0)).exp()
    else:
        scale = bias.new_full((heads, 1, 1), (channels // heads) ** -0.5)
    split = (3, heads, channels // heads)
    attend = _attend_in_pieces
    if not ops.in_pieces(x):
        attend = _attend_at_once
        missing = [-side % extent for side, extent in zip(size, window, strict=True)]
        x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
    qkv = F.linear(x, module.qkv.weight, qkv_bias).unflatten(-1, split)
    with torch.autocast(x.device.type, enabled=False):
        out = attend(qkv, qkv_bias.view(split).to(qkv.dtype), scale.to(qkv.dtype), bias, window, shift, cosine)
    return F.linear(out[:, : size[0], : size[1], : size[2]], module.proj.weight, module.proj.bias)


class FastWindowAttention3d(ShiftedWindowAttention3d):
    """torchvision's attention of Video Swin, x [B, T, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        if ops.is_exporting():
            return super().forward(x)
        size = x.shape[1:4]
        window = tuple(min(side, extent) for side, extent in zip(size, self.window_size, strict=True))
        tokens = math.prod(window)
        # as `get_relative_position_bias`, but the gradient of an embedding is faster than that of an indexing
        bias = F.embedding(self.relative_position_index[:tokens, :tokens], self.relative_position_bias_table)
        return _attend(x, self, bias.permute(2, 0, 1).contiguous(), window, self.shift_size, cosine=False)


class FastWindowAttentionV2(ShiftedWindowAttentionV2):
    """torchvision's attention of Swin V2 (cosine scores), x [B, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        if ops.is_exporting():
            return super().forward(x)
        bias = self.get_relative_position_bias()[0]
        window, shift = (1, *self.window_size), (0, *self.shift_size)
        return _attend(x[:, None], self, bias, window, shift, cosine=True)[:, 0]
