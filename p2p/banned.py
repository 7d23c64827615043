"""Remembers whom the operator banned, across restarts, in one small file.

Bounded, and written whole or not at all. A file that cannot be read stops the host, since a ban
that is forgotten is none. Closes no connection (the host does).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .errors import BanRefused, HostFailed
from .identity import public_key_of

MAX_BANNED = 1_000
MAX_REASON = 200  # characters
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Banned:
    """A peer with which this host has no connection, why, and since when in Unix seconds."""

    peer_id: str
    reason: str
    since: int


class BannedPeers:
    """Who is banned, the latest last. `path` None: nothing outlives the process."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._banned = {} if path is None or not path.exists() else _read(path)

    def holds(self, peer_id: str) -> bool:
        """Return whether a peer is banned."""
        return peer_id in self._banned

    def listing(self) -> list[Banned]:
        """List the bans, the latest first."""
        return list(self._banned.values())[::-1]

    def add(self, peer_id: str, reason: str, now: float) -> None:
        """Ban a peer; one that is banned keeps its first day and takes the new reason.

        Raises BanRefused, and then nothing has changed.
        """
        if len(reason) > MAX_REASON:
            raise BanRefused(f"a reason has at most {MAX_REASON} characters")
        known = self._banned.get(peer_id)
        if known is None and len(self._banned) >= MAX_BANNED:
            raise BanRefused(f"{MAX_BANNED} peers are banned, which is the most; lift one first")
        since = int(now) if known is None else known.since
        self._replace({**self._banned, peer_id: Banned(peer_id, reason, since)})

    def lift(self, peer_id: str) -> None:
        """Let a peer come back. Raises BanRefused where it is not banned, and then nothing has
        changed.
        """
        if peer_id not in self._banned:
            raise BanRefused(f"{peer_id} is not banned; `lorikeet peers banned` lists who is")
        self._replace({name: one for name, one in self._banned.items() if name != peer_id})

    def _replace(self, banned: dict[str, Banned]) -> None:
        if self._path is not None:
            draft = self._path.with_suffix(".new")
            try:
                draft.write_bytes(msgspec.json.format(msgspec.json.encode(list(banned.values()))))
                os.replace(draft, self._path)
            except OSError as error:
                raise BanRefused(f"{self._path} cannot be written: {error}") from error
        self._banned = banned


def _read(path: Path) -> dict[str, Banned]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        found = msgspec.json.decode(path.read_bytes(), type=list[Banned])
        for one in found:
            public_key_of(one.peer_id)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise HostFailed(f"{path}, which says who is banned: {error}; mend or delete it") from error
    return {one.peer_id: one for one in found[:MAX_BANNED]}
