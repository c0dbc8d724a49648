"""Time and memory of both networks against their plain forms, in one run: `python -m tests.benchmarks.networks`.

Times are medians; fast and plain alternate, so that a drift of the machine's speed hits both. Memory is the peak of a
fresh process that does two forward passes or training steps, with the libraries and the weights in it.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from models import build_model
from tests.reference.plain_datransnet import PlainDATransNet
from tests.reference.plain_sgmp_unet import PlainSGMPUNet

CASES = [  # network, what is done, side, batch
    ("datransnet", "forward", 256, 1),
    ("datransnet", "forward", 512, 1),
    ("datransnet", "step", 256, 4),
    ("sgmp_unet", "forward", 320, 1),
    ("sgmp_unet", "step", 320, 1),
]
PLAIN = {"datransnet": PlainDATransNet, "sgmp_unet": PlainSGMPUNet}
GROWTH = [("datransnet", side) for side in (256, 512, 1024)] + [("sgmp_unet", side) for side in (160, 320, 640)]


def prepare(network: str, form: str, task: str, side: int, batch: int):
    """A function that does `task` once, with fresh weights and input."""
    torch.manual_seed(0)
    model = PLAIN[network]() if form == "plain" else build_model(network)
    model.train(task == "step")
    frames, channels = (1, 1) if network == "datransnet" else (6, 3)
    x = torch.rand(batch, frames, channels, side, side)
    if form == "plain":  # these take [B, 1, H, W] and [B, 3, T, H, W]
        x = x[:, 0] if network == "datransnet" else x.transpose(1, 2)

    def run():
        model.zero_grad()
        with torch.inference_mode(task == "forward"), torch.autocast("cpu", torch.bfloat16, enabled=form == "bf16"):
            out = model(x)
        if task == "step":
            (out[0] if isinstance(out, list) else out).square().mean().backward()

    return run


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def memory_megabytes(network: str, form: str, task: str, side: int, batch: int) -> tuple[float, float]:
    """Resident memory of a process of its own: once the network is built, and at its peak."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.networks",
        "--measure",
        network,
        form,
        task,
        str(side),
        str(batch),
    ]
    built, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(built), float(peak)


def measure_here(network: str, form: str, task: str, side: str, batch: str) -> None:
    run = prepare(network, form, task, int(side), int(batch))
    built = status_megabytes("VmRSS")
    run()
    run()
    print(built, status_megabytes("VmHWM"))


def status_megabytes(field: str) -> float:
    """Memory of this process; not from getrusage, whose peak begins with that of the process that started this one."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def compare(network: str, task: str, side: int, batch: int, repeats: int) -> None:
    runs = {form: prepare(network, form, task, side, batch) for form in ("plain", "fast")}
    if task == "forward":
        runs["bf16"] = prepare(network, "bf16", task, side, batch)
    times = {form: [] for form in runs}
    for round_number in range(repeats + 1):
        for form, run in runs.items():
            taken = seconds(run)
            if round_number:  # the first round warms up
                times[form].append(taken)
    median = {form: statistics.median(taken) for form, taken in times.items()}
    memory = {form: memory_megabytes(network, form, task, side, batch) for form in ("plain", "fast")}
    (plain_built, plain_peak), (fast_built, fast_peak) = memory["plain"], memory["fast"]
    bf16 = f"  bf16 {median['bf16']:.3f} s, {median['plain'] / median['bf16']:.2f} x" if "bf16" in median else ""
    print(
        f"{network} {task} {side} x {side}, batch {batch}: plain {median['plain']:.3f} s, fast {median['fast']:.3f} s, "
        f"{median['plain'] / median['fast']:.2f} x{bf16}; peak memory {plain_peak:.0f} MB, "
        f"{fast_peak:.0f} MB, {fast_peak / plain_peak:.0%}; of it beyond libraries and weights "
        f"{plain_peak - plain_built:.0f} MB, {fast_peak - fast_built:.0f} MB, "
        f"{(fast_peak - fast_built) / (plain_peak - plain_built):.0%}",
        flush=True,
    )


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name holds this, such as 'sgmp_unet step' or 'growth'")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        measure_here(*args.measure)
        return
    for network, task, side, batch in CASES:
        if args.only in f"{network} {task} {side}":
            compare(network, task, side, batch, args.repeats)
    for network, side in GROWTH:
        if args.only in f"{network} growth {side}":
            run = prepare(network, "fast", "forward", side, 1)
            run()
            taken = statistics.median(seconds(run) for _ in range(args.repeats))
            built, peak = memory_megabytes(network, "fast", "forward", side, 1)
            print(
                f"{network} growth {side} x {side}: fast forward {taken:.3f} s, peak memory {peak:.0f} MB, "
                f"{peak - built:.0f} MB of it beyond libraries and weights",
                flush=True,
            )


if __name__ == "__main__":
    main()
