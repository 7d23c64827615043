"""Computes what a version of a datanet holds: which documents count, whose they are, and which are
held out of training. Follows from the log alone, so nobody picks anything.

A document counts for whoever claimed it first. Of a contribution's n documents n / 10 are held out
(the fraction by lot), and where ten people or more have documents, one in ten of them is held out
whole. Lots are drawn by the digest of the claim's registration, which nobody knew when the text was
fixed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..codec import encode
from ..errors import DatanetError
from .entries import MAX_LIVE, MAX_PEOPLE, NOTHING, Total
from .state import Given, State

HELD_OUT_ONE_IN = 10
_DOMAIN = b"lorikeet held out 1\0"


@dataclass(frozen=True)
class Part:
    """What one contribution has in a version: the numbers of its documents, from 0."""

    given: Given
    documents: tuple[int, ...]
    held_out: frozenset[int]


@dataclass(frozen=True)
class Contents:
    """What a version holds, in log order."""

    parts: tuple[Part, ...]
    totals: tuple[Total, ...]
    held_out: bytes

    @property
    def contributions(self) -> list[bytes]:
        """Return the digests of its contributions."""
        return [part.given.digest for part in self.parts]


def contents(state: State, created_at: int) -> Contents:
    """Return what a version made now would hold. Raises DatanetError where it would hold nothing,
    or too much.
    """
    live = [one for one in state.in_log_order() if one.is_live(created_at)]
    return contents_of(live)


def contents_of(live: Sequence[Given]) -> Contents:
    """Return what these contributions make, given in log order. Raises DatanetError."""
    counted = _first_of_each(live)
    whole = _held_out_people(
        [one for one, documents in zip(live, counted, strict=True) if documents]
    )
    parts = tuple(
        Part(one, documents, _held_out(one, documents, is_whole=one.contributor in whole))
        for one, documents in zip(live, counted, strict=True)
    )
    totals = _totals(parts)
    if not totals:
        raise DatanetError("empty", "nothing is accepted yet", "accept a contribution first")
    if len(live) > MAX_LIVE or len(totals) > MAX_PEOPLE:
        raise DatanetError(
            "full",
            f"{len(live)} contributions of {len(totals)} people; a version has at most {MAX_LIVE}"
            f" of {MAX_PEOPLE}",
            "make another datanet",
        )
    return Contents(parts, totals, _digest_of_held_out(parts))


def standing_weights(parts: Sequence[Part]) -> list[tuple[bytes, int]]:
    """Return who is paid by what was trained on, in words, as (address, weight) in log order.

    What was withdrawn since weighs nothing: the others' parts of a whole grow.
    """
    weights: dict[bytes, int] = {}
    for part in parts:
        if part.given.withdrawn is None:
            words = sum(
                part.given.word_counts[number]
                for number in part.documents
                if number not in part.held_out
            )
            weights[part.given.pay_to] = weights.get(part.given.pay_to, 0) + words
    return [(address, weight) for address, weight in weights.items() if weight]


def parts_of(state: State, contributions: Sequence[bytes]) -> tuple[Part, ...]:
    """Return the parts of a version that counts, whatever happened to them since."""
    return contents_of([state.given[digest] for digest in contributions]).parts


def _first_of_each(live: Sequence[Given]) -> list[tuple[int, ...]]:
    seen: set[bytes] = set()
    counted = []
    for one in live:
        fresh = [n for n in range(one.num_documents) if one.digest_at(n) not in seen]
        seen.update(one.digest_at(number) for number in fresh)
        counted.append(tuple(fresh))
    return counted


def _held_out(one: Given, documents: Sequence[int], *, is_whole: bool) -> frozenset[int]:
    if is_whole:
        return frozenset(documents)
    count, left = divmod(one.num_documents, HELD_OUT_ONE_IN)
    lot = int.from_bytes(_lot(one, b"")[:8], "big")
    count += lot * HELD_OUT_ONE_IN < left << 64
    order = sorted(range(one.num_documents), key=lambda number: _lot(one, one.digest_at(number)))
    return frozenset(order[:count]) & frozenset(documents)


def _held_out_people(counted: Sequence[Given]) -> set[bytes]:
    first = {one.contributor: one for one in reversed(counted)}
    order = sorted(first, key=lambda person: _lot(first[person], person))
    return set(order[: len(order) // HELD_OUT_ONE_IN])


def _lot(one: Given, what: bytes) -> bytes:
    return hashlib.sha256(_DOMAIN + one.claimed.registration + what).digest()


def _totals(parts: Sequence[Part]) -> tuple[Total, ...]:
    rows: dict[bytes, list[Part]] = {}
    for part in parts:
        if part.documents:
            rows.setdefault(part.given.contributor, []).append(part)
    return tuple(_total(person, own) for person, own in rows.items())


def _total(person: bytes, own: Sequence[Part]) -> Total:
    counted = [(part.given, number) for part in own for number in part.documents]
    return Total(
        person,
        own[-1].given.pay_to,
        len(own),
        len(counted),
        words=sum(given.word_counts[number] for given, number in counted),
        size=sum(given.sizes[number] for given, number in counted),
        held_out=sum(len(part.held_out) for part in own),
    )


def _digest_of_held_out(parts: Sequence[Part]) -> bytes:
    listed = [
        [part.given.digest, sorted(number + 1 for number in part.held_out)]
        for part in parts
        if part.held_out
    ]
    return hashlib.sha256(encode(listed)).digest() if listed else NOTHING
