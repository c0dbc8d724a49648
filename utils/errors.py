"""The error raised for user mistakes, and the wrapper that reports it without a traceback."""

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from istd.utils.names import printable

MEMORY_ADVICE = "give it smaller inputs, or a machine with more memory"  # where a command gives none
INTERRUPTED, TERMINATED, PIPE_CLOSED = (128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE))


class InputError(Exception):
    """Invalid user input; the message says what came, what was expected and what to do.

    PyTorch re-raises the error of a DataLoader worker with its traceback as text; only the message is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rsplit(f"\n{__name__}.InputError: ", 1)[-1].rstrip())


class Terminated(KeyboardInterrupt):
    """SIGTERM, which `timeout` and batch systems send; it interrupts as Ctrl-C does."""


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit with its return value, or 2 for an `InputError` or lack of memory.

    These are reported in one sentence, without a traceback; the advice for lack of memory is MEMORY_ADVICE of the
    module of `main`, where it has one. Interrupted, nothing is left half written; the exit status is then 130 for
    Ctrl-C, 143 for SIGTERM, and 141 where the reader of standard output (`| head`) has exited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `set_up_process` leaves it; a shell may ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _raise_terminated)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files need not be text
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        sys.stdout.flush()
        sys.exit(status)
    except (InputError, MemoryError, RuntimeError) as error:
        if not isinstance(error, InputError) and not is_out_of_memory(error):
            raise
        advice = getattr(main, "__globals__", {}).get("MEMORY_ADVICE", MEMORY_ADVICE)
        message = printable(str(error)) if isinstance(error, InputError) else f"out of memory; {advice}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except Terminated:
        print("terminated", file=sys.stderr)
        sys.exit(TERMINATED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        sys.exit(PIPE_CLOSED)


def _raise_terminated(*_: object) -> NoReturn:
    raise Terminated


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy, a GPU (torch.OutOfMemoryError) or torch on the CPU ran out of memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)
