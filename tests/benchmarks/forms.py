"""What the CPU's forms of layers buy: `python -m tests.benchmarks.forms` (a minute or two; Linux).

The network with all forms, and with one of them replaced by the plain form, take turns in one process, whose threads
`--threads` sets. Times are medians of CPU time, which other programs disturb less than wall time. Memory is what the
forward pass of a training step keeps for the backward pass beside the weights, and what a forward pass without
gradients adds at its peak. The rows are those of the table in docs/speed.md.
"""

import argparse
import ctypes
import importlib
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from istd.utils.process import set_up_process
from tests.benchmarks.networks import LABELS, describe_machine, status_megabytes

ROUNDS = 5
SIZES = {"datransnet": (2, 128, 256), "sgmp_unet": (2, 96, 160)}  # batch and side of a step, side of a forward pass


class Form(NamedTuple):
    """A form of a layer: the constant, or the predicate, of a module in models.ops whose `value` turns it off."""

    network: str
    title: str
    module: str
    name: str
    value: Any


FORMS = [
    Form("datransnet", "convolutions instead of surrounds", "gradient_attention", "on_cpu", False),
    Form("datransnet", "sums of keys from Gram matrices", "gradient_attention", "GRAM_KEYS", 1 << 40),
    Form("sgmp_unet", "windows in pieces", "window_attention", "in_pieces", False),
    Form("sgmp_unet", "hidden layer of perceptrons in pieces", "mlp", "in_pieces", False),
]


class Cost(NamedTuple):
    """CPU seconds and bytes kept of a training step; CPU seconds and megabytes at the peak of a forward pass."""

    step: float
    kept: float
    forward: float
    peak: float


def without(form: Form) -> Any:
    """A context in which a form is replaced by the plain one."""
    module = importlib.import_module(f"istd.models.ops.{form.module}")
    if form.name.isupper():
        return patch.object(module, form.name, form.value)
    predicates = vars(module.ops) | {form.name: lambda tensor: form.value}
    return patch.object(module, "ops", SimpleNamespace(**predicates))


def training_step(model: Any, clip: Any) -> tuple[float, int]:
    """CPU seconds of a step, and the bytes that its forward pass keeps beside the weights."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train().zero_grad()
    torch.manual_seed(1)  # stochastic depth
    start = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(clip).square().mean()
    loss.backward()
    return time.process_time() - start, sum(size for place, size in kept.items() if place not in weights)


def forward_pass(model: Any, clip: Any) -> tuple[float, float]:
    """CPU seconds of a forward pass, and the megabytes that it adds to the process at its peak."""
    import torch

    model.eval()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free would be filled unseen
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is resident now
    before, start = status_megabytes("VmRSS"), time.process_time()
    with torch.inference_mode():
        model(clip)
    return time.process_time() - start, status_megabytes("VmHWM") - before


def measure(model: Any, step_clip: Any, clip: Any) -> Cost:
    """A training step and a forward pass."""
    return Cost(*training_step(model, step_clip), *forward_pass(model, clip))


def main() -> None:
    """Print a row for each form."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.forms", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    set_up_process()
    import torch

    from istd.models import build_model

    torch.set_num_threads(threads)
    print(describe_machine(threads))
    print("| form | network | step: CPU time without | memory kept | forward: CPU time without | peak memory |")
    for network, (batch, step_side, side) in SIZES.items():
        torch.manual_seed(0)
        model = build_model(network)
        clips = [
            torch.rand(count, model.num_frames, model.in_channels, size, size)
            for count, size in ((batch, step_side), (1, side))
        ]
        forms = [form for form in FORMS if form.network == network]
        plain, full = {form.title: [] for form in forms}, []
        for _ in range(ROUNDS + 1):
            full.append(measure(model, *clips))
            for form in forms:
                with without(form):
                    plain[form.title].append(measure(model, *clips))
        ours = [statistics.median(values) for values in zip(*full[1:], strict=True)]  # the first round warms up
        what = f"{LABELS[network]}, {batch} x {step_side} x {step_side} and {side} x {side}"
        for title, costs in plain.items():
            medians = [statistics.median(values) for values in zip(*costs[1:], strict=True)]
            ratios = " | ".join(f"{other / all_forms:.2f}" for other, all_forms in zip(medians, ours, strict=True))
            print(f"| {title} | {what} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
