"""One thread per test process: pytest-xdist runs as many of them as there are cores to use (see pyproject.toml)."""

import os

import cv2
import numpy as np
import pytest

from istd.utils.process import set_up_process

# Before torch is imported. Processes that tests start inherit it, so their sums have the same order, too.
os.environ["OMP_NUM_THREADS"] = "1"
set_up_process()  # as the commands do
cv2.setNumThreads(1)  # a forked process would wait for OpenCV's threads


@pytest.fixture(scope="module")
def undrawn():
    """Plots are made, but saved as a single pixel: to draw the curves takes most of the time of a small run."""

    def save(figure, path):
        assert cv2.imwrite(str(path), np.zeros((1, 1), np.uint8))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", save)
        yield
