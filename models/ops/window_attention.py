"""Fast forms of torchvision's shifted-window attention, of both versions, with the same weights and the same results.

torchvision forms the scores of all windows at once, adds bias and mask to copies of them, and keeps them for the
backward pass. Here the windows are attended to a few at a time, so that their scores stay in the processor's cache. Of
wide heads the attention weights are kept for the backward pass; of narrow ones, which have far more weights than
channels, they are computed again.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from models.ops import is_exporting

SCORES_BYTES = 8 << 20  # of scores in flight on a CPU: less than a third-level cache
KEPT_RATIO = 2  # weights are kept where there are at most so many times as many of them as of queries, keys and values
NORM_EPS = 1e-12  # of `F.normalize`; vectors that are not longer become zero here
MASKED = -100.0  # what torchvision adds to the score of two tokens that a cyclic shift brought together


def _pieces(windows: tuple[int, ...], bias: Tensor, window: tuple[int, ...], shift: tuple[int, ...]):
    """Yield (index of a few windows, their bias, whether it masks), for `windows` (B, nT, nH, nW).

    Windows that a cyclic shift cut share one mask for each set of sides along which they are last, so the mask is
    added to the bias once, not to the scores. The windows of one piece have scores of SCORES_BYTES or less, but for one
    row of windows at least; off the CPU, or compiled, a piece is as large as its mask allows.
    """
    batch, *counts = windows
    in_cache = bias.device.type == "cpu" and not torch.compiler.is_compiling()
    for ends in itertools.product(*([False, True] if step else [None] for step in shift)):
        # along a shifted side: all windows but the last, or the last; along another: all
        ranges = [
            (0 if not end else count - 1, count - 1 if end is False else count)
            for end, count in zip(ends, counts, strict=True)
        ]
        if any(first == last for first, last in ranges):
            continue
        masks = any(ends)
        piece_bias = bias + _mask(window, shift, ends, bias) if masks else bias
        time, (first, last), wide = (slice(*ranges[0]), ranges[1], slice(*ranges[2]))
        row = batch * counts[0] * (wide.stop - wide.start) * bias.numel() * bias.element_size()
        step = max(1, SCORES_BYTES // row) if in_cache else last - first
        for top in range(first, last, step):
            yield (slice(None), time, slice(top, min(top + step, last)), wide), piece_bias, masks


def _mask(window: tuple[int, ...], shift: tuple[int, ...], ends: tuple, like: Tensor) -> Tensor:
    """MASKED between tokens that a shift brought together in a window that is last along the sides `ends`, else 0."""
    sides = [
        (torch.arange(extent, device=like.device) >= extent - step) & bool(end)
        for extent, step, end in zip(window, shift, ends, strict=True)
    ]
    number = sum(side.int() << axis for axis, side in enumerate(torch.meshgrid(*sides, indexing="ij"))).flatten()
    return (number[:, None] != number[None]).to(like.dtype) * MASKED


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [..., d] of length 1, as `F.normalize`, and what they were multiplied by [..., 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    # padded tokens have keys of zero, and NORM_EPS itself is zero in float16
    factor = norm.reciprocal().masked_fill_(norm <= max(NORM_EPS, torch.finfo(x.dtype).tiny), 0)
    return x * factor, factor


class _WindowAttention(torch.autograd.Function):
    """Attention within windows that keeps its input for the backward pass, and its weights where they are few.

    qkv [B, nT, nH, nW, tokens, 3, heads, d]; scale [heads, 1, 1] of the scores; bias [heads, tokens, tokens];
    cosine: queries and keys count with length 1. Returns [B, nT, nH, nW, tokens, heads * d].
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, scale: Tensor, bias: Tensor, cosine: bool, window, shift) -> Tensor:
        ctx.cosine, ctx.window, ctx.shift = cosine, window, shift
        *windows, tokens, _, heads, width = qkv.shape
        keep = any(ctx.needs_input_grad) and tokens <= KEPT_RATIO * 3 * width
        kept = []
        out = qkv.new_empty(*windows, tokens, heads, width)
        for piece, piece_bias, masks in _pieces(qkv.shape[:4], bias, window, shift):
            weights, out[piece] = _attend_windows(qkv[piece], scale, piece_bias, masks, cosine)
            if keep:
                kept.append(weights)
        ctx.save_for_backward(qkv, scale, bias, *kept)
        return out.flatten(-2)

    @staticmethod
    def backward(ctx, grad_out: Tensor):
        qkv, scale, bias, *kept = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad_out = grad_out.unflatten(-1, qkv.shape[-2:])
        total = torch.promote_types(bias.dtype, torch.float32)
        grad_scale, grad_bias = torch.zeros_like(scale, dtype=total), torch.zeros_like(bias, dtype=total)
        for number, (piece, piece_bias, masks) in enumerate(_pieces(qkv.shape[:4], bias, ctx.window, ctx.shift)):
            query, key, value = _heads_first(qkv[piece])
            if ctx.cosine:
                (query, query_factor), (key, key_factor) = _unit(query), _unit(key)
            scaled = query * scale
            weights = kept[number] if kept else _weights(scaled, key, piece_bias, masks)
            grad = grad_out[piece].transpose(-2, -3).contiguous()
            grad_value = weights.transpose(-1, -2) @ grad
            grad_weights = grad @ value.transpose(-1, -2)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_bias += grad_scores.sum(dim=(0, 1, 2, 3), dtype=total)
            grad_query = grad_scores @ key
            grad_key = grad_scores.transpose(-1, -2) @ scaled
            if ctx.cosine:
                grad_scale += (grad_query * query).sum(dim=(0, 1, 2, 3), dtype=total).sum((-1, -2), keepdim=True)
            grad_query *= scale
            if ctx.cosine:  # moving along a vector does not change its direction
                grad_query = (grad_query - query * (query * grad_query).sum(-1, keepdim=True)) * query_factor
                grad_key = (grad_key - key * (key * grad_key).sum(-1, keepdim=True)) * key_factor
            for index, part in enumerate((grad_query, grad_key, grad_value)):
                grad_qkv[piece][..., index, :, :] = part.transpose(-2, -3)
        return grad_qkv, grad_scale.to(scale.dtype), grad_bias.to(bias.dtype), None, None, None


