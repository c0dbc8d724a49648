"""What importing `utils` sets for the process."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from istd import utils

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_tensor():
    """A tensor of 64 MB has 16384 pages, which would be mapped and zeroed again for the next one.

    Each is a little smaller than the one before, since glibc before 2.38 asks for room to align a tensor in.
    """
    faults = []
    for megabytes in (64, 62, 60):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(megabytes << 18)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults[1:]) < 1000


@pytest.mark.parametrize(("largest", "kept"), [(1 << 31, 1 << 30), (1 << 25, 1 << 25)], ids=["now", "glibc 2.34"])
def test_the_threshold_is_the_largest_that_glibc_takes(largest, kept):
    taken = {}

    def mallopt(option, value):
        return int(option != utils.M_MMAP_THRESHOLD or value <= largest) and not taken.update({option: value})

    utils.keep_freed_memory(SimpleNamespace(mallopt=mallopt))
    assert taken == {utils.M_MMAP_THRESHOLD: kept, utils.M_TRIM_THRESHOLD: (1 << 31) - 1}
    utils.keep_freed_memory(SimpleNamespace())  # another C library


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(given, expected):
    utils.limit_spinning(given)
    assert given == expected


def test_openmp_reads_how_threads_wait():
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    code = "import istd.models, os; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    environment |= {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "passive 1000\n"
    shown = [line.split("=")[1].strip(" '") for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert set(shown) <= {"1000"}  # of GNU's OpenMP, if that is what torch uses
