"""Training as CUDA graphs: the kernels of a network's forward and backward pass, recorded once and started together.

A host takes longer to start a step's thousands of kernels than a GPU takes to run them. Recording adds seconds to the
start of a run, where `torch.compile` adds minutes.
"""

import warnings

import torch
from torch import Tensor, nn

from istd.train_script.settings import Settings
from istd.utils.distributed import autocast, world_size
from istd.utils.errors import InputError, is_out_of_memory


def uses_graphs(settings: Settings, device: torch.device) -> bool:
    """Whether training replays CUDA graphs: on a CUDA GPU, in one process that does not compile, unless turned off.

    Raises `InputError` for graphs that are asked for elsewhere.
    """
    possible = device.type == "cuda" and world_size() == 1 and not settings.compile
    if settings.graphs and not possible:
        raise InputError(
            "graphs is on, which needs a CUDA GPU, one process, and compile off; found "
            f"{device}, {world_size()} process(es), compile {settings.compile}; leave --graphs out"
        )
    return possible and settings.graphs is not False


def record(network: nn.Module, settings: Settings, device: torch.device, amp: torch.dtype | None) -> nn.Module:
    """`network` recorded; with a warning the network itself, if that fails and nobody asked for it."""
    try:
        return GraphedNetwork(network, settings, device, amp)
    except RuntimeError as error:
        if settings.graphs or is_out_of_memory(error):
            raise
        warnings.warn(f"training without CUDA graphs, which could not record the network: {error}", stacklevel=2)
        return network


class GraphedNetwork(nn.Module):
    """`network` with its passes recorded, in training mode, for batches of one shape. Its weights may not move."""

    def __init__(self, network: nn.Module, settings: Settings, device: torch.device, amp: torch.dtype | None) -> None:
        super().__init__()
        self.with_aux = settings.aux_weight > 0
        self.outputs = _Outputs(network, self.with_aux, device, amp).train()
        side = settings.train_size
        batch = settings.batch_size // settings.accumulate
        clip = torch.zeros(batch, network.num_frames, network.in_channels, side, side, device=device)
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        # gradients come from another stream than the one recorded, which waits for it
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        try:
            torch.cuda.make_graphed_callables(self.outputs, (clip,), allow_unused_input=True)
        finally:
            with torch.no_grad():  # the passes before the recording updated the statistics of batch norms
                for buffer, before in buffers:
                    buffer.copy_(before)

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """As the network; `with_aux` is to be that of the recording."""
        if with_aux != self.with_aux:
            raise ValueError(f"recorded with with_aux={self.with_aux}")
        for parameter in self.parameters():  # the graph writes over memory that gradients of an earlier part may share
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()
        outputs = self.outputs(clip)
        return list(outputs) if with_aux else outputs[0]


class _Outputs(nn.Module):
    """A network with its outputs as a tuple, which can be recorded; only its forward pass is in mixed precision."""

    def __init__(self, network: nn.Module, with_aux: bool, device: torch.device, amp: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.with_aux, self.device, self.amp = network, with_aux, device, amp

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        with autocast(self.device, self.amp):
            return tuple(self.network(clip, with_aux=True)) if self.with_aux else (self.network(clip),)
