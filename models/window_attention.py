"""Fast forms of torchvision's shifted-window attention, of both versions, with the same weights and the same results.

torchvision forms the scores of all windows at once, adds bias and mask to copies of them, and keeps them for the
backward pass. Here the windows are attended to a few at a time, so that their scores stay in the processor's cache, and
the backward pass computes the scores again instead of keeping them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

SCORES_BYTES = 4 << 20  # of scores in flight on a CPU: about the size of two cores' second-level caches
MASKED = -100.0  # what torchvision adds to the score of two tokens that a cyclic shift brought together


def _pieces(query: Tensor) -> list[slice]:
    """Slices of the windows whose scores fit into SCORES_BYTES; one slice for all off the CPU or compiled."""
    batch, windows, heads, tokens, _ = query.shape
    if query.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    step = max(1, SCORES_BYTES // (query.element_size() * batch * heads * tokens * tokens))
    return [slice(first, first + step) for first in range(0, windows, step)]


def _attention_weights(query: Tensor, key: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
    """softmax(query key^T + bias + mask), [B, windows, heads, tokens, tokens]."""
    scores = query @ key.transpose(-1, -2)
    scores += bias
    if regions is not None:
        apart = regions[:, :, None] != regions[:, None, :]
        scores += (apart * MASKED).to(scores.dtype)[:, None]
    return scores.softmax(dim=-1)


class _WindowAttention(torch.autograd.Function):
    """Attention within windows that recomputes its weights in the backward pass.

    query, key, value: [B, windows, heads, tokens, d], the query already scaled; bias [heads, tokens, tokens];
    regions [windows, tokens] or None: tokens of different numbers do not belong together.
    Returns [B, windows, tokens, heads * d].
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, regions: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value, bias, regions)
        batch, windows, heads, tokens, width = query.shape
        out = query.new_empty(batch, windows, tokens, heads, width)
        for piece in _pieces(query):
            weights = _attention_weights(
                query[:, piece], key[:, piece], bias, None if regions is None else regions[piece]
            )
            out[:, piece] = (weights @ value[:, piece]).transpose(2, 3)
        return out.flatten(3)

    @staticmethod
    def backward(ctx, grad: Tensor):
        query, key, value, bias, regions = ctx.saved_tensors
        grad = grad.unflatten(3, (query.shape[2], -1)).transpose(2, 3)
        # one tensor in the layout of the projection that made them, so that its gradient needs no copy
        batch, windows, heads, tokens, width = query.shape
        joint = query.new_empty(batch, windows, tokens, 3, heads, width)
        grad_query, grad_key, grad_value = joint.permute(3, 0, 1, 4, 2, 5)
        grad_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        for piece in _pieces(query):
            weights = _attention_weights(
                query[:, piece], key[:, piece], bias, None if regions is None else regions[piece]
            )
            grad_value[:, piece] = weights.transpose(-1, -2) @ grad[:, piece]
            grad_weights = grad[:, piece] @ value[:, piece].transpose(-1, -2)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_bias += grad_scores.sum(dim=(0, 1), dtype=grad_bias.dtype)
            grad_query[:, piece] = grad_scores @ key[:, piece]
            grad_key[:, piece] = grad_scores.transpose(-1, -2) @ query[:, piece]
        return grad_query, grad_key, grad_value, grad_bias.to(bias.dtype), None


def _partition(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """[B, T, H, W, C] -> [B, windows, tokens, C]."""
    batch, t, h, w, channels = x.shape
    x = x.reshape(batch, t // window[0], window[0], h // window[1], window[1], w // window[2], window[2], channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def _join(x: Tensor, window: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """The reverse of `_partition`: [B, windows, tokens, C] -> [B, T, H, W, C] of the given (T, H, W)."""
    counts = [side // extent for side, extent in zip(size, window, strict=True)]
    x = x.reshape(len(x), *counts, *window, x.shape[-1])
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(x), *size, x.shape[-1])


def _regions(size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device) -> Tensor:
    """Numbers [windows, tokens] that tell which side of the shift's seam each token came from."""
    number = torch.zeros(size, dtype=torch.int32, device=device)
    for axis, (extent, step) in enumerate(zip(window, shift, strict=True)):
        if step:
            position = torch.arange(size[axis], device=device)
            side = (position >= size[axis] - extent).int() + (position >= size[axis] - step).int()
            number = number * 3 + side.view([-1 if axis == i else 1 for i in range(3)])
    return _partition(number[None, ..., None], window)[0, ..., 0]


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
    query, key, value = qkv.unflatten(-1, (3, heads, channels // heads)).permute(3, 0, 1, 4, 2, 5)
    if cosine:
        query = F.normalize(query, dim=-1) * module.logit_scale.clamp(max=math.log(100.0)).exp()
        key = F.normalize(key, dim=-1)
    else:
        query = query * (channels // heads) ** -0.5
    regions = _regions(tuple(padded), window, shift, x.device) if shifted else None
    dtype = value.dtype
    with torch.autocast(x.device.type, enabled=False):
        out = _WindowAttention.apply(query.to(dtype), key.to(dtype), value, bias.to(dtype), regions)
    out = _join(F.linear(out, module.proj.weight, module.proj.bias), window, tuple(padded))
    if shifted:
        out = out.roll(shift, dims=(1, 2, 3))
    return out[:, : size[0], : size[1], : size[2]]


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
