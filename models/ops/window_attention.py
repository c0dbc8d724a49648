"""Fast forms of torchvision's shifted-window attention, of both versions, with the same weights and the same results.

torchvision pads the map to complete windows, rolls it, attends within all windows at once, and masks the pairs of
tokens that only the roll brought together. Two identities spare a CPU the padding, the roll and the masks:

* The windows of a rolled map are those of a grid displaced by the shift. Where the roll joins the two ends of a side,
  the mask cuts a window in two parts that do not see each other: here they are two smaller windows.
* All padded tokens of a window have the same key k and value v. Their shares of a query's softmax,
  sum_j exp(q k + b_j) v = exp(q k + logsumexp(b)) v, are those of a single token with the bias logsumexp(b). What they
  attend to is dropped, and never computed.

The windows are attended to in pieces, so that their scores stay in the processor's cache, and the attention weights
are computed again in the backward pass. GPUs, the compiler, and exported networks take torchvision's way instead, in
one `scaled_dot_product_attention`.

torchvision's mask is finite: it subtracts 100 from the scores of these pairs. Where scores may differ by so much that
this does not hide them, CPUs take torchvision's way, too.
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
HIDDEN = 25.0  # by which a score lies below others so that all such tokens of a window change no digit of float32


class Windows(NamedTuple):
    """Consecutive windows of equal extent along one side of a map."""

    first: int  # token of the map
    count: int
    tokens: slice  # where their tokens lie in a complete window
    padded: slice  # the same, with the padding after them


def _windows_along(side: int, extent: int, shift: int) -> list[Windows]:
    """The windows of a side that is padded to complete windows and rolled by `-shift`, cut where its ends meet."""
    padded_side = -(-side // extent) * extent
    equal = {}  # (first token, end of the tokens, end of the padding) within a complete window -> places on the side
    for start in range(shift - extent if shift else 0, side, extent):
        first = max(start, 0)
        parts = first - start, min(extent, side - start), min(extent, padded_side - start)
        equal.setdefault(parts, []).append(first)
    return [Windows(firsts[0], len(firsts), slice(a, b), slice(a, c)) for (a, b, c), firsts in equal.items()]


def _window_bias(bias: Tensor, sides: tuple[Windows, ...]) -> Tensor:
    """The bias [heads, t, h, w, t, h, w] of complete windows for those of `sides`: [heads, tokens, keys].

    The keys are the tokens and, where there is padding, a last key that stands for all of it.
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

    qkv [B, T, H, W, 3, heads, d], and `padding` [3, heads, d] that of padded tokens; scale [heads, 1, 1] of the scores;
    cosine: queries and keys count with length 1 (Swin V2, Liu et al. 2022, equation 2); groups: the sides of the
    windows of each kind, and `biases` theirs. Returns [B, T, H, W, heads * d].

    In each window and head, with s the scale, x the rows of qkv, and f = 1 / |x| for cosine scores, else 1:

        q = s f x_q    k = f x_k    P = softmax(q k^T + bias)    out = P v

    The gradients, written as the variables, with P computed anew (as in FlashAttention, Dao et al. 2022, appendix B):

        d v = P^T d out    d P = d out v^T    d S = P * (d P - rowsum(P * d P))    d bias = sum over windows of d S
        d q = d S k        d k = d S^T q

    A change of x along itself does not change u = x / |x|, so that d x = f (d u - u (u . d u)), and therefore

        d x_q = f (s d q - q (q . d q) / s)    d x_k = f (d k - k (k . d k))    d s = sum of (q . d q) / s

    for cosine scores, and d x_q = s d q, d x_k = d k for others, whose s is constant. The gradient of the padded
    tokens is that of the last key, where there is one, and their queries have none.
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
            for piece in _pieces(query, bias):
                result[piece] = _weights(query[piece], key[piece], bias) @ value[piece]
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
            for piece in _pieces(query, bias):
                weights = _weights(query[piece], key[piece], bias)
                grad = grad_results[piece]
                grads[2, piece] = weights.mT @ grad
                grad_weights = grad @ value[piece].mT
                grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                grad_bias += grad_scores.sum(dim=0, dtype=total["dtype"])
                grad_query[piece] = grad_scores @ key[piece]
                grads[1, piece] = grad_scores.mT @ query[piece]
            grad_biases.append(grad_bias.to(bias.dtype))
            if ctx.cosine:
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
    """Slices of the windows [windows, heads, tokens, d] whose scores take SCORES_BYTES or less."""
    step = max(1, SCORES_BYTES // (bias.numel() * bias.element_size()))
    return [slice(first, first + step) for first in range(0, len(query), step)]


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """softmax(query key^T + bias), [windows, heads, tokens, keys]."""
    scores = query @ key.mT
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
    """The same of a map padded to complete windows, as torchvision does it: rolled, with one mask of all windows."""
    size, heads, width = qkv.shape[1:4], *qkv.shape[-2:]
    qkv = qkv.roll([-step for step in shift], dims=(1, 2, 3))
    extents = dict(zip(("wt", "wh", "ww"), window, strict=True))
    pattern = "b (t wt) (h wh) (w ww) three n d -> three b (t h w) n (wt wh ww) d"
    query, key, value = rearrange(qkv, pattern, **extents)
    if cosine:
        query, key = ((part * _unit_factor(part)).to(part.dtype) for part in (query, key))
    counts = tuple(side // extent for side, extent in zip(size, window, strict=True))
    joined = (0, 1)  # windows count as samples
    bias = bias[None]
    if any(shift):  # the masks of the windows differ, so that windows count as heads
        joined = (1, 2)
        make_mask = _shift_mask.__wrapped__ if ops.is_captured(bias) or ops.is_exporting() else _shift_mask
        bias = (bias + make_mask(counts, window, shift, bias.dtype, bias.device)).flatten(0, 1)[None]
    query, key, value = (part.flatten(*joined) for part in (query * scale, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=1.0)
    out = out.reshape(-1, *counts, heads, *window, width)
    out = rearrange(out, "b t h w n wt wh ww d -> b (t wt) (h wh) (w ww) (n d)")
    return out.roll(shift, dims=(1, 2, 3))


@functools.lru_cache(maxsize=16)
def _shift_mask(counts: tuple, window: tuple, shift: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """MASKED between tokens of a window that a roll brought together, else 0: [windows, 1, tokens, tokens]."""
    rolled = []  # along each side: whether a token came from its other end
    for count, extent, step in zip(counts, window, shift, strict=True):
        side = count * extent
        rolled.append(torch.arange(side, device=device) >= side - step)
    region = sum(axis.int() << number for number, axis in enumerate(torch.meshgrid(*rolled, indexing="ij")))
    extents = dict(zip(("wt", "wh", "ww"), window, strict=True))
    region = rearrange(region, "(t wt) (h wh) (w ww) -> (t h w) 1 (wt wh ww)", **extents)
    return (region[..., :, None] != region[..., None, :]).to(dtype) * MASKED


@torch.no_grad()
def _may_see_masked(qkv: Tensor, scale: Tensor, bias: Tensor, cosine: bool) -> bool:
    """Whether scores may outweigh the mask of a shift, by the greatest that vectors of these lengths can have."""
    reach = scale.flatten()  # [heads]
    if not cosine:
        lengths = torch.linalg.vector_norm(
            qkv[..., :2, :, :], dim=-1, dtype=torch.promote_types(qkv.dtype, torch.float32)
        )
        reach = reach * lengths.flatten(0, 3).amax(dim=0).prod(dim=0)
    lowest, highest = bias.flatten(1).aminmax(dim=1)
    return bool((2 * reach + highest - lowest).max() > -MASKED - HIDDEN)


def _attend(x: Tensor, module: nn.Module, bias: Tensor, window: tuple, shift: tuple, cosine: bool) -> Tensor:
    """Shifted-window attention of x [B, T, H, W, C] with the module's projections; the same shape.

    `shift` counts along sides longer than a window only, as in torchvision.
    """
    *size, channels = x.shape[1:]
    heads = module.num_heads
    shift = tuple(0 if side <= extent else step for side, extent, step in zip(size, window, shift, strict=True))
    qkv_bias = module.qkv.bias
    if cosine:  # Swin V2 has no bias on its keys, whatever the parameter holds
        qkv_bias = torch.cat([qkv_bias[:channels], torch.zeros_like(qkv_bias[:channels]), qkv_bias[2 * channels :]])
        scale = module.logit_scale.clamp(max=math.log(100.0)).exp()
    else:
        scale = bias.new_full((heads, 1, 1), (channels // heads) ** -0.5)
    split = (3, heads, channels // heads)

    def project(tokens: Tensor) -> Tensor:
        return F.linear(tokens, module.qkv.weight, qkv_bias).unflatten(-1, split)

    attend = _attend_at_once
    if ops.in_pieces(x):
        qkv = project(x)
        if not (any(shift) and _may_see_masked(qkv, scale, bias, cosine)):
            attend = _attend_in_pieces
    if attend is _attend_at_once:
        missing = [-side % extent for side, extent in zip(size, window, strict=True)]
        qkv = project(F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0])))
    with torch.autocast(x.device.type, enabled=False):
        out = attend(qkv, qkv_bias.view(split).to(qkv.dtype), scale.to(qkv.dtype), bias, window, shift, cosine)
    return F.linear(out[:, : size[0], : size[1], : size[2]], module.proj.weight, module.proj.bias)


class FastWindowAttention3d(ShiftedWindowAttention3d):
    """torchvision's attention of Video Swin, x [B, T, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:4]
        window = tuple(min(side, extent) for side, extent in zip(size, self.window_size, strict=True))
        tokens = math.prod(window)
        # as `get_relative_position_bias`, but the gradient of an embedding is faster than that of an indexing
        bias = F.embedding(self.relative_position_index[:tokens, :tokens], self.relative_position_bias_table)
        return _attend(x, self, bias.permute(2, 0, 1).contiguous(), window, self.shift_size, cosine=False)


class FastWindowAttentionV2(ShiftedWindowAttentionV2):
    """torchvision's attention of Swin V2 (cosine scores), x [B, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_relative_position_bias()[0]
        window, shift = (1, *self.window_size), (0, *self.shift_size)
        return _attend(x[:, None], self, bias, window, shift, cosine=True)[:, 0]
