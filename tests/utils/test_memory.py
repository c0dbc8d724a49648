"""What importing `utils` sets for the process."""

import resource
import sys

import pytest
import torch

import utils  # noqa: F401


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_tensor():
    """A tensor of 64 MB has 16384 pages, which would be mapped and zeroed again."""
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults[1:]) < 1000
