"""Batch-norm statistics, estimated anew on images prepared as for evaluation (Wu and Johnson 2021, section 3)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norm_layers(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network that keep running statistics, except those that are `frozen` (`optim.freeze`)."""
    layers = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [layer for layer in layers if layer.track_running_stats and not getattr(layer, "frozen", False)]


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of the `norm_layers` to the mean and variance over clips [B, T, C, H, W].

    Batches are normalised by themselves, as in training, and dropout and stochastic depth are off. Means and second
    moments of the batches are averaged by their numbers of clips, so that all clips count the same.
    """
    layers = norm_layers(network)
    was_training, momenta = network.training, [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # the running statistics become the batch's statistics
    sums, count = [(0.0, 0.0) for _ in layers], 0
    for batch in batches:
        network(batch)
        count += len(batch)
        for place, (layer, (mean, moment)) in enumerate(zip(layers, sums, strict=True)):
            batch_mean, variance = layer.running_mean.double(), layer.running_var.double()
            sums[place] = mean + len(batch) * batch_mean, moment + len(batch) * (variance + batch_mean.square())
    for layer, momentum, (mean, moment) in zip(layers, momenta, sums, strict=True):
        layer.running_mean.copy_(mean / count)
        layer.running_var.copy_((moment / count - (mean / count).square()).clamp(min=0))
        layer.momentum = momentum
    network.train(was_training)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Restore the statistics of the batch norms at the end, so that training continues unchanged."""
    buffers = [buffer for layer in norm_layers(network) for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
