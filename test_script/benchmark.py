"""Measure the size and speed of a network on this machine.

The network comes from a checkpoint (--weights), or is --model with random weights, on which no metric depends. FLOPs
count matrix products, convolutions, and attention as PyTorch carries them out (an addition and a multiplication are
two); normalisations, activations, and sums are left out. Latency is the wall time of a forward pass of a batch that
already lies on the device, in eval mode. Memory is the peak in a forward pass, and what the pass added to the weights
and the input: of PyTorch's allocator on a CUDA device, and the resident memory of a fresh process on a CPU (Linux only;
the peak includes the code of Python and PyTorch).

Examples:

    python -m test_script.benchmark --weights datransnet --size 512 512
    python -m test_script.benchmark --model sgmp_unet --size 320 320 --device cuda --amp bf16 --output speed.json
"""

import argparse
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from istd.models import MODELS, build_model, load_model, try_network
from istd.test_script.options import add_checkpoint_option, add_device_options
from istd.test_script.predictor.tiling import round_up
from istd.utils.command_line import command_parser
from istd.utils.config import add_pairs_option, convert
from istd.utils.cuda_graphs import PASSES_BEFORE_CAPTURE, GraphRunner
from istd.utils.device import amp_name, autocast, choose_amp, choose_device, float32_precision
from istd.utils.errors import InputError, run_main
from istd.utils.files import check_writable, write_json
from istd.utils.metrics.tables import text_table

MIB = 2**20
STATUS = Path("/proc/self/status")
MEMORY_ADVICE = "lower --batch_size or --size"  # of `run_main`


def main(argv: list[str] | None = None) -> None:
    """Measure a network, print the metrics, and write them to --output."""
    args = parse_arguments(argv)
    device = choose_device(args.device)
    choose_amp(args.amp, device)  # an unknown name is reported before long work
    options = convert("--model_options", args.model_options, dict)
    interface = convert("--interface", args.interface, dict)
    if args.model_path:
        model = load_model(args.model_path, [args.model] if args.model else (), interface, **options)
    else:
        model = build_model(args.model, interface, **options).eval()
    code = getattr(model, "code", {})  # of a network from the user's code
    for note in try_network(model, max(args.size)) if code else []:
        print(note)
    rebuild = partial(build_model, code.get("name", model.name), code.get("interface"), **model.options)
    multiple = model.size_multiple
    if any(side <= 0 or side % multiple for side in args.size):
        size = " ".join(map(str, args.size))
        raise InputError(f"--size is {size}; {model.name} takes multiples of {multiple} from {multiple}")
    if args.output:
        check_writable(args.output)
    shape = (args.batch_size, model.num_frames, model.in_channels, *args.size)

    used, unused = count_parameters(model)
    metrics = {"parameters": used, "parameters_unused": unused, "flops_per_frame": count_flops(model, shape)}
    if device.type == "cpu" and not args.compile:  # compiling would be measured too
        metrics["memory"] = in_fresh_process(forward_memory_cpu, rebuild, shape, args.amp)
    model.to(device)
    clip = torch.rand(shape).to(device)  # which waits for the device
    if device.type == "cuda":
        metrics["memory"] = forward_memory_cuda(model, clip, args.amp)
    network = torch.compile(model) if args.compile else model
    if device.type == "cuda" and not args.compile:  # as inference does
        network, args.warmup = GraphRunner(model), max(args.warmup, PASSES_BEFORE_CAPTURE + 1)
    metrics["latency"] = latency(network, clip, args.amp, args.warmup, args.runs)
    metrics["frames_per_second"] = args.batch_size / metrics["latency"]["median_s"]
    settings = {
        "model": model.name,
        "options": model.options,
        "clip": list(shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "amp": amp_name(choose_amp(args.amp, device)),
        **{name: getattr(args, name) for name in ("compile", "warmup", "runs")},
        "torch": torch.__version__,
    }
    print(as_text(settings, metrics))
    if args.output:
        write_json(args.output, {"settings": settings, **metrics})


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.benchmark", __doc__)
    add = parser.add_argument
    add_checkpoint_option(parser, required=False)
    network = f"network with random weights: {', '.join(MODELS)}, or your code, FILE.py:CLASS"
    add("--model", metavar="NAME", help=network)
    add_pairs_option(parser, "interface", "what your network takes and gives (see docs/your_network.md)", [])
    add_pairs_option(parser, "model_options", "options of the network, such as width=48", ["num_frames", "image_size"])
    size = "height and width of the frames; default 256 256"
    add("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"), help=size)
    add("--batch_size", type=int, default=1, metavar="N", help="clips of a batch; default 1")
    add_device_options(parser)
    add("--compile", action="store_true", help="compile the network; the warm-up takes minutes")
    add("--warmup", type=int, default=3, metavar="N", help="warm-up passes; default 3")
    add("--runs", type=int, default=20, metavar="N", help="measured passes; default 20")
    add("--output", type=Path, metavar="FILE.json", help="also write the measured values as JSON")
    args = parser.parse_args(argv)
    if not (args.model or args.model_path):
        raise InputError("which network? give --weights NAME or FILE, or --model NAME")
    for name, minimum in (("batch_size", 1), ("warmup", 0), ("runs", 1)):
        if getattr(args, name) < minimum:
            raise InputError(f"--{name} is {getattr(args, name)}; give {minimum} or more")
    return args


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """The numbers of parameters on which the logits depend, and of parameters that no gradient reaches."""
    side = round_up(64, model.size_multiple)
    with torch.enable_grad():
        total = model(torch.rand(1, model.num_frames, model.in_channels, side, side)).sum()
    if total.requires_grad:
        total.backward()
    used = sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None)
    model.zero_grad(set_to_none=True)
    return used, sum(parameter.numel() for parameter in model.parameters()) - used


