"""Time and memory of both networks against their plain forms: `python -m tests.benchmarks.networks`.

Every form runs in a process of its own, the plain ones as they were released: without what `utils.process` sets for
our commands, which makes memory cheaper to allocate for them, too. The processes take turns, so that a drift of the
machine's speed hits all of them. Times are medians. Memory is the peak of the process, and the part of it that is
beyond libraries and weights.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """What is measured."""

    network: str
    task: str
    side: int
    batch: int

    def __str__(self) -> str:
        return f"{self.network} {self.task} {self.side} x {self.side}, batch {self.batch}"


class Measured(NamedTuple):
    """Median seconds of a form, its peak memory in MB, and that beyond libraries and weights."""

    seconds: float
    peak: float
    beyond: float


CASES = [
    Case("datransnet", "forward", 256, 1),
    Case("datransnet", "forward", 512, 1),
    Case("datransnet", "step", 256, 4),
    Case("sgmp_unet", "forward", 320, 1),
    Case("sgmp_unet", "step", 320, 1),
    Case("sgmp_unet_small", "step", 64, 8),  # has no plain form
]
GROWTH = [Case("datransnet", "forward", side, 1) for side in (256, 512, 1024)]
GROWTH += [Case("sgmp_unet", "forward", side, 1) for side in (160, 320, 640)]


def builder(network: str, form: str) -> Callable[[], Any]:
    """What builds a form of a network. The plain ones import nothing of the packages, the others set up the process."""
    if form != "plain":
        from istd.utils.process import set_up_process

        set_up_process()
        from istd.models import build_model

        return partial(build_model, network)
    if network == "datransnet":
        from tests.reference.plain_datransnet import PlainDATransNet

        return PlainDATransNet
    from tests.reference.plain_sgmp_unet import PlainSGMPUNet

    return PlainSGMPUNet


def prepare(case: Case, form: str, threads: int) -> Callable[[], None]:
    """A function that does the case's task once, with fresh weights and input."""
    build = builder(case.network, form)
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build().train(case.task == "step")
    frames, channels = (1, 1) if case.network == "datransnet" else (6, 3)
    x = torch.rand(case.batch, frames, channels, case.side, case.side)
    if form == "plain":  # these take [B, 1, H, W] and [B, 3, T, H, W]
        x = x[:, 0] if case.network == "datransnet" else x.transpose(1, 2)

    def run() -> None:
        model.zero_grad()
        with torch.inference_mode(case.task == "forward"), torch.autocast("cpu", torch.bfloat16, form == "bf16"):
            out = model(x)
        if case.task == "step":
            (out[0] if isinstance(out, list) else out).square().mean().backward()

    return run


def work(case: Case, form: str, threads: int) -> None:
    """In a process of its own: print its memory, run the task once for each line of input, and print the peak."""
    run = prepare(case, form, threads)
    print(status_megabytes("VmRSS"), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)
    print(status_megabytes("VmHWM"))


def status_megabytes(field: str) -> float:
    """Memory of this process; not from getrusage, whose peak begins with that of the process that started this one."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(case: Case, forms: list[str], threads: int, repeats: int) -> dict[str, Measured]:
    """Run the forms in turn, `repeats` times each after a first time that warms up."""
    processes = {}
    for form in forms:
        command = [sys.executable, "-m", "tests.benchmarks.networks", "--threads", str(threads)]
        command += ["--work", *map(str, case), form]
        processes[form] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    built = {form: float(process.stdout.readline()) for form, process in processes.items()}
    times = {form: [] for form in forms}
    for _ in range(repeats + 1):
        for form, process in processes.items():
            print(file=process.stdin, flush=True)
            times[form].append(float(process.stdout.readline()))
    measured = {}
    for form, process in processes.items():
        peak = float(process.communicate()[0])
        measured[form] = Measured(statistics.median(times[form][1:]), peak, peak - built[form])
    return measured


def compare(case: Case, threads: int, repeats: int) -> None:
    """Print a line with the case's plain and fast forms."""
    forms = ["plain", "fast", "bf16"] if case.task == "forward" else ["plain", "fast"]
    plain, fast, *bf16 = measure(case, forms, threads, repeats).values()
    text = f"{case}: plain {plain.seconds:.3f} s, fast {fast.seconds:.3f} s, {plain.seconds / fast.seconds:.2f} x"
    for form in bf16:
        text += f", bf16 {form.seconds:.3f} s, {plain.seconds / form.seconds:.2f} x"
    text += f"; peak memory {plain.peak:.0f} MB, {fast.peak:.0f} MB, {fast.peak / plain.peak:.0%}"
    text += f"; of it beyond libraries and weights {plain.beyond:.0f} MB, {fast.beyond:.0f} MB"
    print(f"{text}, {fast.beyond / plain.beyond:.0%}", flush=True)


def describe(case: Case, threads: int, repeats: int) -> None:
    """Print a line with the case's fast form."""
    fast = measure(case, ["fast"], threads, repeats)["fast"]
    text = f"{case}: {fast.seconds:.3f} s; peak memory {fast.peak:.0f} MB"
    print(f"{text}, {fast.beyond:.0f} MB of it beyond libraries and weights", flush=True)


def main() -> None:
    """Print a line a case."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.networks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name holds this, such as 'sgmp_unet step' or 'growth'")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        network, task, side, batch, form = args.work
        work(Case(network, task, int(side), int(batch)), form, args.threads)
        return
    for case in CASES:
        if args.only in str(case):
            (describe if case.network == "sgmp_unet_small" else compare)(case, args.threads, args.repeats)
    for case in GROWTH:
        if args.only in f"growth {case}":
            describe(case, args.threads, args.repeats)


if __name__ == "__main__":
    main()
