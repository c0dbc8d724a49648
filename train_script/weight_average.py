"""The exponential moving average (EMA) of a network's weights."""

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a network's weights and buffers over its updates, in a copy of it (`module`, in eval mode).

    Early in training the decay is (1 + n) / (10 + n) after n updates where that is less than `decay`, so that the
    random start is soon forgotten. Counts, as in batch norms, are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module, self.decay = deepcopy(network).eval().requires_grad_(False), decay
        # collected once: going through both networks takes the host longer than the update takes a GPU
        tensors = [list(chain(net.parameters(), net.buffers())) for net in (self.module, network)]
        self.averaged, self.original = ([value for value in side if value.is_floating_point()] for side in tensors)
        self.counts, self.original_counts = ([v for v in side if not v.is_floating_point()] for side in tensors)

    @torch.no_grad()
    def update(self, updates: int, taken: Tensor | None = None) -> None:
        """Move the average towards the network's weights, after `updates` earlier updates.

        `taken`: a boolean on the network's device; where it is false, the average stays.
        """
        warm_up = 1 - 1 / (1 + (updates + 1) / 9)
        weight = 1 - min(self.decay, warm_up)
        if taken is None:
            torch._foreach_lerp_(self.averaged, self.original, weight)
        else:
            moves = torch._foreach_sub(self.original, self.averaged)
            torch._foreach_mul_(moves, weight * taken)
            torch._foreach_add_(self.averaged, moves)
        if self.counts:
            torch._foreach_copy_(self.counts, self.original_counts)
