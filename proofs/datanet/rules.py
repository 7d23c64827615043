"""Decides whether an entry may stand next in a datanet's log, and says what is wrong where not.

Changes nothing. Knows neither the chain of places (log.py) nor what an entry does (effects.py).
"""

from __future__ import annotations

from ..errors import DatanetError
from .entries import (
    NOTHING,
    PUBLISH,
    TRAIN,
    Charter,
    Claim,
    Contribution,
    Entry,
    Joining,
    Member,
    Verdict,
    Version,
    Withdrawal,
    commitment_of,
    digest_of,
    size_of,
)
from .invite import check_admission
from .state import State
from .version import contents

MAX_PEOPLE = 1_024
MAX_OPEN_CLAIMS = 64  # of one person
MAX_GIVEN = 16_384
MAX_ALL_DOCUMENTS = 262_144
MAX_PROPOSALS = 64


def check(state: State, entry: Entry, at: int) -> None:
    """Raise DatanetError where an entry may not stand next; the state is not changed."""
    if not isinstance(entry, Charter) and entry.datanet != state.datanet:
        raise DatanetError("datanet", "it is of another datanet", "sign it for this one")
    match entry:
        case Charter():
            _check_charter(state, entry)
        case Joining():
            _check_joining(state, entry, at)
        case Member():
            _check_member(state, entry)
        case Claim():
            _check_claim(state, entry)
        case Contribution():
            _check_contribution(state, entry)
        case Verdict():
            _check_verdict(state, entry)
        case Withdrawal():
            _check_withdrawal(state, entry)
        case Version():
            _check_version(state, entry, at)


def _check_charter(state: State, entry: Charter) -> None:
    if entry.previous != state.charter_digest:
        raise DatanetError("charter", "it replaces another charter", "replace the one in force")
    if entry.owner != state.charter.owner:
        raise DatanetError("owner", "only the owner changes the charter", "ask the owner")


def _check_joining(state: State, entry: Joining, at: int) -> None:
    known = state.people.get(entry.person)
    if known is not None:
        raise DatanetError(
            "joined" if known.role != "barred" else "barred",
            f"{known.name} is here already, as {known.role}",
            "nothing is left to do" if known.role != "barred" else "ask the owner",
        )
    if len(state.people) >= MAX_PEOPLE:
        raise DatanetError("full", f"it has {MAX_PEOPLE} people", "ask for another datanet")
    if state.charter.is_open and entry.invitation is None:
        return
    _check_invited(state, entry, at)


def _check_invited(state: State, entry: Joining, at: int) -> None:
    invitation = entry.invitation
    if invitation is None or invitation.datanet != state.datanet:
        raise DatanetError("invited", "there is no invitation to this datanet", "ask for one")
    check_admission(invitation, entry.admission, entry.person)
    if invitation.by not in state.council():
        raise DatanetError(
            "invited", "who invited is neither owner nor curator now", "ask for another invitation"
        )
    if invitation.until < at:
        raise DatanetError("invited", "the invitation has run out", "ask for another")
    if state.used.get(invitation.key, 0) >= invitation.uses:
        raise DatanetError(
            "invited", f"{invitation.uses} joined by this invitation already", "ask for another"
        )


def _check_member(state: State, entry: Member) -> None:
    _check_council(state, entry.by)
    known = state.people.get(entry.subject)
    if known is None:
        raise DatanetError("known", "nobody of that key has joined", "have them join first")
    if entry.subject == state.charter.owner:
        raise DatanetError("owner", "the owner's role stays", "name somebody else")
    if known.role == entry.role:
        raise DatanetError("role", f"{known.name} is {entry.role} already", "nothing is to do")
    if entry.by == entry.subject:
        raise DatanetError("role", "nobody decides about himself", "ask another of the council")
    if entry.at <= state.said_at.get((entry.by, entry.subject), -1):
        raise DatanetError("old", "a later word of the same voice stands", "say it anew")


def _check_council(state: State, key: bytes) -> None:
    if key not in state.council():
        raise DatanetError("role", "only the owner and curators decide here", "ask one of them")


def _check_active(state: State, key: bytes) -> None:
    known = state.people.get(key)
    if known is None:
        raise DatanetError("joined", "nobody of that key has joined", "join first")
    if known.role == "barred":
        raise DatanetError("barred", f"{known.name} is barred here", "ask the owner")


def _check_claim(state: State, entry: Claim) -> None:
    _check_active(state, entry.contributor)
    if entry.commitment in state.commitments:
        raise DatanetError("claim", "it stands in the log already", "give its text")
    if state.open_claims.get(entry.contributor, 0) >= MAX_OPEN_CLAIMS:
        raise DatanetError(
            "claim", f"{MAX_OPEN_CLAIMS} claims wait for their texts", "give those first"
        )


