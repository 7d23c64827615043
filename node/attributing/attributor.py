"""Computes on whose text an answer drew, for a plain adapter or a cocktail, off the event loop.

Node and client ask it alike. Decides nothing about pay: shares.py does, with what this returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from p2p.cid import Cid
from proofs.attribution.credit import Drawn, Parts, join, most_credited
from proofs.attribution.shares import AdapterTerms, terms_of
from proofs.cocktail import Cocktail
from proofs.manifest import Manifest
from proofs.receipt import BARE_BASE

from ..errors import NodeError
from ..threads import in_thread
from .indexes import Indexes
from .texts import Texts, attribution_of

DRAW_DEADLINE_S = 30.0
MAX_AT_ONCE = 2  # answers that are measured at the same time

FindAdapter = Callable[[Cid], Manifest | Cocktail | None]


class Attributor:
    """What one daemon knows of whose text answers draw on. `find` gives what an adapter is."""

    def __init__(self, indexes: Indexes, find: FindAdapter) -> None:
        self._indexes = indexes
        self._find = find
        self._limiter = trio.CapacityLimiter(MAX_AT_ONCE)

    def can_draw(self, adapter: bytes) -> bool:
        """Return whether what answers with an adapter draw on can be computed now: it has
        attribution, and the index of each of its parents that has is open.
        """
        attributed = [cid for cid, manifest in self.parents(adapter) if attribution_of(manifest)]
        return bool(attributed) and all(self._indexes.find(cid) for cid in attributed)

    def want(self, adapter: bytes) -> None:
        """Have the indexes of an adapter open soon, if it has attribution."""
        for cid, manifest in self.parents(adapter):
            if attribution_of(manifest):
                self._indexes.want(cid, manifest)

    async def draw(
        self, adapter: bytes, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> Drawn:
        """Return what an answer drew on, as its receipt says it.

        Raises NodeError where that cannot be computed, or not in time.
        """
        texts = self.texts(adapter)
        try:
            with trio.fail_after(DRAW_DEADLINE_S):
                async with self._limiter:
                    measure = partial(_draw, texts, prompt_ids, answer_ids)
                    return await in_thread(measure, deadline_s=DRAW_DEADLINE_S)
        except trio.TooSlowError as error:
            raise NodeError(
                f"what the answer drew on was not computed within {DRAW_DEADLINE_S:.0f} s"
            ) from error

    def texts(self, adapter: bytes) -> list[Texts | None]:
        """Return the open texts of each parent, None for one without attribution. Raises NodeError
        for one that has it and is not open.
        """
        found: list[Texts | None] = []
        for cid, manifest in self.parents(adapter):
            texts = self._indexes.find(cid)
            is_attributed = attribution_of(manifest) is not None
            if is_attributed and texts is None:
                raise NodeError(
                    f"the index of {manifest.name!r} ({cid}) is not open here; ask again in a while"
                )
            found.append(texts if is_attributed else None)
        return found

    def terms(self, adapter: bytes) -> AdapterTerms | None:
        """Return who shares a fee for an adapter that was met; None for the bare base."""
        found = self._find(Cid(adapter)) if adapter != BARE_BASE else None
        return None if found is None else terms_of(found)

    def parents(self, adapter: bytes) -> list[tuple[Cid, Manifest]]:
        """Return the adapters that one is made of; nothing for one that was never met."""
        found = self._find(Cid(adapter)) if adapter != BARE_BASE else None
        if found is None:
            return []
        parents = found.parents if isinstance(found, Cocktail) else found.merged_of
        if not parents:
            assert isinstance(found, Manifest), "a cocktail has parents"
            return [(Cid(adapter), found)]
        return [(Cid(one.digest), one.parsed) for one in parents]


def _draw(
    texts: Sequence[Texts | None], prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> Drawn:
    most = most_credited(sum(one is not None for one in texts))
    parts: list[Parts] = [one.draw(prompt_ids, answer_ids, most) if one else () for one in texts]
    return join(parts)
