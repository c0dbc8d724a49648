"""A progress bar on a terminal, and a line now and then anywhere else."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from istd.utils.names import counted

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts items of `title`; `total` may be unknown (None)."""

    def __init__(self, total: int | None, title: str, unit: str):
        self._total, self._title, self._unit = total, title, unit
        self._count, self._start = 0, time.monotonic()
        self._last = self._start
        self._bar = tqdm(total=total, desc=title, unit=unit) if sys.stderr.isatty() else None

    def update(self) -> None:
        """Count an item."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            rate = self._count / (self._last - self._start)
            total = f"{self._count} of " if self._total is not None else ""
            items = counted(self._count if self._total is None else self._total, self._unit)
            print(f"{self._title}: {total}{items}, {rate:.1f} per second", file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
