"""Decides which adapters sit in a step, and which give way. The gate moves the bytes.

A *seat* is one of the slots, held for running sequences. With more adapters than slots the seats go
round: an adapter that has had one for `seat_steps` steps gives way to the adapter that has been
without for longest, so nobody waits for another's last token. For a first token, any adapter that
has produced its own first token gives way at once. Where bytes take time to arrive in a slot, the
seat's time begins when they have.

Does not know sequences, pages or priorities.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

MAX_REMEMBERED = 4096
"""Adapters whose time of leaving is remembered; older ones count as never seated."""


class SeatGate(Protocol):
    """What the seats need to ask about adapters."""

    def prepare(self, adapter: bytes) -> bool:
        """Return whether its bytes are in memory; if not, begin to bring them."""

    def try_pin(self, adapter: bytes) -> bool:
        """Give a prepared adapter a slot, if one can be had; return whether it could."""

    def unpin(self, adapter: bytes) -> None:
        """Let its slot go to another."""

    def is_ready(self, adapter: bytes) -> bool:
        """Return whether its bytes are in the slot."""


class Seats:
    """Hands out seats: call `take` once a step and `leave_all_but` after it. Times are step
    numbers.
    """

    def __init__(self, gate: SeatGate, seat_steps: int) -> None:
        self._gate = gate
        self._seat_steps = seat_steps
        self._since: dict[bytes, int] = {}
        self._arriving: set[bytes] = set()
        self._last_seated: dict[bytes, int] = {}

    @property
    def has_arriving(self) -> bool:
        """Return whether an adapter's bytes are still on their way, so that the next step may seat
        more.
        """
        return bool(self._arriving)

    def may_run(self, adapter: bytes | None) -> bool:
        """Return whether an adapter is seated and its bytes are there; the bare base needs no
        seat.
        """
        return adapter is None or (adapter in self._since and self._gate.is_ready(adapter))

    def take(self, wanted: AbstractSet[bytes], new: AbstractSet[bytes], step: int) -> None:
        """Seat as many of `wanted` as possible; `new` are those that wait for a first token."""
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
                # It needs more bytes than one seat gave up: those behind it must not take that back
                # before the next step gives up another.
                return
            self._since[adapter] = step
            if not self._gate.is_ready(adapter):
                self._arriving.add(adapter)

    def leave_all_but(self, wanted: AbstractSet[bytes | None], step: int) -> None:
        """Free the seats of all adapters that are no longer wanted."""
        for adapter in [each for each in self._since if each not in wanted]:
            self._leave(adapter, step)

    def check(self, running: AbstractSet[bytes | None]) -> None:
        """Assert that only running adapters have seats, and that those whose bytes arrive have
        one.
        """
        assert set(self._since) <= running, "a seat is held for nobody"
        assert self._arriving <= set(self._since), "one arrives without a seat"

    def _settle_arrived(self, step: int) -> None:
        for adapter in [each for each in self._arriving if self._gate.is_ready(each)]:
            self._arriving.remove(adapter)
            self._since[adapter] = step

    def _take_over(self, adapter: bytes, new: AbstractSet[bytes], step: int) -> bool:
        """Seat `adapter` in place of the one that has sat longest; return whether it could.

        For a first token, any adapter that has had its own first token and has sat for a step gives
        way.
        """
        least = 1 if adapter in new else self._seat_steps
        giving = [
            (since, seated)
            for seated, since in self._since.items()
            # one whose bytes still arrive has not had its turn: the copy would be in vain
            if step - since >= least
            and seated not in self._arriving
            # two that both wait for their first token would only take the seat from each other
            and not (least == 1 and seated in new)
        ]
        if not giving:
            return False
        # Only one leaves in a step: if its bytes are not enough, the next step takes another's.
        self._leave(min(giving)[1], step)
        return self._gate.try_pin(adapter)

    def _leave(self, adapter: bytes, step: int) -> None:
        del self._since[adapter]
        self._arriving.discard(adapter)
        # removed before it is added, so that the dictionary is ordered by leaving, oldest first
        self._last_seated.pop(adapter, None)
        self._last_seated[adapter] = step
        if len(self._last_seated) > MAX_REMEMBERED:
            del self._last_seated[next(iter(self._last_seated))]
        self._gate.unpin(adapter)
