"""Time and memory of both networks against their plain forms: `python -m tests.benchmarks.networks` (Linux).

Every form runs in a process of its own, the plain ones as they were released: without what `utils.process` sets for
our commands, which makes memory cheaper to allocate for them, too. The processes take turns, so that a drift of the
machine's speed hits all of them. Times are medians. Memory is the peak of the process, and in brackets the part of it
that is beyond libraries and weights; both are ours as a share of the reference's. The rows are those of the tables in
docs/speed.md; it takes about four minutes on two cores.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

LABELS = {"datransnet": "DATransNet", "sgmp_unet": "SGMP-UNet", "sgmp_unet_small": "compact SGMP-UNet"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


class Case(NamedTuple):
    """What is measured."""

    network: str
    task: str
    side: int
    batch: int

    def __str__(self) -> str:
        task = "training step" if self.task == "step" else self.task
        sides = (self.batch, self.side, self.side) if self.batch > 1 else (self.side, self.side)
        return f"{LABELS[self.network]}, {task}, {' x '.join(map(str, sides))}"


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


def measure(case: Case, forms: list[str], options: argparse.Namespace) -> list[Measured]:
    """Run the forms in turn, `--repeats` times each after a first time that warms up."""
    processes = []
    for form in forms:
        command = [sys.executable, "-m", "tests.benchmarks.networks", "--threads", str(options.threads)]
        command += ["--work", *map(str, case), form]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    built = [float(process.stdout.readline()) for process in processes]
    times = [[] for _ in processes]
    for _ in range(options.repeats + 1):
        for process, seconds in zip(processes, times, strict=True):
            print(file=process.stdin, flush=True)
            seconds.append(float(process.stdout.readline()))
    measured = []
    for process, seconds, resident in zip(processes, times, built, strict=True):
        peak = float(process.communicate()[0])
        measured.append(Measured(statistics.median(seconds[1:]), peak, peak - resident))
    return measured


def row(case: Case, options: argparse.Namespace) -> str:
    """A row of the table: the case's plain form, ours, and ours in bfloat16."""
    if case.network == "sgmp_unet_small":
        (ours,) = measure(case, ["fast"], options)
        return f"| {case} | | {ours.seconds:.3f} s | | | |"
    forms = ["plain", "fast", "bf16"] if case.task == "forward" and not options.avx2 else ["plain", "fast"]
    plain, ours, *bf16 = measure(case, forms, options)
    times = f"{plain.seconds:.3f} s | {ours.seconds:.3f} s | {plain.seconds / ours.seconds:.1f}"
    half = f"{bf16[0].seconds:.3f} s " if bf16 else ""
    peak, beyond = 100 * ours.peak / plain.peak, 100 * ours.beyond / plain.beyond
    return f"| {case} | {times} | {half}| {peak:.0f} % ({beyond:.0f} %) |"


def describe_machine(threads: int) -> str:
    """The processor, what torch uses of it, and the versions, for the text beside a table."""
    import torch

    name = re.search(r"model name\s+: (.+)", Path("/proc/cpuinfo").read_text())
    capability = torch.backends.cpu.get_cpu_capability()
    versions = f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}"
    return f"{name[1] if name else 'unknown processor'}, {capability}, {threads} thread(s), {versions}"


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.networks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--avx2", action="store_true", help="limit the processor to AVX2")
    parser.add_argument("--only", default="", help="cases whose row holds this text, such as 'SGMP-UNet, training'")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        network, task, side, batch, form = options.work
        work(Case(network, task, int(side), int(batch)), form, options.threads)
        return
    os.environ.update(AVX2 if options.avx2 else {})  # of this process, and so of those that it starts
    print(describe_machine(options.threads))
    print("| what | reference | ours | speed-up | ours, bf16 | memory |")
    for case in CASES:
        if options.only in str(case):
            print(row(case, options), flush=True)


if __name__ == "__main__":
    main()
