"""In which order sequences are served, for places and for the rows of a step, and who gives way.

Changes nothing, and knows no page but that a sequence has some.

Who has waited longer than the age bound; then priority; then the adapter that has had the fewest
tokens so far (a flood for one adapter delays that adapter, not the others); then arrival.
"""

from __future__ import annotations

from collections.abc import Callable

from .sequence import Sequence

Served = Callable[[bytes | None], float]
"""How many tokens an adapter has had; None is the base alone."""


def by_claim(sequences: list[Sequence], served: Served, oldest_s: float) -> list[Sequence]:
    """Return them as they are served; first who came before `oldest_s` and has no token yet."""

    def claim(sequence: Sequence) -> tuple[bool, int, float, int]:
        old = sequence.first_token_s is None and sequence.arrived_s < oldest_s
        return (
            not old,
            0 if old else -sequence.priority,
            0.0 if old else served(sequence.adapter),
            sequence.arrival,
        )

    return sorted(sequences, key=claim)


def for_rows(able: list[Sequence], served: Served, oldest_s: float) -> list[Sequence]:
    """Return first those that decode, whose answers are half spoken, by arrival; then prompts."""
    decoding: list[Sequence] = []
    prompts: list[Sequence] = []
    for sequence in able:
        (decoding if sequence.is_decoding else prompts).append(sequence)
    decoding.sort(key=lambda sequence: sequence.arrival)
    return decoding + (by_claim(prompts, served, oldest_s) if prompts else prompts)


def first_to_give_way(running: list[Sequence]) -> Sequence:
    """Return who gives its pages up: parked before active, then the lowest priority, then the
    latest arrival. So the oldest active sequence always gets on.
    """

    def weight(sequence: Sequence) -> tuple[bool, int, int]:
        return (
            not sequence.has_credit and bool(sequence.pages),
            -sequence.priority,
            sequence.arrival,
        )

    return max((s for s in running if s.pages or s.has_credit), key=weight)
