"""Changes a datanet's state by an entry that may stand next: roles, voices and what they decide.

Checks nothing: rules.py did.
"""

from __future__ import annotations

from collections.abc import Iterable

from .entries import (
    Charter,
    Claim,
    Contribution,
    Decision,
    Entry,
    Joining,
    Member,
    Registration,
    Role,
    Verdict,
    Version,
    Withdrawal,
)
from .state import Claimed, Given, Person, Proposal, Signed, State, Status, new_given

ROLES: tuple[Role, ...] = ("member", "curator", "barred")
STATUS: dict[Decision, Status] = {"accept": "accepted", "refuse": "refused", "hold": "waiting"}


def take(state: State, entry: Entry, placed: Registration, registration: bytes) -> None:
    """Change the state by an entry that may stand next; fails at nothing. `registration` is the
    digest of what placed it.
    """
    digest = placed.entry
    match entry:
        case Charter():
            state.charter = entry
            state.charter_digest = digest
            state.sequencers.append((placed.seq + 1, entry.sequencer))
            state.charters.append((placed.seq, digest))
            _settle(state, state.given.values())
        case Joining():
            _take_joining(state, entry, placed.seq)
        case Member():
            _take_member(state, entry)
        case Claim():
            state.add_claim(
                digest, Claimed(entry.contributor, entry.commitment, placed.seq, registration)
            )
        case Contribution():
            claimed = state.take_claim(entry.claim)
            state.add_given(new_given(digest, entry, claimed, placed.seq, placed.at))
        case Verdict():
            _take_verdict(state, entry)
        case Withdrawal():
            state.given[entry.contribution].withdrawn = placed.seq
        case Version():
            state.proposals[digest] = Proposal(entry, {entry.by: (entry.created_at, "accept")})
            _settle(state, ())


def _take_joining(state: State, entry: Joining, seq: int) -> None:
    state.people[entry.person] = Person(entry.person, entry.name, "member", seq)
    if entry.invitation is not None:
        key = entry.invitation.key
        state.used[key] = state.used.get(key, 0) + 1


def _take_member(state: State, entry: Member) -> None:
    state.said_at[entry.by, entry.subject] = entry.at
    known = state.people[entry.subject]
    for role in ROLES:  # a voice has one opinion
        state.appointments.get((entry.subject, role), set()).discard(entry.by)
    voices = state.appointments.setdefault((entry.subject, entry.role), set())
    voices.add(entry.by)
    judges = state.council() - {entry.subject}
    is_about_council = "curator" in (known.role, entry.role)
    needed = state.needed_for_council(judges) if is_about_council else state.needed(judges)
    if entry.by == state.charter.owner or len(voices & judges) >= needed:
        known.role = entry.role
        for role in ROLES:
            state.appointments.pop((entry.subject, role), None)
        _settle(state, state.given.values())


def _take_verdict(state: State, entry: Verdict) -> None:
    said = (entry.at, entry.decision)
    given = state.given.get(entry.subject)
    if given is not None:
        given.voices[entry.by] = said
        _settle(state, (given,))
    else:
        state.proposals[entry.subject].voices[entry.by] = said
        _settle(state, ())


def _settle(state: State, judged: Iterable[Given]) -> None:
    """Decide what can be decided now: a council that became smaller needs fewer voices."""
    for given in judged:
        if given.voices and given.withdrawn is None:
            judges = state.judges(given.contributor)
            decision = _decide(state, given.voices, judges)
            if decision is not None and given.status != STATUS[decision]:
                given.status = STATUS[decision]
                given.decided.append((state.seq + 1, given.status))
    council = state.council()
    for digest, proposal in list(state.proposals.items()):
        if _decide(state, proposal.voices, council) == "accept":
            state.versions.append(Signed(digest, proposal.version, state.seq + 1))
            state.proposals.clear()
            return


def _decide(
    state: State, voices: dict[bytes, tuple[int, Decision]], judges: set[bytes]
) -> Decision | None:
    """Return what enough voices say, and more than say anything else; None lets stand what is."""
    said = [decision for key, (_, decision) in voices.items() if key in judges]
    counts = sorted(((said.count(decision), decision) for decision in STATUS), reverse=True)
    if counts[0][0] >= state.needed(judges) and counts[0][0] > counts[1][0]:
        return counts[0][1]
    return None
