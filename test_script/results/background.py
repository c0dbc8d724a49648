"""Work on a second thread, in order: the network runs on while results are scored and written."""

import queue
import threading
from collections.abc import Callable
from typing import Any

QUEUE_LENGTH = 32  # calls that may wait; a full queue holds the caller up, which bounds the memory


class BackgroundWriter:
    """Runs submitted calls one after another on a thread.

    Use it in a `with` block, whose end waits for everything submitted. The first error of a call is raised again in the
    caller, by the next `submit` or at the end; calls after it are dropped.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue = queue.Queue(QUEUE_LENGTH)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Queue `function(*arguments)`; waits while the queue is full."""
        self._raise_error()
        self._queue.put((function, arguments))

    def __enter__(self) -> "BackgroundWriter":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise_error()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            if self._error is None:
                try:
                    call[0](*call[1])
                except BaseException as error:  # it is raised in the caller's thread
                    self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
