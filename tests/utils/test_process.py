"""What commands set for their process, and imports do not."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from istd.utils import process

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
# 64 MB have 16384 pages, which by default are mapped and zeroed again for the next array. Each is a little smaller than
# the one before, since glibc before 2.38 asks for room to align memory in.
FAULTS = """
import resource
faults = []
for megabytes in (64, 62, 60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(megabytes << 20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print("memory kept" if min(faults[1:]) < 1000 else "memory mapped anew")
"""
AT_EXIT = f"""
import atexit, os, subprocess, sys
@atexit.register
def tell():
    print(*(os.environ.get(name, "unset") for name in {NAMES}))
    exec({FAULTS!r})
    sys.stdout.flush()
    subprocess.run([sys.executable, "-S", "-c", {FAULTS!r}])
"""


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run Python with a file that tells, when it ends, what holds for the process and for one that it starts."""
    (folder / "sitecustomize.py").write_text(AT_EXIT)
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment |= {"PYTHONPATH": str(folder), "OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)


def test_importing_changes_nothing_and_needs_no_matplotlib(tmp_path):
    modules = "istd, istd.models, istd.datasets, istd.test_script.predictor, istd.test_script.evaluate"
    said = run(["-c", f"import sys; sys.modules['matplotlib'] = None; import {modules}"], tmp_path).stdout
    environment, *memory = said.splitlines()
    assert environment.split() == ["unset"] * 4
    if sys.platform == "linux":
        assert memory == ["memory mapped anew"] * 2


def test_a_command_sets_up_its_process_and_those_it_starts(tmp_path):
    # a module of a package of commands that imports PyTorch, and nothing else that takes time
    done = run(["-u", "-m", "train_script.weight_average"], tmp_path)
    *_, environment, here, child = done.stdout.splitlines()
    assert environment.split()[:2] == ["passive", "1000"]
    if sys.platform == "linux":
        assert here == child == "memory kept"
    shown = [line.split("=")[1].strip(" '") for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert set(shown) <= {"1000"}  # of GNU's OpenMP, if that is what torch uses


@pytest.mark.parametrize(
    ("started", "argv", "package", "expected"),
    [
        (["python", "-m", "train_script.train", "--lr", "1"], ["-m", "--lr", "1"], "train_script", True),
        (["python", "-u", "-mtrain_script.train"], ["-m"], "train_script", True),
        (["python", "-m", "istd.train_script.train"], ["-m"], "istd.train_script", True),
        (["python", "-m", "theirs.app", "train_script.train"], ["-m", "train_script.train"], "train_script", False),
        (
            ["python", "app.py", "-m", "train_script.train"],
            ["app.py", "-m", "train_script.train"],
            "train_script",
            False,
        ),
        (["python", "-c", "import train_script"], ["-c"], "train_script", False),
    ],
)
def test_what_is_a_command(started, argv, package, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(process, "set_up_process", lambda: calls.append(True))
    monkeypatch.setattr(sys, "orig_argv", started)
    monkeypatch.setattr(sys, "argv", argv)
    process.set_up_command(package)
    assert bool(calls) is expected


@pytest.mark.parametrize("package", ["train_script", "test_script"])
def test_packages_of_commands_set_them_up_before_they_import_anything_else(package):
    lines = (ROOT / package / "__init__.py").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [
        "",
        "from istd.utils.bare_names import share_with_istd",
        "from istd.utils.process import set_up_command",
        "",
        "set_up_command(__name__)",
        "share_with_istd(__name__)",
    ]


@pytest.mark.parametrize(("largest", "kept"), [(1 << 31, 1 << 30), (1 << 25, 1 << 25)], ids=["now", "glibc 2.34"])
def test_the_threshold_is_the_largest_that_glibc_takes(largest, kept):
    taken, environment = {}, {}

    def mallopt(option, value):
        return int(option != process.M_MMAP_THRESHOLD or value <= largest) and not taken.update({option: value})

    process.keep_freed_memory(SimpleNamespace(mallopt=mallopt), environment)
    assert taken == {process.M_MMAP_THRESHOLD: kept, process.M_TRIM_THRESHOLD: (1 << 31) - 1}
    assert environment == {"MALLOC_MMAP_THRESHOLD_": str(kept), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1)}
    process.keep_freed_memory(SimpleNamespace(), environment)  # another C library


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(given, expected):
    process.limit_spinning(given)
    assert given == expected
