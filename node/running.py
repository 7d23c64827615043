"""Keeps the note that a running daemon leaves in its home: where it serves, and its process id.

Starts and stops nothing; does not know whether that process still runs.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

RUNNING_FILE = "daemon.json"


class Running(msgspec.Struct, frozen=True):
    """The contents of <home>/daemon.json while a daemon serves: its addresses and its process."""

    pid: int
    http: str
    p2p: list[str]
    peer_id: str


def read_running(home: Path) -> Running | None:
    """Return where the daemon of that home serves, or None when there is no note."""
    try:
        return msgspec.json.decode((home / RUNNING_FILE).read_bytes(), type=Running)
    except (OSError, msgspec.DecodeError):
        return None
