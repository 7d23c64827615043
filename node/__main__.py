"""Makes `python -m node` the `lorikeet` command. Decides nothing but how it ends early."""

from __future__ import annotations

import os
import signal
from types import FrameType

FIRST_PROCESS = 1


def main() -> None:
    """Run the command. As the first process of a container, which no signal ends that it does not
    ask for, it asks for SIGTERM before it imports anything that takes long.
    """
    if os.getpid() == FIRST_PROCESS:
        signal.signal(signal.SIGTERM, end)
    from .cli.app import main as run

    run()


def end(number: int, _: FrameType | None) -> None:
    """End as a shell tells of a signal; a daemon that runs has a way of its own."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
