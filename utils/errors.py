"""The error raised for user mistakes, and the wrapper that reports it without a traceback."""

import signal
import sys
from collections.abc import Callable

OUT_OF_MEMORY = (
    "out of memory; lower --batch_size, raise --accumulate (training), or use smaller frames (--size, --tile)"
)


class InputError(Exception):
    """Invalid user input; the message says what was given, what was expected and what to do.

    PyTorch re-raises the error of a DataLoader worker with its traceback as text; only the message is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rsplit(f"\n{__name__}.InputError: ", 1)[-1].rstrip())


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its return value, 2 for an `InputError` or lack of memory, 130 for Ctrl-C.

    `InputError` and lack of memory are reported in one sentence, without a traceback. SIGTERM, which `timeout` and
    batch systems send, interrupts as Ctrl-C does, so that nothing is left half written.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main() or 0)
    except (InputError, MemoryError, RuntimeError) as error:
        if not isinstance(error, InputError) and not is_out_of_memory(error):
            raise
        print(f"error: {error if isinstance(error, InputError) else OUT_OF_MEMORY}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the pipe (`| head`) has exited
        sys.stderr.close()
        sys.exit(0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy, a GPU (torch.OutOfMemoryError) or torch on the CPU ran out of memory."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator" in str(error)