def _check_contribution(state: State, entry: Contribution) -> None:
    _check_active(state, entry.contributor)
    claimed = state.claims.get(entry.claim)
    if claimed is None or claimed.contributor != entry.contributor:
        raise DatanetError("claim", "nobody of that key claimed it first", "claim it, then give it")
    found = commitment_of(entry.salt, entry.contributor, entry.documents)
    if found != claimed.commitment:
        raise DatanetError("commitment", "it is not what was claimed", "give what was claimed")
    _check_terms(state, entry)
    _check_room(state, entry)


def _check_terms(state: State, entry: Contribution) -> None:
    charter = state.charter
    if entry.consent.text != digest_of(charter.consent.encode()):
        raise DatanetError("consent", "it agrees to other words", "agree to the charter's")
    if entry.consent.scope & (TRAIN | PUBLISH) != TRAIN | PUBLISH:
        raise DatanetError(
            "consent",
            "training on the text and publishing it are not both allowed: an index that shows whose"
            " words an answer drew on publishes them",
            "allow both, or keep the text",
        )
    if entry.licence not in charter.licences:
        raise DatanetError(
            "licence", f"{entry.licence} is not taken", f"use {' or '.join(charter.licences)}"
        )
    if charter.languages and entry.language not in charter.languages:
        raise DatanetError(
            "language", f"{entry.language} is not taken", f"use {' or '.join(charter.languages)}"
        )
    for number, document in enumerate(entry.documents, start=1):
        if document.size > charter.limits.max_document_bytes:
            raise DatanetError(
                "size",
                f"{document.size} bytes; the limit is {charter.limits.max_document_bytes}",
                "divide it",
                number,
            )
        if document.words < charter.limits.min_words:
            raise DatanetError(
                "words",
                f"{document.words} words; at least {charter.limits.min_words} are taken",
                "leave it out, or join it with what belongs to it",
                number,
            )


def _check_room(state: State, entry: Contribution) -> None:
    limits = state.charter.limits
    size = size_of(entry)
    if size > limits.max_contribution_bytes:
        raise DatanetError(
            "size", f"{size} bytes; the limit is {limits.max_contribution_bytes}", "divide it"
        )
    if state.held_by(entry.contributor) + size > limits.max_person_bytes:
        raise DatanetError(
            "size",
            f"one person may give {limits.max_person_bytes} bytes",
            "withdraw something first, or ask the owner",
        )
    if (
        len(state.given) >= MAX_GIVEN
        or state.num_documents + len(entry.documents) > MAX_ALL_DOCUMENTS
    ):
        raise DatanetError("full", "the datanet is full", "ask the owner for another")


def _check_verdict(state: State, entry: Verdict) -> None:
    _check_council(state, entry.by)
    given = state.given.get(entry.subject)
    proposal = state.proposals.get(entry.subject)
    if given is None and proposal is None:
        raise DatanetError(
            "known", "there is no such contribution or proposed version", "look at the queue"
        )
    if given is not None and given.withdrawn is not None:
        raise DatanetError("withdrawn", "its contributor took it back", "leave it")
    if given is not None and entry.by not in state.judges(given.contributor):
        raise DatanetError(
            "own", "nobody judges his own text where others can", "ask another of the council"
        )
    if given is not None and entry.decision != "accept" and not entry.reasons:
        raise DatanetError("reasons", f"{entry.decision} without a reason", "say why")
    voices = given.voices if given is not None else proposal.voices if proposal else {}
    if entry.at <= voices.get(entry.by, (-1, ""))[0]:
        raise DatanetError("old", "a later word of the same voice stands", "say it anew")


def _check_withdrawal(state: State, entry: Withdrawal) -> None:
    given = state.given.get(entry.contribution)
    if given is None:
        raise DatanetError("known", "there is no such contribution", "look at what you gave")
    if given.contributor != entry.by:
        raise DatanetError("own", "only who gave a text takes it back", "ask its contributor")
    if given.withdrawn is not None:
        raise DatanetError("withdrawn", "it was taken back already", "nothing is left to do")


def _check_version(state: State, entry: Version, at: int) -> None:
    _check_council(state, entry.by)
    last = state.version()
    number, previous = (last.version.number + 1, last.digest) if last else (1, NOTHING)
    if (entry.number, entry.previous) != (number, previous):
        raise DatanetError("number", f"the next version is {number}", "make it anew")
    if entry.head != state.head:
        raise DatanetError("head", "the log went on since it was made", "make it anew")
    if not state.at <= entry.created_at <= at:
        raise DatanetError(
            "time", "its time is not that of its place", "set your clock right, and make it anew"
        )
    if len(state.proposals) >= MAX_PROPOSALS:
        raise DatanetError("full", "too many versions are proposed", "sign one of them")
    found = contents(state, entry.created_at)
    said = (entry.contributions, tuple(entry.totals), entry.held_out)
    if said != (found.contributions, found.totals, found.held_out):
        raise DatanetError("totals", "it is not what the log gives", "make it anew")
