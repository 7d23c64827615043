"""The note that a running daemon leaves in its home: where it serves, and which process it is.

Starts and stops nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

RUNNING_FILE = "daemon.json"


class Running(msgspec.Struct, frozen=True):
    """What a daemon writes to <home>/daemon.json while it serves: where, and which process."""

    pid: int
    http: str
    p2p: list[str]
    peer_id: str


def read_running(home: Path) -> Running | None:
    """Where the daemon of that home serves, None when none says so."""
    try:
        return msgspec.json.decode((home / RUNNING_FILE).read_bytes(), type=Running)
    except (OSError, msgspec.DecodeError):
        return None
