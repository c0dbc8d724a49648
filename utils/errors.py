"""One kind of error for a user's mistake, and the wrapper that shows it without a traceback."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave is wrong; the message names it, says what was expected and what to do.

    PyTorch builds an error of a DataLoader's worker anew, from the text of its traceback; only the message is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rsplit(f"\n{__name__}.InputError: ", 1)[-1].rstrip())


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit: its return value, 130 for Ctrl-C, 2 for an `InputError` or too little memory.

    Either of the last two is told in one line.
    """
    try:
        sys.exit(main() or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(
            "error: there is too little memory; lower --batch_size, raise --accumulate (training), or work on smaller "
            "frames (--size, --tile)",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe (`| head`) has left; nobody is there to be told
        sys.stderr.close()
        sys.exit(0)


def lacks_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's or numpy's, a GPU's (torch.OutOfMemoryError), or torch's on the processor."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
