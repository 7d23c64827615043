"""Processes that end with the part of a test which began them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import AnyStr


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """A process that the end of the block kills where it goes on, whatever broke in there; leaving
    a Popen waits for the process instead, which one that nobody ends any more makes endless.
    """
    with process:
        try:
            yield process
        finally:
            process.kill()
