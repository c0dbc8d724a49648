"""Data-parallel training: equal weights on all processes at the start, equal gradients in every step.

A flat all-reduce after the backward pass does what `DistributedDataParallel` does during it, and leaves the passes
themselves free of communication, so that CUDA graphs can hold them.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from istd.train_script.norm_statistics import norm_layers
from istd.utils.distributed import gather_objects
from istd.utils.errors import InputError
from istd.utils.ranks import rank, world_size

SEED_OF_A_RANK = 0x9E3779B97F4A7C15  # odd, so that no two ranks get the same seed modulo 2^64


@torch.no_grad()
def broadcast_weights(network: nn.Module) -> None:
    """Give every process the weights and buffers of the first process."""
    for tensor in (*network.parameters(), *network.buffers()):
        dist.broadcast(tensor, 0)


class ProcessAverage:
    """Called after a backward pass, sets a network's gradients and running statistics to their mean over processes.

    Parameters without a gradient on all processes in the first step of an epoch, such as weights of auxiliary outputs
    that the loss leaves out, stay without a gradient. Raises `InputError` if they get a gradient later in that epoch:
    the processes, which do not ask each other in every step, would train different networks.
    """

    def __init__(self, network: nn.Module) -> None:
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.statistics = [value for norm in norm_layers(network) for value in (norm.running_mean, norm.running_var)]
        self.epoch: int | None = None
        self.used: set[str] = set()

    @torch.no_grad()
    def __call__(self, epoch: int) -> None:
        with_gradient = {name for name, parameter in self.parameters.items() if parameter.grad is not None}
        if epoch != self.epoch:
            self.epoch, self.used = epoch, set().union(*gather_objects(with_gradient))
        if late := with_gradient - self.used:
            raise InputError(
                f"{min(late)} got its first gradient in the middle of epoch {epoch + 1}, which several processes "
                "cannot share; let the loss begin to use it with an epoch, or train in a single process"
            )
        used = [parameter for name, parameter in self.parameters.items() if name in self.used]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        average([*(parameter.grad for parameter in used), *self.statistics])


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Replace tensors on a device by their means over all processes, with an all-reduce for each dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.all_reduce(flat)
        means = (flat / world_size()).split([tensor.numel() for tensor in group])
        torch._foreach_copy_(group, [mean.view(tensor.shape) for mean, tensor in zip(means, group, strict=True)])


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the random draws of a micro-batch: different on every process (dropout masks, for instance), but equal in
    synchronised layers on `device`."""
    torch.manual_seed((seed + rank() * SEED_OF_A_RANK) % 2**64)
    if world_size() > 1:
        from istd.train_script.synced_layers import shared_generator  # which imports torchvision, and that takes long

        shared_generator(device).manual_seed(seed)
