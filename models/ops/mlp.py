"""The two-layer perceptron of Swin blocks, in pieces of its tokens.

Its hidden layer is four times as wide as the tokens. Only a piece of it exists at a time, in the processor's cache, and
the backward pass computes it again, which saves memory (`docs/speed.md`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from istd.models import ops
from istd.models.ops.norm import layer_norm

HIDDEN_BYTES = 8 << 20  # of hidden values in flight: less than a third-level cache, enough for efficient products


def _pieces(x: Tensor, width: int) -> list[slice]:
    step = max(1, HIDDEN_BYTES // (x.element_size() * width))
    return [slice(first, first + step) for first in range(0, len(x), step)]


class _ChunkedMLP(torch.autograd.Function):
    """linear - GELU - linear of tokens [N, C], after a layer norm if `norm` is its weight, bias and epsilon.

    With t the (normalised) tokens: a = t W1^T + b1, out = GELU(a) W2^T + b2. The gradients, written as the variables:

        d W2 = d out^T GELU(a)    d b2 = sum over tokens of d out    d a = GELU'(a) * (d out W2)
        d W1 = d a^T t            d b1 = sum over tokens of d a      d t = d a W1

    and d x from d t by the layer norm. All but d b2 are computed from a piece of the tokens at a time.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, *norm) -> Tensor:
        out = x.new_empty(len(x), len(weight2))
        for piece in _pieces(x, len(weight1)):
            tokens = F.layer_norm(x[piece], x.shape[1:], *norm) if norm else x[piece]
            hidden = F.gelu(F.linear(tokens, weight1, bias1))
            torch.addmm(bias2, hidden, weight2.t(), out=out[piece])
        ctx.epsilon = norm[2:]
        ctx.save_for_backward(x, weight1, bias1, weight2, *norm[:2])
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight1, bias1, weight2, *norm = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_weight1, grad_bias1, grad_weight2, *grad_norm = map(torch.zeros_like, (weight1, bias1, weight2, *norm))
        for piece in _pieces(x, len(weight1)):
            tokens = x[piece]
            if norm:
                tokens, *moments = torch.native_layer_norm(x[piece], x.shape[1:], *norm, *ctx.epsilon)
            before = F.linear(tokens, weight1, bias1)
            grad_weight2.addmm_(grad[piece].t(), F.gelu(before))
            grad_before = torch.ops.aten.gelu_backward(grad[piece] @ weight2, before)
            grad_weight1.addmm_(grad_before.t(), tokens)
            grad_bias1 += grad_before.sum(dim=0)
            torch.mm(grad_before, weight1, out=grad_x[piece])
            if norm:
                grads = torch.ops.aten.native_layer_norm_backward(
                    grad_x[piece], x[piece], x.shape[1:], *moments, *norm, [True, True, True]
                )
                grad_x[piece] = grads[0]
                for total, gradient in zip(grad_norm, grads[1:], strict=True):
                    total += gradient
        return grad_x, grad_weight1, grad_bias1, grad_weight2, grad.sum(dim=0), *grad_norm, *[None] * len(ctx.epsilon)


def chunked_mlp(x: Tensor, mlp: nn.Sequential, norm: nn.LayerNorm | None = None) -> Tensor:
    """`mlp(norm(x))` for a torchvision MLP (Linear, GELU, Dropout of 0, Linear, Dropout of 0), x [..., C] -> same."""
    first, last = mlp[0], mlp[3]
    if not ops.in_pieces(x) or torch.is_autocast_enabled("cpu"):
        return mlp(layer_norm(x, norm) if norm else x)
    norm_parts = (norm.weight, norm.bias, norm.eps) if norm else ()
    tokens = x.reshape(-1, x.shape[-1])
    out = _ChunkedMLP.apply(tokens, first.weight, first.bias, last.weight, last.bias, *norm_parts)
    return out.view_as(x)
