"""Remembers responses in memory, so that a later request can go on from one by its id.

Bounded in number and in bytes; whom nobody asked for longest is forgotten first. A restart forgets
all. Knows no socket and no daemon.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ...api.answers import ChatMessage
from ..fields import BadField

MAX_RESPONSES = 4096
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Kept:
    """A response, the input that it answered, and all turns up to and with it."""

    response: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    turns: tuple[ChatMessage, ...]

    @property
    def size_bytes(self) -> int:
        """Return about how much memory it takes."""
        return len(msgspec.json.encode((self.response, self.items, self.turns)))


class ResponseStore:
    """What was answered lately, by response and by item."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()
        self._items: dict[str, Mapping[str, Any]] = {}
        self._bytes = 0

    def keep(self, kept: Kept) -> None:
        """Remember a response, and forget the oldest ones where there is no room."""
        size_bytes = kept.size_bytes
        if size_bytes > self._max_bytes:
            return
        self._kept[kept.response["id"]] = (kept, size_bytes)
        self._bytes += size_bytes
        self._items |= {item["id"]: item for item in kept.response["output"]}
        while len(self._kept) > self._max_responses or self._bytes > self._max_bytes:
            self.forget(next(iter(self._kept)))

    def find(self, response_id: str) -> Kept | None:
        """Return a response that is remembered."""
        if response_id not in self._kept:
            return None
        self._kept.move_to_end(response_id)
        return self._kept[response_id][0]

    def forget(self, response_id: str) -> bool:
        """Forget a response; say whether it was there."""
        found = self._kept.pop(response_id, None)
        if found is None:
            return False
        kept, size_bytes = found
        self._bytes -= size_bytes
        for item in kept.response["output"]:
            self._items.pop(item["id"], None)
        return True

    def conversation(self, response_id: str) -> tuple[ChatMessage, ...]:
        """Return all turns up to and with a response. Raises BadField."""
        found = self.find(response_id)
        if found is None:
            raise BadField("previous_response_id", lost(f"response {response_id!r}"))
        return found.turns

    def item(self, item_id: str) -> Mapping[str, Any]:
        """Return an item that a response gave. Raises BadField."""
        if item_id not in self._items:
            raise BadField("input", lost(f"item {item_id!r}"))
        return self._items[item_id]

    def check(self) -> None:
        """Its sums and its items are those of what is kept, and within their bounds."""
        assert self._bytes == sum(size_bytes for _, size_bytes in self._kept.values())
        assert self._bytes <= self._max_bytes
        assert len(self._kept) <= self._max_responses
        kept = [item["id"] for one, _ in self._kept.values() for item in one.response["output"]]
        assert set(kept) == self._items.keys()


def lost(what: str) -> str:
    """Say that something is not remembered, and what to do."""
    return (
        f"{what} is not remembered here: it was never stored, was deleted, made room for newer"
        " ones, or was forgotten in a restart; send the whole conversation as input"
    )
