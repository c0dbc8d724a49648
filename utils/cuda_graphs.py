"""CUDA graphs: the kernels of a network's passes, captured once per input shape and then launched together.

The host takes longer to launch the hundreds or thousands of kernels of a pass than the GPU takes to run them. Capturing
adds seconds to the start of a run, where `torch.compile` adds minutes.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from istd.utils.device import autocast
from istd.utils.errors import is_out_of_memory

PASSES_BEFORE_CAPTURE = 2  # passes of a shape in prediction; fewer do not repay the capture
MAX_GRAPHS = 16  # further shapes and options are computed without a graph


class GraphRunner:
    """`network` as a function of clips [B, T, C, H, W] on a CUDA GPU, captured as CUDA graphs and replayed.

    With gradients enabled, the forward and the backward pass are captured at the first call with a shape. Otherwise the
    forward pass is captured once a shape has repeated, and its results equal the network's bit by bit. Options of a
    call, such as `with_aux=True`, are part of its graph. Weights may change in place, but not move. The first call
    determines the mixed precision, which must not use autocast's cache (see `utils.device.autocast`).

    A network that waits for the GPU cannot be captured; it runs without graphs, with a warning (`required`: an error).
    """

    def __init__(self, network: nn.Module, required: bool = False) -> None:
        self.network, self.required, self.max_graphs = network, required, MAX_GRAPHS
        self._passes: Counter[tuple] = Counter()
        self._replays: dict[tuple, Callable[[Tensor], Any]] = {}
        self._pool = self._stream = None  # shared by all graphs of prediction, which never run at the same time

    def __call__(self, clips: Tensor, **options: Any) -> Any:
        training = torch.is_grad_enabled()
        key = (clips.shape, training, *options.items())
        if key not in self._replays:
            self._passes[key] += 1
            is_rare = not training and self._passes[key] <= PASSES_BEFORE_CAPTURE
            if is_rare or len(self._replays) >= self.max_graphs:
                return self.network(clips, **options)
            try:
                capture = self._capture_training if training else self._capture_prediction
                self._replays[key] = capture(clips, options)
            except RuntimeError as error:
                if self.required or is_out_of_memory(error):
                    raise
                warnings.warn(f"without CUDA graphs, which could not capture the network: {error}", stacklevel=2)
                self.max_graphs = 0
                return self.network(clips, **options)
        return self._replays[key](clips)

    def _capture_prediction(self, clips: Tensor, options: dict[str, Any]) -> Callable[[Tensor], Any]:
        """The forward pass as a function of clips."""
        with torch.cuda.device(clips.device):  # by default, the current device is captured
            graph, static_clips = torch.cuda.CUDAGraph(), clips.clone()
            self._stream = self._stream or torch.cuda.Stream()
            # an event that another thread queries, such as nccl's, would invalidate a capture in the default mode
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                static_outputs = self.network(static_clips, **options)
        self._pool = graph.pool()

        def replay(clips: Tensor) -> Any:
            static_clips.copy_(clips)
            graph.replay()
            return tree_map(torch.clone, static_outputs)

        return replay

    def _capture_training(self, clips: Tensor, options: dict[str, Any]) -> Callable[[Tensor], Any]:
        """The forward pass as a differentiable function of clips, whose backward pass is a graph, too."""
        device = clips.device.type
        amp = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        passes = _Passes(self.network, options, clips.device, amp)
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        mode = {"capture_error_mode": "thread_local"}  # as above, where torch offers it
        mode = mode if "capture_error_mode" in signature(torch.cuda.make_graphed_callables).parameters else {}
        # gradients come from a stream other than the capture's, which waits for it
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        try:
            # the passes before the capture draw random numbers, too
            with torch.autocast(device, enabled=False), torch.random.fork_rng([clips.device] if clips.is_cuda else []):
                torch.cuda.make_graphed_callables(passes, (clips.clone(),), allow_unused_input=True, **mode)
        finally:
            with torch.no_grad():  # the passes before the capture updated the statistics of batch norms
                for buffer, before in buffers:
                    buffer.copy_(before)

        def replay(clips: Tensor) -> Any:
            # The graph writes over memory that gradients of an earlier micro-batch may share.
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()
            return passes(clips)

        return replay


class _Passes(nn.Module):
    """A network as a function of clips alone; only its forward pass uses mixed precision."""

    def __init__(self, network: nn.Module, options: dict[str, Any], device: torch.device, amp: torch.dtype | None):
        super().__init__()
        self.network, self.options, self.device, self.amp = network, options, device, amp

    def forward(self, clips: Tensor) -> Any:
        with autocast(self.device, self.amp):
            return self.network(clips, **self.options)
