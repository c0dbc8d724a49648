"""One thread per test process: pytest-xdist runs as many of them as there are cores to use (see pyproject.toml)."""

import os

import cv2

from istd.utils.process import set_up_process

# Before torch is imported. Processes that tests start inherit it, so their sums have the same order, too.
os.environ["OMP_NUM_THREADS"] = "1"
set_up_process()  # as the commands do
cv2.setNumThreads(1)  # a forked process would wait for OpenCV's threads
