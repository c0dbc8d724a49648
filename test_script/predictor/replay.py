"""CUDA graphs: the kernels of a network's pass, recorded once for a shape of its input, and then started together.

A host takes longer to start the several hundred kernels of a pass than a GPU takes to run them.
"""

import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from istd.utils.errors import is_out_of_memory

RECORD_AFTER = 2  # passes of a shape; fewer do not repay the recording
MOST_GRAPHS = 16  # shapes; further ones are computed without a graph


class Replayed:
    """`network` as a function of clips on a CUDA GPU [B, T, C, H, W]; its results are the network's, bit by bit.

    All graphs share their memory, as one runs at a time. The weights may change in place, but not move. Recording needs
    `torch.inference_mode` and autocast without its cache, as `utils.distributed.autocast` has it; mixed precision is to
    stay the same. A network that cannot be recorded, because it waits for the GPU, is run as it is, with a warning.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.most = network, MOST_GRAPHS
        self._passes: Counter[torch.Size] = Counter()
        self._graphs: dict[torch.Size, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = self._stream = None  # of all graphs

    def __call__(self, clips: Tensor) -> Tensor:
        shape = clips.shape
        if shape not in self._graphs:
            self._passes[shape] += 1
            if self._passes[shape] <= RECORD_AFTER or len(self._graphs) >= self.most:
                return self.network(clips)
            try:
                self._graphs[shape] = self._record(clips)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                warnings.warn(
                    f"predicting without CUDA graphs, which could not record the network: {error}", stacklevel=2
                )
                self.most = 0
                return self.network(clips)
        graph, given, result = self._graphs[shape]
        given.copy_(clips)
        graph.replay()
        return result.clone()

    def _record(self, clips: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """A graph, the clips it reads, and the result it writes."""
        with torch.cuda.device(clips.device):  # else it would be recorded on the current one
            graph, given = torch.cuda.CUDAGraph(), clips.clone()
            self._stream = self._stream or torch.cuda.Stream()
            # an event that another thread queries, such as that of nccl, would spoil a recording in the default mode
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = self.network(given)
        self._pool = graph.pool()
        return graph, given, result
