"""Which adapters sit in a step, and who gives way. Decides; the gate moves the bytes.

A *seat* is one of the slots, held for running sequences. With more adapters than slots the seats go
round: who has had one for `seat_steps` steps gives way to the adapter that has been without for
longest, so nobody waits for another's last token; for a first token anybody who has had its own
gives way at once. Where bytes need time to arrive in a slot, a seat's time begins when they have.
It does not know sequences, pages or priorities.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

MAX_REMEMBERED = 4096
"""Adapters of which it is known when they left their seat."""


class SeatGate(Protocol):
    """What the seats must know of adapters."""

    def prepare(self, adapter: bytes) -> bool:
        """Whether its bytes are in memory; if not, they are sent for."""

    def try_pin(self, adapter: bytes) -> bool:
        """Give a prepared adapter a slot, if one can be had."""

    def unpin(self, adapter: bytes) -> None:
        """Its slot may go to another."""

    def is_ready(self, adapter: bytes) -> bool:
        """Whether its bytes are in the slot."""


class Seats:
    """`take` once a step, `leave_all_but` after it; times are numbers of steps."""

    def __init__(self, gate: SeatGate, seat_steps: int) -> None:
        self._gate = gate
        self._seat_steps = seat_steps
        self._since: dict[bytes, int] = {}
        self._arriving: set[bytes] = set()
        self._last_seated: dict[bytes, int] = {}

    @property
    def has_arriving(self) -> bool:
        """Whether somebody's bytes are still on their way, so that the next step may seat more."""
        return bool(self._arriving)

    def may_run(self, adapter: bytes | None) -> bool:
        """Whether an adapter is seated and its bytes are there; the base alone needs no seat."""
        return adapter is None or (adapter in self._since and self._gate.is_ready(adapter))

    def take(self, wanted: AbstractSet[bytes], new: AbstractSet[bytes], step: int) -> None:
        """Seat as many of `wanted` as can be; `new` are those that wait for a first token."""
        self.leave_all_but(wanted, step)
        self._settle_arrived(step)
        standing = wanted - self._since.keys()
        if not standing:
            return
        for adapter in sorted(
            standing, key=lambda each: (each not in new, self._last_seated.get(each, 0))
        ):
            if not self._gate.prepare(adapter):
                continue
            if not self._gate.try_pin(adapter) and not self._take_over(adapter, new, step):
                # those behind it must not take back what was given up for one that needs more bytes
                # than one seat has
                return
            self._since[adapter] = step
            if not self._gate.is_ready(adapter):
                self._arriving.add(adapter)

    def leave_all_but(self, wanted: AbstractSet[bytes | None], step: int) -> None:
        """Free the seats of all that are not wanted any more."""
        for adapter in [each for each in self._since if each not in wanted]:
            self._leave(adapter, step)

    def check(self, running: AbstractSet[bytes | None]) -> None:
        """Seats are of adapters that run, and those that arrive have one."""
        assert set(self._since) <= running, "a seat is held for nobody"
        assert self._arriving <= set(self._since), "one arrives without a seat"

    def _settle_arrived(self, step: int) -> None:
        for adapter in [each for each in self._arriving if self._gate.is_ready(each)]:
            self._arriving.remove(adapter)
            self._since[adapter] = step

    def _take_over(self, adapter: bytes, new: AbstractSet[bytes], step: int) -> bool:
        """Seat `adapter` in the place of the one that has sat longest; for a first token, of any
        that has had its own and sat for a step.
        """
        least = 1 if adapter in new else self._seat_steps
        giving = [
            (since, seated)
            for seated, since in self._since.items()
            # whose bytes still arrive has not had its turn: leaving now would have copied in vain
            if step - since >= least
            and seated not in self._arriving
            # two that both wait for their first token would only take it from each other
            and not (least == 1 and seated in new)
        ]
        if not giving:
            return False
        # one leaves, and no more: if its bytes are not enough, the next step sees to another
        self._leave(min(giving)[1], step)
        return self._gate.try_pin(adapter)

    def _leave(self, adapter: bytes, step: int) -> None:
        del self._since[adapter]
        self._arriving.discard(adapter)
        # put in anew, so that the dictionary is in order of leaving and its first is the oldest
        self._last_seated.pop(adapter, None)
        self._last_seated[adapter] = step
        if len(self._last_seated) > MAX_REMEMBERED:
            del self._last_seated[next(iter(self._last_seated))]
        self._gate.unpin(adapter)
