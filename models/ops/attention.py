"""Multi-head attention without the matrix of all positions by all positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def multihead_attention(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`module(query, key, value)` of [B, N, C], without the matrix of all positions by all positions.

    On a processor the gradient of PyTorch's attention gives each head to one core. Where heads do not share out evenly,
    each becomes two, of half the queries.
    """
    batch, positions, _ = query.shape
    projected = [
        F.linear(x, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip(
            (query, key, value), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
        )
    ]
    in_cores = query.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    halves = 2 if in_cores and batch * module.num_heads % 2 and positions % 2 == 0 else 1
    query, key, value = projected[0], *(x.repeat_interleave(halves, dim=1) for x in projected[1:])
    out = F.scaled_dot_product_attention(query.reshape(batch, len(key[0]), positions // halves, -1), key, value)
    out = out.reshape(projected[0].shape).transpose(1, 2).flatten(2)
    return module.out_proj(out)
