"""Layers whose behaviour depends on the batch, as layers that see the global batch of all processes (`--sync_bn`).

`nn.SyncBatchNorm` runs on GPUs only, and makes the host wait for the GPU in every layer; `SyncedBatchNorm` does
neither, so that the CPU tests cover what GPUs run, and it compiles.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from istd.utils.distributed import all_reduce_sum
from istd.utils.errors import InputError
from istd.utils.ranks import rank, world_size

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of the global batch, of which every process has an equal share.

    [B, C, ...] -> [B, C, ...], with a single all-reduce in either direction. The backward pass keeps only the input.
    """

    def _check_input_dim(self, tensor: torch.Tensor) -> None:
        if tensor.dim() < 2:
            raise ValueError(f"got {tensor.dim()} dimensions, expected [B, C, ...]")

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(tensor)
        axes = [axis for axis in range(tensor.dim()) if axis != 1]
        shape = [1, -1] + [1] * (tensor.dim() - 2)
        # under autocast the statistics stay in float32, as in nn.BatchNorm2d
        values = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        count = world_size() * values.numel() // values.shape[1]
        local = torch.stack(torch.var_mean(values, axes, correction=0))
        # a sum over processes, each of which fills a row with its statistics: [processes, 2, C]
        variances, means = all_reduce_sum(F.pad(local[None], (0, 0, 0, 0, rank(), world_size() - rank() - 1))).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        gain = torch.rsqrt(variance + self.eps)
        gain = gain * self.weight if self.affine else gain
        offset = self.bias - mean * gain if self.affine else -mean * gain
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            momentum = (1 / self.num_batches_tracked).to(mean.dtype) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * count / (count - 1), momentum)
        return torch.addcmul(offset.view(shape), values, gain.view(shape)).to(tensor.dtype)


class SyncedBatchNormAct(SyncedBatchNorm):
    """timm's batch normalisation with dropout and activation, synchronised."""

    drop: nn.Module
    act: nn.Module

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(tensor)))


class SyncedStochasticDepth(StochasticDepth):
    """Stochastic depth by rows: all processes draw for the global batch, and each takes the rows of its samples.

    It drops what a single process with the same batch would drop.
    """

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return tensor
        rows, survival = len(tensor), 1 - self.p
        kept = tensor.new_empty(rows * world_size(), *[1] * (tensor.dim() - 1))
        kept.bernoulli_(survival, generator=shared_generator(tensor.device))
        if survival > 0:
            kept.div_(survival)
        return tensor * kept[rank() * rows : (rank() + 1) * rows]


@cache
def shared_generator(device: torch.device) -> torch.Generator:
    """The generator of draws that are equal on all processes; the training loop seeds it."""
    return torch.Generator(device)


def synchronise_layers(model: nn.Module) -> nn.Module:
    """`model` with its batch normalisation and stochastic depth replaced by the synchronised forms.

    Parameters and buffers stay the same objects. Raises `InputError` for a batch normalisation of another class.
    """
    for name, module in model.named_children():
        if isinstance(module, BATCH_NORMS):
            setattr(model, name, synced_norm(module))
        elif type(module) is StochasticDepth and module.mode == "row":
            setattr(model, name, SyncedStochasticDepth(module.p, module.mode).train(module.training))
        else:
            synchronise_layers(module)
    return model


def synced_norm(module: nn.modules.batchnorm._BatchNorm) -> SyncedBatchNorm:
    """The synchronised form of torch's batch normalisation, or of timm's with an activation."""
    with_act = {"drop", "act"} == {name for name, _ in module.named_children()}
    if type(module) not in BATCH_NORMS and not with_act:
        raise InputError(f"sync_bn knows torch's batch norms and timm's, not {type(module)}; leave --sync_bn out")
    synced = (SyncedBatchNormAct if with_act else SyncedBatchNorm)(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    synced._parameters, synced._buffers, synced._modules = module._parameters, module._buffers, module._modules
    return synced.train(module.training)
