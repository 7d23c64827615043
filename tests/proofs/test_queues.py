"""Who waits, who gives way and who comes next: nobody is kept out, and nobody is served before
those who came first in the same channel.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs import waiting
from proofs.fair import FairQueue, Pledge
from proofs.waiting import WAITING_S, Waiter, WaitingRoom


@dataclass(frozen=True)
class Letter:
    """As much of an envelope as a queue looks at."""

    payer: bytes
    place: tuple[bytes, int]


def letter(payer: int, channel: int, sequence: int) -> Any:
    return Letter(bytes([payer]), (bytes([payer, channel]), sequence))


arrivals = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 100)), max_size=60
)
uncovered = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=4)


def queue_of(given_arrivals: list[tuple[int, int, int]]) -> tuple[FairQueue, list[Pledge]]:
    """Each channel's receipts in a row; the third number is by when."""
    queue = FairQueue()
    reached: Counter[tuple[int, int]] = Counter()
    pledges = []
    for payer, channel, deadline in given_arrivals:
        reached[payer, channel] += 1
        pledges.append(Pledge(letter(payer, channel, reached[payer, channel]), deadline))
        queue.append(pledges[-1])
    return queue, pledges


@given(arrivals, st.integers(0, 40), st.integers(0, 100), uncovered)
def test_a_choice_is_as_large_as_it_can_be_fair_and_without_gaps(
    given_arrivals: list[tuple[int, int, int]],
    limit: int,
    urgent_until: int,
    without: set[tuple[int, int]],
) -> None:
    queue, pledges = queue_of(given_arrivals)
    closed = {bytes(pair) for pair in without}
    chosen = queue.choose(
        limit, urgent_until, lambda pledge: pledge.envelope.place[0] not in closed
    )
    open_ones = [pledge for pledge in pledges if pledge.envelope.place[0] not in closed]
    assert len(chosen) == min(limit, len(open_ones))
    assert set(map(id, chosen)) <= set(map(id, open_ones))
    for channel in {pledge.envelope.place[0] for pledge in chosen}:
        sequences = [
            pledge.envelope.place[1] for pledge in chosen if pledge.envelope.place[0] == channel
        ]
        assert sequences == list(range(1, len(sequences) + 1))
    queue.remove(chosen)
    queue.check()
    assert len(queue) == len(pledges) - len(chosen)


@given(arrivals, st.integers(0, 40))
def test_payers_get_as_many_as_each_other_while_they_have_any(
    given_arrivals: list[tuple[int, int, int]], limit: int
) -> None:
    queue, pledges = queue_of(given_arrivals)
    chosen = queue.choose(limit, -1, lambda _: True)
    served = Counter(pledge.envelope.payer for pledge in chosen)
    owned = Counter(pledge.envelope.payer for pledge in pledges)
    most = max(served.values(), default=0)
    assert all(served[payer] >= min(num, most - 1) for payer, num in owned.items())


@given(arrivals, st.integers(1, 40))
def test_what_is_urgent_goes_before_what_is_not(
    given_arrivals: list[tuple[int, int, int]], limit: int
) -> None:
    """In lines whose deadlines only grow, as those of promises do."""
    grown = [(payer, channel, n) for n, (payer, channel, _) in enumerate(given_arrivals)]
    queue, pledges = queue_of(grown)
    urgent = [pledge for pledge in pledges if pledge.deadline <= 20]
    chosen = queue.choose(limit, 20, lambda _: True)
    assert [pledge.deadline for pledge in chosen[: len(urgent)]] == [
        pledge.deadline for pledge in urgent[:limit]
    ]


def wait(room: WaitingRoom, *letters: Any, now: int = 0) -> list[bool]:
    return [room.add(Waiter(one, None, now)) for one in letters]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 3)).map(
            lambda drawn: letter(*drawn)
        ),
        max_size=80,
    )
)
def test_a_waiting_room_is_bounded_and_has_a_place_for_who_has_none(letters: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "MAX_WAITING", 8)
        patch.setattr(waiting, "MAX_WAITING_PER_PAYER", 5)
        room = WaitingRoom()
        held: dict[tuple[bytes, int], Letter] = {}
        for one in letters:
            held = {place: old for place, old in held.items() if room.find(place) is not None}
            mine = sum(old.payer == one.payer for old in held.values())
            (added,) = wait(room, one)
            room.check()
            assert added or mine, "a payer that had nothing here was refused"
            if added:
                held[one.place] = one
                found = room.find(one.place)
                assert found is not None
                assert found.envelope is one


def test_who_waits_too_long_is_forgotten_and_who_comes_again_keeps_its_time() -> None:
    room = WaitingRoom()
    first = letter(1, 1, 2)
    later = letter(1, 1, 3)
    assert wait(room, first) == [True]
    assert wait(room, later, now=WAITING_S - 1) == [True]
    assert room.find(first.place) is not None
    assert wait(room, letter(2, 1, 2), now=WAITING_S) == [True]
    assert room.find(first.place) is None
    assert room.find(later.place) is not None
    room.remove(later.place)
    room.remove(later.place)
    room.check()
