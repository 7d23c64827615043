"""Who sits in a step, and who gives way; a gate in memory."""

from __future__ import annotations

from engine.seats import Seats
from engine.shares import Shares

A, B, C = b"a", b"b", b"c"


class Gate:
    """So many slots; `late` ones need time to arrive."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.pinned: set[bytes] = set()
        self.late: set[bytes] = set()

    def prepare(self, adapter: bytes) -> bool:
        return True

    def try_pin(self, adapter: bytes) -> bool:
        if len(self.pinned) >= self.num_slots:
            return False
        self.pinned.add(adapter)
        return True

    def unpin(self, adapter: bytes) -> None:
        self.pinned.remove(adapter)

    def is_ready(self, adapter: bytes) -> bool:
        return adapter in self.pinned and adapter not in self.late


def test_the_one_that_has_sat_for_its_steps_gives_way() -> None:
    gate = Gate(1)
    seats = Seats(gate, seat_steps=3)
    seats.take({A}, set(), 1)
    seats.take({A, B}, set(), 3)
    assert seats.may_run(A)
    seats.take({A, B}, set(), 4)
    assert seats.may_run(B)
    assert not seats.may_run(A)
    seats.check({A, B})


def test_for_a_first_token_anybody_gives_way_who_has_had_its_own() -> None:
    gate = Gate(1)
    seats = Seats(gate, seat_steps=100)
    seats.take({A}, {A}, 1)
    seats.take({A, B}, {A, B}, 2)
    assert seats.may_run(A), "it waits for its first token as well"
    seats.take({A, B}, {B}, 3)
    assert seats.may_run(B)


def test_one_whose_bytes_arrive_keeps_its_seat_and_its_time_begins_then() -> None:
    gate = Gate(1)
    gate.late.add(A)
    seats = Seats(gate, seat_steps=2)
    seats.take({A}, set(), 1)
    assert seats.has_arriving
    seats.take({A, B}, set(), 9)
    assert A in gate.pinned
    gate.late.clear()
    seats.take({A, B}, set(), 10)
    assert seats.may_run(A)
    seats.take({A, B}, set(), 12)
    assert seats.may_run(B)


def test_the_base_needs_no_seat_and_who_ends_leaves_one() -> None:
    gate = Gate(1)
    seats = Seats(gate, seat_steps=2)
    assert seats.may_run(None)
    seats.take({A}, set(), 1)
    seats.leave_all_but({None}, 1)
    assert not gate.pinned


def test_one_that_joins_begins_with_the_least_share() -> None:
    shares = Shares(lambda: {A, B})
    shares.count(A, 10)
    shares.count(B, 1)
    assert shares.of(B) == 11
    assert shares.of(C) == 0
