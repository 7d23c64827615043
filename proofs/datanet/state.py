"""What a datanet's log says so far: its people, what they gave, what was decided. Holds; log.py
decides what may change it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from .entries import Charter, Contribution, Decision, Role, Version

Status = Literal["waiting", "accepted", "refused"]


@dataclass
class Person:
    """Somebody who joined. The owner's role is kept apart, in the charter."""

    key: bytes
    name: str
    role: Role
    seq: int


@dataclass(frozen=True)
class Claimed:
    """A claim whose text nobody has seen yet. `registration` is the digest of what placed it."""

    contributor: bytes
    commitment: bytes
    seq: int
    registration: bytes


@dataclass
class Given:
    """A contribution. First is whose claim came first: `claimed.seq` orders, `seq` does not."""

    digest: bytes
    contributor: bytes
    pay_to: bytes
    title: str
    seq: int
    at: int
    claimed: Claimed
    size: int
    words: int
    until: int
    digests: bytes
    """Its documents' digests, one after the other."""
    sizes: array[int]
    word_counts: array[int]
    report: bytes
    status: Status = "waiting"
    voices: dict[bytes, tuple[int, Decision]] = field(default_factory=dict)
    withdrawn: int | None = None
    """The place in the log at which it was taken back."""
    decided: list[tuple[int, Status]] = field(default_factory=list)
    """At which places its status changed, and to what."""

    @property
    def num_documents(self) -> int:
        """Return how many documents it has."""
        return len(self.sizes)

    def digest_at(self, number: int) -> bytes:
        """Return the digest of a document, counted from 0."""
        return self.digests[32 * number : 32 * number + 32]

    @property
    def is_upheld(self) -> bool:
        """Return whether it is neither refused nor taken back, be it accepted yet or not."""
        return self.withdrawn is None and self.status != "refused"

    def was_upheld(self, seq: int) -> bool:
        """Return whether it was given before a place of the log and upheld there."""
        was_withdrawn = self.withdrawn is not None and self.withdrawn < seq
        said = [status for place, status in self.decided if place < seq]
        return self.seq < seq and not was_withdrawn and said[-1:] != ["refused"]

    def is_live(self, at: int) -> bool:
        """Return whether a version made at that time (Unix s) has it."""
        is_lent = self.until == 0 or self.until > at
        return self.status == "accepted" and self.withdrawn is None and is_lent


@dataclass
class Proposal:
    """A version that too few have signed yet."""

    version: Version
    voices: dict[bytes, tuple[int, Decision]]


@dataclass(frozen=True)
class Signed:
    """A version that counts, and where."""

    digest: bytes
    version: Version
    seq: int


@dataclass
class State:
    """All of it after the registration `seq`, whose digest is `head` and whose time `at`."""

    datanet: bytes
    charter: Charter
    charter_digest: bytes
    head: bytes
    seq: int = 0
    at: int = 0
    people: dict[bytes, Person] = field(default_factory=dict)
    claims: dict[bytes, Claimed] = field(default_factory=dict)
    given: dict[bytes, Given] = field(default_factory=dict)
    versions: list[Signed] = field(default_factory=list)
    proposals: dict[bytes, Proposal] = field(default_factory=dict)
    appointments: dict[tuple[bytes, Role], set[bytes]] = field(default_factory=dict)
    said_at: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    """When somebody of the council said last what somebody's role is."""
    used: dict[bytes, int] = field(default_factory=dict)
    """How many joined by an invitation's key."""
    sequencers: list[tuple[int, bytes]] = field(default_factory=list)
    """Who places entries, from which place on."""
    charters: list[tuple[int, bytes]] = field(default_factory=list)
    """The places and digests of all charters."""
    commitments: set[bytes] = field(default_factory=set)
    open_claims: Counter[bytes] = field(default_factory=Counter)
    given_by: dict[bytes, list[Given]] = field(default_factory=dict)
    num_documents: int = 0

    # --- who may decide ---

    def council(self) -> set[bytes]:
        """Return who decides: the owner and the curators."""
        curators = {key for key, one in self.people.items() if one.role == "curator"}
        return curators | {self.charter.owner}

    def judges(self, own: bytes) -> set[bytes]:
        """Return who decides on what `own` gave: the others of the council, or, where there is
        nobody else, itself.
        """
        council = self.council()
        return council - {own} or council

    def needed(self, judges: Iterable[bytes]) -> int:
        """Return how many of these must agree: the quorum, or all where they are fewer. So who is
        taken off the council is not waited for.
        """
        return min(self.charter.quorum, len(set(judges)))

    def needed_for_council(self, judges: Iterable[bytes]) -> int:
        """Return how many must agree on who is on the council: more than half, and the quorum."""
        judges = set(judges)
        return max(self.needed(judges), len(judges) // 2 + 1)

    def charter_at(self, seq: int) -> bytes:
        """Return the digest of the charter that was in force before a place after the first."""
        return [digest for place, digest in self.charters if place < seq][-1]

    # --- what is there ---

    def in_log_order(self) -> list[Given]:
        """List contributions by their claims' places: who claimed first was first."""
        return sorted(self.given.values(), key=lambda one: one.claimed.seq)

    def held_by(self, person: bytes) -> int:
        """Count the bytes that somebody has given, without what was refused or withdrawn."""
        return sum(one.size for one in self.given_by.get(person, ()) if one.is_upheld)

    # --- what was claimed and given ---

    def add_claim(self, digest: bytes, claimed: Claimed) -> None:
        """Note a claim."""
        self.claims[digest] = claimed
        self.commitments.add(claimed.commitment)
        self.open_claims[claimed.contributor] += 1

    def take_claim(self, digest: bytes) -> Claimed:
        """Return a claim whose text is shown now."""
        claimed = self.claims.pop(digest)
        self.open_claims[claimed.contributor] -= 1
        return claimed

    def add_given(self, given: Given) -> None:
        """Note a contribution."""
        self.given[given.digest] = given
        self.given_by.setdefault(given.contributor, []).append(given)
        self.num_documents += given.num_documents

    def version(self, number: int | None = None) -> Signed | None:
        """Return a version that counts, the last if no number is said."""
        if number is None:
            return self.versions[-1] if self.versions else None
        return self.versions[number - 1] if 0 < number <= len(self.versions) else None


def new_given(digest: bytes, entry: Contribution, claimed: Claimed, seq: int, at: int) -> Given:
    """Return what is kept in memory of a contribution: about 44 bytes a document."""
    return Given(
        digest,
        entry.contributor,
        entry.pay_to,
        entry.title,
        seq,
        at=at,
        claimed=claimed,
        size=sum(document.size for document in entry.documents),
        words=sum(document.words for document in entry.documents),
        until=entry.consent.until,
        digests=b"".join(document.digest for document in entry.documents),
        sizes=array("I", (document.size for document in entry.documents)),
        word_counts=array("I", (document.words for document in entry.documents)),
        report=entry.report[0],
    )
