"""The latency of live frames: latency.csv, and its median and 95th percentile."""

import csv
from collections import deque
from typing import TextIO

import numpy as np

from istd.utils.files import csv_cells

LATENCY_COLUMNS = ("sequence", "frame", "latency_ms")
SUMMARISED = 100_000  # frames, the last ones, so that memory is bounded


class Latency:
    """Writes the latency of each frame, from when it was read to when its detections are known, into `table`."""

    def __init__(self, table: TextIO):
        self._csv = csv.writer(table, lineterminator="\n")
        self._csv.writerow(LATENCY_COLUMNS)
        self._last: deque[float] = deque(maxlen=SUMMARISED)

    def add(self, sequence: str, frame: str, seconds: float) -> None:
        self._csv.writerow(csv_cells([sequence, frame, f"{1000 * seconds:.1f}"]))
        self._last.append(1000 * seconds)

    def summary(self) -> str:
        """Median and 95th percentile in words."""
        median, high = np.percentile(self._last, (50, 95))
        return f"latency per frame: median {median:.1f} ms, 95th percentile {high:.1f} ms"
