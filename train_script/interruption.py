"""Ctrl-C and SIGTERM: noted when they come, acted on at the next place where nothing is half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 3  # signals after which Ctrl-C ends the program at once


class Interrupted(Exception):
    """The run was asked to stop; `signum` tells by which signal."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StopSignal:
    """Remembers that a signal came."""

    def __init__(self) -> None:
        self.signum = 0
        self.count = 0

    def note(self, signum: int, _frame: object) -> None:
        """Signal handler."""
        self.signum = signum
        self.count += 1
        if self.count >= PATIENCE:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come to this process."""
        if self.signum:
            raise Interrupted(self.signum)


@contextmanager
def caught_signals() -> Iterator[StopSignal]:
    """SIGINT and SIGTERM mark the yielded `StopSignal` instead of ending the process."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
