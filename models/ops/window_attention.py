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


class _Shift(torch.autograd.Function):
    """Pad [B, T, H, W, C] with zeros behind each side and shift it cyclically towards its origin, in one pass."""

    @staticmethod
    def forward(ctx, x: Tensor, padded: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        ctx.size, ctx.shift = tuple(x.shape[1:4]), shift
        return _shift(x, padded, shift)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _shift_back(grad, ctx.size, ctx.shift), None, None


class _ShiftBack(torch.autograd.Function):
    """The reverse of `_Shift`: back by `shift`, and the padding cut off."""

    @staticmethod
    def forward(ctx, x: Tensor, size: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
        ctx.padded, ctx.shift = tuple(x.shape[1:4]), shift
        return _shift_back(x, size, shift)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _shift(grad, ctx.padded, ctx.shift), None, None


def _blocks(size: tuple[int, ...], padded: tuple[int, ...], shift: tuple[int, ...]):
    """Yield where each block of an image of `size` lies (index into it), and where `_shift` puts it."""
    sides = [
        [(slice(step, side), slice(0, side - step)), (slice(0, step), slice(full - step, full))] if step
        else [(slice(side), slice(side))]
        for side, full, step in zip(size, padded, shift, strict=True)
    ]  # fmt: skip
    for block in itertools.product(*sides):
        source, target = zip(*block, strict=True)
        yield (slice(None), *source), (slice(None), *target)


def _shift(x: Tensor, padded: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    out = x.new_zeros(len(x), *padded, x.shape[-1])
    for source, target in _blocks(tuple(x.shape[1:4]), padded, shift):
        out[target] = x[source]
    return out


def _shift_back(x: Tensor, size: tuple[int, ...], shift: tuple[int, ...]) -> Tensor:
    out = x.new_empty(len(x), *size, x.shape[-1])
    for source, target in _blocks(size, tuple(x.shape[1:4]), shift):
        out[source] = x[target]
    return out


def _partition(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """[B, T, H, W, C] -> [B, nT, nH, nW, tokens, C]."""
    batch, t, h, w, channels = x.shape
    x = x.reshape(batch, t // window[0], window[0], h // window[1], window[1], w // window[2], window[2], channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6)


def _join(x: Tensor, window: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """The reverse of `_partition`: [B, nT, nH, nW, tokens, C] -> [B, T, H, W, C] of the given (T, H, W)."""
    x = x.unflatten(4, window)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(x), *size, x.shape[-1])


def _attend_by_pieces(
    x: Tensor, weight: Tensor, weight_bias: Tensor, scale: Tensor, bias: Tensor, cosine: bool, window, shift
) -> Tensor:
    """What `_WindowAttention` makes of the projections of x [B, nT, nH, nW, tokens, C]; the same shape.

    For inference, as it keeps nothing: queries, keys and values exist for a few windows at a time.
    """
    heads = len(scale)
    out = torch.empty_like(x)
    for piece, piece_bias, masks in _pieces(x.shape[:4], bias, window, shift):
        qkv = F.linear(x[piece], weight, weight_bias).unflatten(-1, (3, heads, -1))
        out[piece] = _attend_windows(qkv, scale, piece_bias, masks, cosine)[1].flatten(-2)
    return out


def _attend(
    x: Tensor,
    module: ShiftedWindowAttention3d | ShiftedWindowAttentionV2,
    bias: Tensor,
    window: tuple[int, ...],
    shift: tuple[int, ...],
    cosine: bool,
) -> Tensor:
    """Shifted-window attention of x [B, T, H, W, C] with the module's projections; the same shape."""
    *size, channels = x.shape[1:]
    size, heads = tuple(size), module.num_heads
    padded = tuple(math.ceil(side / extent) * extent for side, extent in zip(size, window, strict=True))
    moves = padded != size or any(shift)
    if moves:
        x = _Shift.apply(x, padded, shift)
    qkv_bias = module.qkv.bias
    if cosine:  # version 2 has no bias on its keys, whatever the parameter holds
        qkv_bias = torch.cat([qkv_bias[:channels], torch.zeros_like(qkv_bias[:channels]), qkv_bias[2 * channels :]])
        scale = module.logit_scale.clamp(max=math.log(100.0)).exp()
    else:
        scale = x.new_full((heads, 1, 1), (channels // heads) ** -0.5)
    x = _partition(x, window)
    if torch.is_grad_enabled():
        qkv = F.linear(x, module.qkv.weight, qkv_bias).unflatten(-1, (3, heads, channels // heads))
        with torch.autocast(x.device.type, enabled=False):
            out = _WindowAttention.apply(qkv, scale.to(qkv.dtype), bias.to(qkv.dtype), cosine, window, shift)
    else:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            out = _attend_by_pieces(
                *(part.to(dtype) for part in (x, module.qkv.weight, qkv_bias, scale, bias)), cosine, window, shift
            )
    out = _join(out, window, padded)
    if moves:
        out = _ShiftBack.apply(out, size, shift)
    return F.linear(out, module.proj.weight, module.proj.bias)


def _module_shift(module: nn.Module, size: torch.Size) -> tuple[int, ...]:
    """The module's cyclic shift along each side; 0 where the side fits into one window, as in torchvision."""
    return tuple(
        0 if side <= extent else step
        for side, extent, step in zip(size, module.window_size, module.shift_size, strict=True)
    )


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
        return _attend(x, self, bias.permute(2, 0, 1).contiguous(), window, _module_shift(self, size), cosine=False)


class FastWindowAttentionV2(ShiftedWindowAttentionV2):
    """torchvision's attention of Swin V2 (cosine scores), x [B, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        if is_exporting():
            return super().forward(x)
        bias = self.get_relative_position_bias()[0]
        window, shift = (1, *self.window_size), (0, *_module_shift(self, x.shape[1:3]))
        return _attend(x[:, None], self, bias, window, shift, cosine=True)[:, 0]
