"""Provenance of a result: the command line, the code's commit, the versions, and the machine."""

import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from istd.utils.names import public_address

ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Command line, commit, versions of this package, Python and torch, and the machine, for a results file."""
    import torch  # imported here, since not every command that shows a commit needs it

    return {
        "command": shlex.join(map(public_address, sys.orig_argv)),
        "commit": commit(ROOT),
        "version": package_version(ROOT),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.node(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def commit(root: Path) -> str | None:
    """The commit of the code in `root`, with "-dirty" where tracked files were changed since; None outside of git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_version(root: Path) -> str | None:
    """The version in the pyproject.toml of the checkout that runs."""
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return match and match[1]


def processor() -> str:
    """The processor's name on Linux, its architecture elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()
