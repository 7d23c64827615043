"""Folds a datanet's log into its state, gives entries their places, and knows a fork.

    registration + entry → place checked → entry checked against the state → state
                           here            rules.py                          effects.py

The same everywhere, from the bytes alone: a log with an entry that may not stand there is no log
from there on, whoever signed it. Knows no disk, no network and no clock but the registrations'.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import DatanetError
from ..signing import Signer
from .effects import take
from .entries import (
    FORM,
    NOTHING,
    Charter,
    Entry,
    Registration,
    address_or_error,
    digest_of,
    parse_entry,
    parse_registration,
    registrar_of,
    sign_registration,
)
from .rules import check
from .state import Person, State


def fold(rows: Iterable[tuple[bytes, bytes]]) -> State:
    """Return the state after these registrations and entries, from the first on.

    Raises DatanetError at the first that may not stand there.
    """
    state = None
    for registration, entry in rows:
        if state is None:
            state = begin(registration, entry)
        else:
            apply(state, registration, entry)
    if state is None:
        raise DatanetError("chain", "an empty log is no datanet", "begin with a charter")
    return state


def begin(registration: bytes, charter: bytes) -> State:
    """Return the state after a log's first row. Raises DatanetError."""
    entry = parse_entry(charter)
    if not isinstance(entry, Charter) or entry.previous != NOTHING:
        raise DatanetError("chain", "a log begins with its first charter", "send that first")
    placed = parse_registration(registration)
    name = digest_of(charter)
    state = State(name, entry, name, NOTHING, seq=-1)
    state.sequencers = [(0, entry.sequencer)]
    state.charters = [(0, name)]
    _check_place(state, placed, charter, entry)
    state.people[entry.owner] = Person(entry.owner, "owner", "member", 0)
    _move(state, placed, registration)
    return state


def apply(state: State, registration: bytes, entry: bytes) -> Entry:
    """Change the state by one row. Raises DatanetError, and then the state is as it was."""
    parsed, placed = check_row(state, registration, entry)
    take_row(state, parsed, placed, (registration, entry))
    return parsed


def check_row(state: State, registration: bytes, entry: bytes) -> tuple[Entry, Registration]:
    """Read a row that may stand next. Raises DatanetError; the state is not changed."""
    parsed = parse_entry(entry)
    placed = parse_registration(registration)
    _check_place(state, placed, entry, parsed)
    check(state, parsed, placed.at)
    return parsed, placed


def take_row(state: State, entry: Entry, placed: Registration, row: tuple[bytes, bytes]) -> None:
    """Change the state by a row that `check_row` read; fails at nothing."""
    take(state, entry, placed, digest_of(row[0]))
    _move(state, placed, row[0])


def register(state: State | None, signer: Signer, entry: bytes, now: int) -> bytes:
    """Give an entry the next place: return its registration, signed by the sequencer.

    The state is not changed. Raises DatanetError for an entry that may not stand there.
    """
    parsed = parse_entry(entry)
    digest = digest_of(entry)
    if state is None:
        draft = Registration(FORM, digest, 0, NOTHING, digest, at=now, signature=bytes(65))
        return sign_registration(signer, draft)
    at = max(now, state.at)
    check(state, parsed, at)
    draft = Registration(
        FORM,
        state.datanet,
        state.seq + 1,
        state.head,
        digest,
        at=at,
        signature=bytes(65),
    )
    return sign_registration(signer, draft)


def check_fork(state: State, first: bytes, second: bytes) -> int:
    """Return the place at which these two registrations show that a sequencer signed two logs.

    Raises DatanetError where they show nothing.
    """
    one, other = parse_registration(first), parse_registration(second)
    if first == second or (one.datanet, one.seq) != (other.datanet, other.seq):
        raise DatanetError("fork", "these are not two rows for one place", "show two of one place")
    for placed in (one, other):
        in_force = [key for first, key in state.sequencers if first <= placed.seq][-1]
        keys = {in_force, state.charter.owner}
        if placed.datanet != state.datanet or not _is_placed_by(placed, keys):
            raise DatanetError(
                "fork", "a row was not signed by a sequencer of this datanet", "show two that were"
            )
    return one.seq


# --- the place ---


def _check_place(state: State, placed: Registration, data: bytes, entry: Entry) -> None:
    wanted = (state.datanet, state.seq + 1, state.head, digest_of(data))
    found = (placed.datanet, placed.seq, placed.previous, placed.entry)
    names = ("datanet", "seq", "previous", "entry")
    for name, right, wrong in zip(names, wanted, found, strict=True):
        if right != wrong:
            raise DatanetError(
                "chain",
                f"the row for place {state.seq + 1} has another {name}",
                "ask another member for the log",
            )
    if placed.at < state.at:
        raise DatanetError("chain", "its time goes back", "set the sequencer's clock right")
    # The owner may place a charter too, and so replace a sequencer that is gone.
    owner = {state.charter.owner} if isinstance(entry, Charter) else set()
    if not _is_placed_by(placed, {state.charter.sequencer} | owner):
        raise DatanetError(
            "chain", "neither the sequencer nor the owner signed its place", "ask another member"
        )


def _is_placed_by(placed: Registration, keys: set[bytes]) -> bool:
    return registrar_of(placed) in {address_or_error(key) for key in keys}


def _move(state: State, placed: Registration, registration: bytes) -> None:
    state.head = digest_of(registration)
    state.seq = placed.seq
    state.at = placed.at
