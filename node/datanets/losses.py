"""How hard the texts of a datanet are for the base, so that a council hears of text that is none.

    a few documents of a text → nats a token, by this node's engine → kept beside the text
    those of all accepted texts → their median → intake holds what is far above it

A sample of one node: for the council's eyes, and in no report, which everybody must be able to make
again.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from proofs.datanet.entries import Contribution
from proofs.datanet.state import Given

from ..catalogue.book import write_whole
from ..errors import NodeError
from .ground import Held
from .remote import cut

LOSS = "loss"
NUM_DOCUMENTS = 8  # of a text
NUM_TEXTS = 32  # whose median is asked for, the newest
LEAST_DOCUMENTS = 8  # below it nothing is said
STEP = 100  # thousandths to which the median is rounded: a new text does not move it
DEADLINE_S = 30.0

Lose = Callable[[str], Awaitable[float]]
"""Returns what the base loses of a text's beginning, in nats a token. Raises NodeError."""
Kept = tuple[bytes, dict[int, int]]


class Losses:
    """What this node's engine says of texts that are here; `base` is its digest."""

    def __init__(self, base: bytes, lose: Lose) -> None:
        self._base = base
        self._lose = lose

    async def of(self, held: Held, digest: bytes, entry: Contribution) -> list[int]:
        """Return the loss on each document, in thousandths of a nat a token; 0 where it was not
        measured. What takes too long is left for the next time.
        """
        path = held.texts.path(digest, LOSS)
        found = await trio.to_thread.run_sync(_read, path, self._base)
        wanted = [place for place in _sample(len(entry.documents)) if place not in found]
        if wanted:
            documents = cut(await trio.to_thread.run_sync(held.texts.read, digest), entry)
            with trio.move_on_after(DEADLINE_S), suppress(NodeError):
                for place in wanted:
                    found[place] = round(1000 * await self._lose(documents[place].decode()))
            with suppress(OSError):  # it is measured again
                kept = msgspec.msgpack.encode((self._base, found))
                await trio.to_thread.run_sync(write_whole, path, kept)
        return [found.get(place, 0) for place in range(len(entry.documents))]

    async def median(self, held: Held) -> int:
        """Return the median of what is accepted here, in thousandths of a nat a token; 0: too
        little of it is.
        """
        accepted = [one for one in held.state.in_log_order() if _counts(held, one)][-NUM_TEXTS:]
        losses = list[int]()
        for one in accepted:
            with suppress(OSError):  # it was withdrawn meanwhile
                losses += await self.of(held, one.digest, held.contribution(one.digest))
        measured = [loss for loss in losses if loss]
        if len(measured) < LEAST_DOCUMENTS:
            return 0
        return max(STEP * round(statistics.median(measured) / STEP), 1)


def _counts(held: Held, one: Given) -> bool:
    return one.status == "accepted" and one.withdrawn is None and held.texts.has(one.digest)


def _sample(count: int) -> Sequence[int]:
    """Return the places of a few documents, evenly over all."""
    return range(0, count, max(1, -(-count // NUM_DOCUMENTS)))


def _read(path: Path, base: bytes) -> dict[int, int]:
    """Return what is kept; nothing where another base said it, or nobody did."""
    try:
        made_by, found = msgspec.msgpack.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return {}
    return found if made_by == base else {}
