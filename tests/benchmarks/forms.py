"""What the fast forms of layers buy on a CPU: `python -m tests.benchmarks.forms`.

Training steps with all forms, and with one at a time replaced by the plain form, take turns in one process. Time is the
median CPU time of all threads, which other programs disturb less than wall time; memory is what the forward pass keeps
for the backward pass beside the weights.
"""

import importlib
import statistics
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from istd.utils.process import set_up_process

ROUNDS = 5
CASES = [("datransnet", 128, 2), ("sgmp_unet", 96, 2)]  # network, side, batch
PREDICATES = ("is_exporting", "on_cpu", "is_captured", "in_pieces")
# network, form: its module in models.ops, and the attribute there or the predicate that turns it off
FORMS: dict[tuple[str, str], tuple[str, str, Any]] = {
    ("datransnet", "convolutions instead of surrounds"): ("gradient_attention", "on_cpu", False),
    ("datransnet", "keys in bands"): ("gradient_attention", "BAND_BYTES", 1 << 40),
    ("sgmp_unet", "windows in pieces"): ("window_attention", "in_pieces", False),
    ("sgmp_unet", "hidden layer of perceptrons in pieces"): ("mlp", "HIDDEN_BYTES", None),
}


def without(form: tuple[str, str]) -> Any:
    """A context in which a form is replaced by the plain one."""
    file, name, value = FORMS[form]
    module = importlib.import_module(f"istd.models.ops.{file}")
    if value is None:
        return patch.object(module, "in_pieces", lambda tensor: False)
    if name not in PREDICATES:
        return patch.object(module, name, value)
    predicates = {predicate: getattr(importlib.import_module("istd.models.ops"), predicate) for predicate in PREDICATES}
    return patch.object(module, "ops", SimpleNamespace(**predicates | {name: lambda tensor: value}))


def training_step(model: Any, clip: Any) -> tuple[float, int]:
    """CPU seconds of a step, and the bytes that its forward pass keeps beside the weights."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(1)  # stochastic depth
    start = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(clip).square().mean()
    loss.backward()
    return time.process_time() - start, sum(size for place, size in kept.items() if place not in weights)


def main() -> None:
    """Print a line for each form."""
    set_up_process()
    import torch

    from istd.models import build_model

    for network, side, batch in CASES:
        torch.manual_seed(0)
        model = build_model(network).train()
        clip = torch.rand(batch, model.num_frames, model.in_channels, side, side)
        forms = [form for form in FORMS if form[0] == network]
        steps = {form: [] for form in forms}
        full = []
        training_step(model, clip)
        for _ in range(ROUNDS):
            full.append(training_step(model, clip))
            for form in forms:
                with without(form):
                    steps[form].append(training_step(model, clip))
        seconds, kept = statistics.median(time for time, _ in full), full[0][1]
        print(f"{network}, step, {batch} x {side} px: CPU {seconds:.3f} s, {kept / 1e6:.0f} MB kept")
        for form, values in steps.items():
            ratio = statistics.median(time for time, _ in values) / seconds
            print(f"  without {form[1]}: CPU time x {ratio:.2f}, memory kept x {values[0][1] / kept:.2f}", flush=True)


if __name__ == "__main__":
    main()
