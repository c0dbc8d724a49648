"""A lock that admits a single command at a time to an output folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from istd.utils.errors import InputError
from istd.utils.ranks import is_main


@contextmanager
def locked_folder(folder: str | Path) -> Iterator[None]:
    """Hold `folder`, which is created, for this command alone; `InputError` where another command holds it.

    The operating system locks the folder itself: no file is left, and the lock ends with the process in any case. Where
    the file system has no locks, commands go unguarded. Of several processes, the main process holds the lock for all.
    """
    if not is_main():
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = f"{folder} is not a folder" if Path(folder).is_file() else error.strerror
        raise InputError(f"cannot write to {folder}: {reason}; choose another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InputError(
                    f"another command is writing to {folder}; wait until it has ended, or choose another folder"
                ) from error
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for loading processes, which share the descriptor
        os.close(descriptor)
