"""Gradient checkpointing (Chen et al. 2016): blocks forget what they computed and compute it again going backward.

It takes another forward pass, and memory for the activations of a single block instead of all of them.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from istd.utils.errors import InputError


def recompute_blocks(network: nn.Module) -> None:
    """Let the network's blocks recompute their activations in training; raises `InputError` if it names none.

    Their parameters and buffers stay where they are, and random draws are repeated, so that gradients stay the same.
    """
    blocks = [module for module in network.modules() if isinstance(module, network.recomputable)]
    if not blocks:
        raise InputError(f"{network.name} has no blocks for gradient checkpointing; leave --grad_checkpoint out")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
