"""Whether training replays CUDA graphs (see `utils.cuda_graphs`)."""

import torch

from istd.train_script.settings import Settings
from istd.utils.distributed import world_size
from istd.utils.errors import InputError


def uses_graphs(settings: Settings, device: torch.device) -> bool:
    """Whether training replays CUDA graphs: on CUDA GPUs, unless it compiles or graphs are turned off.

    Synchronised batch norms of several processes speak to the others amid a pass, which cannot be captured. Raises
    `InputError` for graphs that are asked for where they are impossible.
    """
    synced = settings.sync_bn and world_size() > 1
    possible = device.type == "cuda" and not synced and not settings.compile and not settings.grad_checkpoint
    if settings.graphs and not possible:
        raise InputError(
            "graphs is on, which needs a CUDA GPU, compile and grad_checkpoint off, and sync_bn off where several "
            f"processes train; found {device}, compile {settings.compile}, grad_checkpoint {settings.grad_checkpoint}, "
            f"sync_bn {settings.sync_bn}, {world_size()} process(es); leave --graphs out"
        )
    return possible and settings.graphs is not False
