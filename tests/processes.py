"""Processes that tests start. They are forked, since a new one would import PyTorch anew, which takes seconds."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

# Where there is a GPU, PyTorch refuses gradients in forked processes.
CAN_FORK = sys.platform == "linux" and not torch.cuda.is_available()
CONTEXT = multiprocessing.get_context("fork" if CAN_FORK else "spawn")
PACKAGES = {"istd", "datasets", "models", "test_script", "train_script", "utils"}


def start(output: Path, function: Callable, *arguments: object, **environment: str) -> BaseProcess:
    """Start `function(*arguments)`, whose result is the exit status; what it prints goes to the file `output`."""
    process = CONTEXT.Process(target=_run, args=(output, function, arguments, environment))
    process.start()
    return process


def run(output: Path, function: Callable, *arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status of a process that runs `function(*arguments)`, and what it printed."""
    process = start(output, function, *arguments, **environment)
    process.join()
    return process.exitcode, output.read_text(encoding="utf-8")


def run_code(output: Path, code: str, cwd: Path, path: list[Path]) -> str:
    """What code prints that runs in a folder, with folders first on Python's path, and imports our packages anew."""
    status, said = run(output, _run_code, code, cwd, [str(folder) for folder in path])
    assert status == 0, said
    return said


def _run(output: Path, function: Callable, arguments: tuple, environment: dict[str, str]) -> None:
    file = output.open("w", buffering=1, encoding="utf-8")  # left open: Python itself tells errors there
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    sys.stdout = sys.stderr = file
    os.environ |= environment
    raise SystemExit(function(*arguments))


def _run_code(code: str, cwd: Path, path: list[str]) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "BareNames"]
    sys.path[:] = path + [entry for entry in sys.path if not Path(entry, "istd").exists()]
    os.chdir(cwd)
    exec(code, {"__name__": "__main__"})
