"""Layers whose behaviour depends on the batch, made to see the global batch of all processes.

`nn.SyncBatchNorm` runs on GPUs only, and makes the host wait for the GPU in every layer; the one here does neither, so
that the CPU tests cover what GPUs run, and it compiles.
"""

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from istd.utils.distributed import all_reduce_sum, rank, world_size


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation with the statistics of the global batch, of which every process holds an equal share.

    [B, C, ...] -> [B, C, ...]. For its backward pass it keeps its input and nothing else of that size.
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
        own_variance, own_mean = torch.var_mean(values, axes, correction=0)
        mean = all_reduce_sum(own_mean) / world_size()
        variance = all_reduce_sum(own_variance + (own_mean - mean).square()) / world_size()
        gain = torch.rsqrt(variance + self.eps)
        gain = gain * self.weight if self.affine else gain
        offset = self.bias - mean * gain if self.affine else -mean * gain
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        return torch.addcmul(offset.view(shape), values, gain.view(shape)).to(tensor.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked.add_(1)
        momentum = (1 / self.num_batches_tracked).to(mean.dtype) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class SyncedStochasticDepth(StochasticDepth):
    """Stochastic depth by rows: all processes draw for the global batch, and each takes the rows of its samples.

    With equal random states on all processes it drops what one process with the whole batch would drop.
    """

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return tensor
        rows = len(tensor)
        kept = super().forward(tensor.new_ones(rows * world_size(), *[1] * (tensor.dim() - 1)))
        return tensor * kept[rank() * rows : (rank() + 1) * rows]


def synchronise_layers(model: nn.Module) -> nn.Module:
    """`model` with its batch normalisation and stochastic depth replaced by the synchronised forms.

    Parameters and buffers are the same objects under the same names.
    """
    for name, module in model.named_children():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            synced = SyncedBatchNorm(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
            )
            synced._parameters, synced._buffers = module._parameters, module._buffers
            synced.train(module.training)
            setattr(model, name, synced)
        elif type(module) is StochasticDepth and module.mode == "row":
            setattr(model, name, SyncedStochasticDepth(module.p, module.mode).train(module.training))
        else:
            synchronise_layers(module)
    return model
