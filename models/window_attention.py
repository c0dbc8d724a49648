"""Fast forms of torchvision's shifted-window attention, of both versions, with the same weights and the same results.

torchvision forms the scores of all windows at once, adds bias and mask to copies of them, and keeps them for the
backward pass. Here the windows are attended to a few at a time, so that their scores stay in the processor's cache, and
the backward pass computes the scores again instead of keeping them.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

SCORES_BYTES = 4 << 20  # of scores in flight on a CPU: about the size of two cores' second-level caches
MASKED = -100.0  # what torchvision adds to the score of two tokens that a cyclic shift brought together


def _pieces(query: Tensor, bias: Tensor, window: tuple[int, ...], shift: tuple[int, ...]):
    """Yield (index of a few windows, their bias, whether it masks), for queries [B, nT, nH, nW, heads, tokens, d].

    Windows that a cyclic shift cut share one mask for each set of sides along which they are last, so the mask is
    added to the bias once, not to the scores. The windows of one piece have scores of SCORES_BYTES or less, but for one
    row of windows at least; off the CPU, or compiled, a piece is as large as its mask allows.
    """
    batch, *counts, heads, tokens, _ = query.shape
    at_once = query.device.type == "cpu" and not torch.compiler.is_compiling()
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
        row = query.element_size() * batch * counts[0] * (wide.stop - wide.start) * heads * tokens * tokens
        step = max(1, SCORES_BYTES // row) if at_once else last - first
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


def _attention_weights(query: Tensor, key: Tensor, bias: Tensor, masks: bool) -> Tensor:
    """softmax(query key^T + bias), [..., heads, tokens, tokens]."""
    scores = query @ key.transpose(-1, -2)
    scores += bias
    weights = scores.softmax(dim=-1)
    # weights of about exp(MASKED) are denormal numbers, which processors multiply a hundred times slower than zeros
    return F.threshold_(weights, torch.finfo(weights.dtype).tiny, 0.0) if masks else weights


class _WindowAttention(torch.autograd.Function):
    """Attention within windows that recomputes its weights in the backward pass.

    query, key, value: [B, nT, nH, nW, heads, tokens, d], the query already scaled; bias [heads, tokens, tokens].
    Returns [B, nT, nH, nW, tokens, heads * d].
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window, shift) -> Tensor:
        ctx.save_for_backward(query, key, value, bias)
        ctx.window, ctx.shift = window, shift
        *windows, heads, tokens, width = query.shape
        out = query.new_empty(*windows, tokens, heads, width)
        for piece, piece_bias, masks in _pieces(query, bias, window, shift):
            weights = _attention_weights(query[piece], key[piece], piece_bias, masks)
            out[piece] = (weights @ value[piece]).transpose(-2, -3)
        return out.flatten(-2)

    @staticmethod
    def backward(ctx, grad: Tensor):
        query, key, value, bias = ctx.saved_tensors
        *windows, heads, tokens, width = query.shape
        grad = grad.unflatten(-1, (heads, width)).transpose(-2, -3)
        # one tensor in the layout of the projection that made them, so that its gradient needs no copy
        joint = query.new_empty(*windows, tokens, 3, heads, width)
        grad_query, grad_key, grad_value = (part.transpose(-2, -3) for part in joint.unbind(dim=-3))
        grad_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for piece, piece_bias, masks in _pieces(query, bias, ctx.window, ctx.shift):
            weights = _attention_weights(query[piece], key[piece], piece_bias, masks)
            grad_value[piece] = weights.transpose(-1, -2) @ grad[piece]
            grad_weights = grad[piece] @ value[piece].transpose(-1, -2)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_bias += grad_scores.sum(dim=(0, 1, 2, 3), dtype=grad_bias.dtype)
            grad_query[piece] = grad_scores @ key[piece]
            grad_key[piece] = grad_scores.transpose(-1, -2) @ query[piece]
        return grad_query, grad_key, grad_value, grad_bias.to(bias.dtype), None, None


def _partition(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """[B, T, H, W, C] -> [B, nT, nH, nW, tokens, C]."""
    batch, t, h, w, channels = x.shape
    x = x.reshape(batch, t // window[0], window[0], h // window[1], window[1], w // window[2], window[2], channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6)


def _join(x: Tensor, window: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """The reverse of `_partition`: [B, nT, nH, nW, tokens, C] -> [B, T, H, W, C] of the given (T, H, W)."""
    x = x.unflatten(4, window)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(x), *size, x.shape[-1])


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
    heads = module.num_heads
    pad = [-side % extent for side, extent in zip(size, window, strict=True)]
    padded = [side + more for side, more in zip(size, pad, strict=True)]
    if any(pad):
        x = F.pad(x, (0, 0, 0, pad[2], 0, pad[1], 0, pad[0]))
    if shifted := any(shift):
        x = x.roll([-step for step in shift], dims=(1, 2, 3))
    qkv_bias = module.qkv.bias
    if cosine:  # version 2 has no bias on its keys, whatever the parameter holds
        qkv_bias = torch.cat([qkv_bias[:channels], torch.zeros_like(qkv_bias[:channels]), qkv_bias[2 * channels :]])
    qkv = F.linear(_partition(x, window), module.qkv.weight, qkv_bias)
    query, key, value = (
        part.transpose(-2, -3) for part in qkv.unflatten(-1, (3, heads, channels // heads)).unbind(dim=-3)
    )
    if cosine:
        query = F.normalize(query, dim=-1) * module.logit_scale.clamp(max=math.log(100.0)).exp()
        key = F.normalize(key, dim=-1)
    else:
        query = query * (channels // heads) ** -0.5
    dtype = value.dtype
    with torch.autocast(x.device.type, enabled=False):
        out = _WindowAttention.apply(query.to(dtype), key.to(dtype), value, bias.to(dtype), window, shift)
    out = _join(out, window, tuple(padded))
    if shifted:
        out = out.roll(shift, dims=(1, 2, 3))
    return F.linear(out[:, : size[0], : size[1], : size[2]], module.proj.weight, module.proj.bias)


def _shift(module: nn.Module, size: torch.Size) -> tuple[int, ...]:
    """The module's cyclic shift along each side; 0 where the side fits into one window, as in torchvision."""
    return tuple(
        0 if side <= extent else step
        for side, extent, step in zip(size, module.window_size, module.shift_size, strict=True)
    )


class FastWindowAttention3d(ShiftedWindowAttention3d):
    """torchvision's attention of Video Swin, x [B, T, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:4]
        window = tuple(min(side, extent) for side, extent in zip(size, self.window_size, strict=True))
        bias = self.get_relative_position_bias(list(window))[0]
        return _attend(x, self, bias, window, _shift(self, size), cosine=False)


class FastWindowAttentionV2(ShiftedWindowAttentionV2):
    """torchvision's attention of Swin V2 (cosine scores), x [B, H, W, C] -> same shape."""

    def forward(self, x: Tensor) -> Tensor:
        bias = self.get_relative_position_bias()[0]
        window, shift = (1, *self.window_size), (0, *_shift(self, x.shape[1:3]))
        return _attend(x[:, None], self, bias, window, shift, cosine=True)[:, 0]
