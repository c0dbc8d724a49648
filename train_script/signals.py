"""The signals that stop a run once everything is saved, and its exit status after them."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 3  # signals after which Ctrl-C ends the program at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUE = 75  # EX_TEMPFAIL of sysexits.h


class Interrupted(Exception):
    """The run was asked to stop, by the signal whose number is its argument."""


class StopSignal:
    """Remembers that a signal came."""

    signum = count = 0

    def note(self, signum: int, _frame: object) -> None:
        """Signal handler."""
        self.signum = signum
        self.count += 1
        if self.count >= PATIENCE:
            raise KeyboardInterrupt


@contextmanager
def caught_signals() -> Iterator[StopSignal]:
    """Within, SIGNALS only mark the yielded `StopSignal`, on which the run acts at the next safe place."""
    stop = StopSignal()
    before = {number: signal.signal(number, stop.note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals(_worker: int) -> None:
    """In a loading process, leave the signals, which schedulers send to all processes, to the process that trains.

    That process finishes its step and saves, for which it needs the data; then `loading.stop_loading` ends this one.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_status(signum: int) -> int:
    """The status of a run that saved and ended at a signal: 130 for Ctrl-C, 143 for SIGTERM, REQUEUE for SIGUSR1.

    Schedulers announce a preemption by SIGUSR1, if told to (`sbatch --signal=B:USR1@120`), and can put jobs that end
    with a certain status back into the queue (LSF's REQUEUE_EXIT_VALUES, HTCondor's on_exit_remove; under Slurm the
    job's script calls `scontrol requeue`). With `--resume auto` the run then continues where it was.
    """
    return REQUEUE if signum == signal.SIGUSR1 else 128 + signum