def _heads_first(qkv: Tensor) -> tuple[Tensor, ...]:
    """[..., tokens, 3, heads, d] -> queries, keys and values [..., heads, tokens, d], each contiguous."""
    return tuple(part.transpose(-2, -3).contiguous() for part in qkv.unbind(dim=-3))


def _attend_windows(qkv: Tensor, scale: Tensor, bias: Tensor, masks: bool, cosine: bool) -> tuple[Tensor, Tensor]:
    """Attention weights [..., heads, tokens, tokens] and results [..., tokens, heads, d] of some windows."""
    query, key, value = _heads_first(qkv)
    if cosine:
        query, key = _unit(query)[0], _unit(key)[0]
    weights = _weights(query * scale, key, bias, masks)
    return weights, (weights @ value).transpose(-2, -3)


def _weights(query: Tensor, key: Tensor, bias: Tensor, masks: bool) -> Tensor:
    """softmax(query key^T + bias), [..., heads, tokens, tokens]."""
    scores = query @ key.transpose(-1, -2)
    scores += bias
    weights = scores.softmax(dim=-1)
    # weights of about exp(MASKED) are denormal numbers, which processors multiply a hundred times slower than zeros
    return F.threshold_(weights, torch.finfo(weights.dtype).tiny, 0.0) if masks else weights


def _attend(x: Tensor, module: nn.Module, bias: Tensor, window: tuple, shift: tuple, cosine: bool) -> Tensor:
    """Shifted-window attention of x [B, T, H, W, C] with the module's projections; the same shape.

    `shift` counts along sides longer than a window only, as in torchvision.
    """
    *size, channels = x.shape[1:]
    heads = module.num_heads
    shift = tuple(0 if side <= extent else step for side, extent, step in zip(size, window, shift, strict=True))
    missing = [-side % extent for side, extent in zip(size, window, strict=True)]
    if any(missing):
        x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
    if any(shift):
        x = x.roll([-step for step in shift], dims=(1, 2, 3))
    qkv_bias = module.qkv.bias
    if cosine:  # version 2 has no bias on its keys, whatever the parameter holds
        qkv_bias = torch.cat([qkv_bias[:channels], torch.zeros_like(qkv_bias[:channels]), qkv_bias[2 * channels :]])
        scale = module.logit_scale.clamp(max=math.log(100.0)).exp()
    else:
        scale = x.new_full((heads, 1, 1), (channels // heads) ** -0.5)
    extents = dict(zip(("wt", "wh", "ww"), window, strict=True))
    x = rearrange(x, "b (t wt) (h wh) (w ww) c -> b t h w (wt wh ww) c", **extents)
    if torch.is_grad_enabled():
        qkv = F.linear(x, module.qkv.weight, qkv_bias).unflatten(-1, (3, heads, channels // heads))
        with torch.autocast(x.device.type, enabled=False):
            out = _WindowAttention.apply(qkv, scale.to(qkv.dtype), bias.to(qkv.dtype), cosine, window, shift)
    else:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            x, weight, qkv_bias, scale, bias = (t.to(dtype) for t in (x, module.qkv.weight, qkv_bias, scale, bias))
            out = torch.empty_like(x)
            for piece, piece_bias, masks in _pieces(x.shape[:4], bias, window, shift):  # nothing is kept of any
                qkv = F.linear(x[piece], weight, qkv_bias).unflatten(-1, (3, heads, -1))
                out[piece] = _attend_windows(qkv, scale, piece_bias, masks, cosine)[1].flatten(-2)
    out = rearrange(out, "b t h w (wt wh ww) c -> b (t wt) (h wh) (w ww) c", **extents)
    if any(shift):
        out = out.roll(shift, dims=(1, 2, 3))
    return F.linear(out[:, : size[0], : size[1], : size[2]], module.proj.weight, module.proj.bias)


class FastWindowAttention3d(ShiftedWindowAttention3d):
    """torchvision's attention of Video Swin, x [B, T, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        if is_exporting():
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
        if is_exporting():
            return super().forward(x)
        bias = self.get_relative_position_bias()[0]
        window, shift = (1, *self.window_size), (0, *self.shift_size)
        return _attend(x[:, None], self, bias, window, shift, cosine=True)[:, 0]
