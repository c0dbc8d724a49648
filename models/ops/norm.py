"""Layer norm of maps with few channels, for which PyTorch's kernel leaves a GPU idle."""

import torch
from torch import Tensor, nn

from istd.models import ops

# PyTorch's fast kernel needs a multiple of so many channels; the other took a quarter of the time of all kernels of
# SGMP-UNet's forward pass on an H100 (bf16, PyTorch 2.11).
VECTOR = 4


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm(x)`, x [..., C] -> same shape; off the CPU, of channels that are no multiple of VECTOR, written out.

    Computes in float32 or better. Under autocast it returns float32, as PyTorch's does.
    """
    if ops.on_cpu(x) or x.shape[-1] % VECTOR == 0:
        return norm(x)
    with torch.autocast(x.device.type, enabled=False):
        kind = torch.promote_types(x.dtype, norm.weight.dtype)
        wide = x.to(torch.promote_types(kind, torch.float32))
        centred = wide - wide.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return (centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias).to(kind)
