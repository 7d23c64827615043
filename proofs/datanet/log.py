"""Folds a datanet's log into its state: which entry may stand where, and what it changes.

    registration + entry → place checked → entry checked against the state → state

The same everywhere, from the bytes alone: a log with an entry that may not stand there is no log
from there on, whoever signed it. Knows no disk, no network and no clock but the registrations'.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import DatanetError
from ..signing import Signer
from .entries import (
    FORM,
    NOTHING,
    PUBLISH,
    TRAIN,
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
    address_or_error,
    commitment_of,
    digest_of,
    parse_entry,
    parse_registration,
    registrar_of,
    sign_registration,
    size_of,
)
from .invite import check_admission
from .state import Claimed, Given, Person, Proposal, Signed, State, Status, new_given
from .version import contents

MAX_PEOPLE = 1_024
MAX_OPEN_CLAIMS = 64  # of one person
MAX_GIVEN = 16_384
MAX_ALL_DOCUMENTS = 262_144
MAX_PROPOSALS = 64

ROLES: tuple[Role, ...] = ("member", "curator", "barred")
STATUS: dict[Decision, Status] = {"accept": "accepted", "refuse": "refused", "hold": "waiting"}


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
    _take(state, entry, placed, digest_of(row[0]))
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


# --- whether an entry may stand next ---


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


# --- what an entry changes ---


def _take(state: State, entry: Entry, placed: Registration, registration: bytes) -> None:
    digest = placed.entry
    match entry:
        case Charter():
            state.charter = entry
            state.charter_digest = digest
            state.sequencers.append((placed.seq + 1, entry.sequencer))
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
            if decision is not None:
                given.status = STATUS[decision]
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


__all__ = ["apply", "begin", "check", "check_fork", "check_row", "fold", "register", "take_row"]
