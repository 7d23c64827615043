"""Files that are whole or not there: what was kept survives a kill at any moment.

A file is written beside its name, flushed to the disk, and renamed. Who finds the name finds all of
it.
"""

from __future__ import annotations

import fcntl
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import Busy

UNFINISHED = ".unfinished"
LOCK_TRIES = 5
LOCK_WAIT_S = 0.1


def keep(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it is there wholly or not at all, also after a power cut."""
    unfinished = path.with_name(path.name + UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def keep_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Keep an array in numpy's own format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    keep(path, buffer.getbuffer())


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock file while the block runs; the system lets go of it when the process dies.

    Raises Busy if another process holds it for longer than who only looks whether it is held.
    """
    with path.open("a") as file:
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if not tries_left:
                    raise Busy(
                        f"another process works on {path.parent}; wait for it, or end it, and start"
                        " again"
                    ) from error
                time.sleep(LOCK_WAIT_S)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