# PyTorch's counter knows the fused attention of GPUs only.
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
UNCOUNTED = {CPU_ATTENTION: lambda query, key, value, *rest, **named: sdpa_flop_count(query, key, value)}


@torch.inference_mode()
def count_flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of matrix products, convolutions and attention for a clip, [1, T, C, H, W]."""
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        model(torch.rand(1, *shape[1:]))
    return counter.get_total_flops()


@torch.inference_mode()
def latency(network: nn.Module, clip: Tensor, amp: str, warmup: int, runs: int) -> dict[str, float]:
    """Median, 10th and 90th percentile of the wall time of a forward pass, s."""
    times = []
    for _ in range(warmup + runs):
        start = time.perf_counter()
        forward(network, clip, amp)
        times.append(time.perf_counter() - start)
    p10, median, p90 = np.percentile(times[warmup:], [10, 50, 90])
    return {"median_s": float(median), "p10_s": float(p10), "p90_s": float(p90)}


def forward(network: nn.Module, clip: Tensor, amp: str) -> None:
    """A forward pass, under autocast unless `amp` is none; waits until the device has finished it."""
    with autocast(clip.device, choose_amp(amp, clip.device)), float32_precision(tf32=False):
        network(clip)
    if clip.device.type != "cpu":
        torch.get_device_module(clip.device).synchronize(clip.device)


@torch.inference_mode()
def forward_memory_cuda(model: nn.Module, clip: Tensor, amp: str) -> dict[str, int]:
    """Bytes that the allocator held at the peak of a forward pass, and how much of that the pass added."""
    forward(model, clip, amp)  # the first pass allocates workspaces that stay
    torch.cuda.reset_peak_memory_stats(clip.device)
    before = torch.cuda.memory_allocated(clip.device)
    forward(model, clip, amp)
    peak = torch.cuda.max_memory_allocated(clip.device)
    return {"peak_bytes": peak, "added_bytes": peak - before}


@torch.inference_mode()
def forward_memory_cpu(build: Callable[[], nn.Module], shape: tuple[int, ...], amp: str) -> dict[str, int] | None:
    """Bytes resident in this process at the peak of a forward pass, and how much the pass added; None off Linux.

    To be called in a fresh process, since reused memory that was freed before would not be counted.
    """
    if not STATUS.exists():
        return None
    model, clip = build().eval(), torch.rand(shape)
    side = min(round_up(32, model.size_multiple), *shape[-2:])
    forward(model, clip[:1, ..., :side, :side], amp)  # loads the code of the operations
    with suppress(OSError):  # where it is not allowed, building the model may hide some of the growth
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the peak to what is resident now
    before = resident_bytes("VmRSS")
    forward(model, clip, amp)
    peak = resident_bytes("VmHWM")
    return {"peak_bytes": peak, "added_bytes": peak - before}


def resident_bytes(field: str) -> int:
    """Memory of this process on Linux: VmRSS, resident now, or VmHWM, at its peak.

    `resource.getrusage` would not do: its peak includes the peak of the parent process.
    """
    return int(re.search(rf"^{field}:\s+(\d+)", STATUS.read_text(encoding="ascii"), re.MULTILINE)[1]) * 1024


def in_fresh_process(function, *arguments):
    """Compute `function(*arguments)` in a new process with as many threads."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            killed = "the process that measures memory was killed, most likely for want of it"
            raise InputError(f"{killed}; give a smaller --size or --batch_size") from error


def as_text(settings: dict, metrics: dict) -> str:
    """The metrics as a text table."""
    batch, frames, _, height, width = settings["clip"]
    times = metrics["latency"]
    memory = metrics.get("memory")
    peak, added = (f"{memory[f'{of}_bytes'] / MIB:.0f}" if memory else "not measured" for of in ("peak", "added"))
    rows = [
        [f"{settings['model']}, {height} x {width}, T = {frames}, batch {batch}", ""],
        ["device", f"{settings['device']} ({settings['threads']} CPU threads), amp {settings['amp']}"],
        ["parameters, used", f"{metrics['parameters']:,}"],
        ["parameters, unused", f"{metrics['parameters_unused']:,}"],
        ["GFLOPs per frame", f"{metrics['flops_per_frame'] / 1e9:.2f}"],
        ["latency, median, ms", f"{1e3 * times['median_s']:.2f}"],
        ["latency, p10 - p90, ms", f"{1e3 * times['p10_s']:.2f} - {1e3 * times['p90_s']:.2f}"],
        ["frames per second", f"{metrics['frames_per_second']:.2f}"],
        ["peak memory, MiB", peak],
        ["added by a forward pass, MiB", added],
    ]
    return text_table(rows)


if __name__ == "__main__":
    run_main(main)
