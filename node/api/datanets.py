"""Declares what the faces may ask of a daemon about datanets, and what they get back: immutable,
made of plain values. Decides nothing.

A datanet, a contribution and a version are named by hex digests, or by as much of one as is clear;
people by peer ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta

ContributionState = Literal["waiting", "accepted", "refused", "withdrawn"]
OwnRole = Literal["owner", "curator", "member", "barred", "none"]
ABSOLUTE = r"^/[^\x00]*$"
ABSOLUTE_OR_EMPTY = r"^(/[^\x00]*)?$"
PathSaid = Annotated[str, Meta(pattern=ABSOLUTE)]
"""Where something lies on this machine, as a body says it: an absolute path, since who asks does
not know in which folder the daemon stands.
"""
PathOrNone = Annotated[str, Meta(pattern=ABSOLUTE_OR_EMPTY)]
"""The same, or the empty string where none is said."""


@dataclass(frozen=True)
class CharterSaid:
    """What a new datanet is to be. Sizes in bytes."""

    name: str
    purpose: str = ""
    consent: str = ""
    languages: tuple[str, ...] = ()
    licences: tuple[str, ...] = ("CC0-1.0",)
    quorum: int = 1
    is_open: bool = False
    base: str = ""
    min_words: int = 20
    max_document_bytes: int = 256 << 10
    max_contribution_bytes: int = 16 << 20
    max_person_bytes: int = 1 << 30
    novelty_floor_bps: int = 2_000


@dataclass(frozen=True)
class CharterChange:
    """What a new charter says otherwise; None stays as it is. `sequencer` is the name or peer id of
    who writes the log from now on; `is_lost`: who did is gone for good.
    """

    purpose: str | None = None
    consent: str | None = None
    languages: tuple[str, ...] | None = None
    licences: tuple[str, ...] | None = None
    quorum: int | None = None
    is_open: bool | None = None
    min_words: int | None = None
    max_document_bytes: int | None = None
    max_contribution_bytes: int | None = None
    max_person_bytes: int | None = None
    novelty_floor_bps: int | None = None
    sequencer: str = ""
    is_lost: bool = False

    def rules(self) -> dict[str, Any]:
        """Return what is said of the rules, by name."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("sequencer", "is_lost") and value is not None
        }


@dataclass(frozen=True)
class GiveSaid:
    """What is given, as absolute paths on this machine, and its rights. `pay_to` empty is the
    node's owner; `until` 0 is for good.
    """

    files: tuple[PathSaid, ...]
    title: str = ""
    source: str = "my own"
    licence: str = ""
    language: str = ""
    pay_to: str = ""
    column: str = ""
    mask: bool = False
    name_me: bool = True
    until: int = 0
    agreed: bool = False


@dataclass(frozen=True)
class DropSaid:
    """A piece of a file that was dropped on the page: which drop (16 hex digits that the page
    draws), the file's name, and where in it the piece begins.
    """

    drop: str
    name: str
    at: int = 0


@dataclass(frozen=True)
class DroppedInfo:
    """Where a dropped file lies until it is given, and how much of it."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Progress:
    """How far something is: `done` of `total` of a stage."""

    stage: str
    done: int
    total: int
    note: str = ""


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class PersonInfo:
    """Somebody who takes part."""

    peer_id: str
    name: str
    role: OwnRole
    accepted: int


@dataclass(frozen=True)
class FindingInfo:
    """What a check found. `document` counts from 1; 0 is the whole."""

    code: str
    document: int
    title: str
    detail: str
    mend: str
    outcome: Literal["refuse", "hold", "note"]


@dataclass(frozen=True)
class ContributionInfo:
    """A contribution, or by its `kind` a version that waits for voices; `place` is its claim's."""

    id: str
    kind: Literal["contribution", "version"]
    title: str
    name: str
    peer_id: str
    pay_to: str
    documents: int
    words: int
    size_bytes: int
    state: ContributionState
    place: int
    given_at: int
    licence: str
    source: str
    is_here: bool
    voices: tuple[tuple[str, str], ...] = ()
    needed: int = 1
    findings: tuple[FindingInfo, ...] = ()


@dataclass(frozen=True)
class TotalInfo:
    """What one person has in a version."""

    peer_id: str
    name: str
    pay_to: str
    contributions: int
    documents: int
    words: int
    size_bytes: int
    held_out: int


@dataclass(frozen=True)
class DatanetVersionInfo:
    """A version that counts; `left` are contributions of it that were withdrawn since."""

    number: int
    digest: str
    created_at: int
    contributions: int
    left: int
    totals: tuple[TotalInfo, ...]


@dataclass(frozen=True)
class DatanetInfo:
    """A datanet that is held here. `seq` is the newest place; `fork` two registrations in hex;
    `lost` the head of a log that this node wrote and has no more.
    """

    id: str
    name: str
    purpose: str
    owner: str
    sequencer: str
    role: OwnRole
    is_open: bool
    quorum: int
    languages: tuple[str, ...]
    licences: tuple[str, ...]
    consent: str
    num_people: int
    num_by_state: dict[str, int]
    num_versions: int
    seq: int
    head: str
    at: int
    fork: tuple[str, ...] = ()
    lost: str = ""


@dataclass(frozen=True)
class DatanetDetail:
    """All of a datanet."""

    info: DatanetInfo
    people: tuple[PersonInfo, ...]
    contributions: tuple[ContributionInfo, ...]
    versions: tuple[DatanetVersionInfo, ...]


@dataclass(frozen=True)
class GivenInfo:
    """What became of what was given. `findings` are of all files together."""

    contributions: tuple[ContributionInfo, ...]
    findings: tuple[FindingInfo, ...]
    num_kept: int
    num_refused: int


@dataclass(frozen=True)
class WithdrawnInfo:
    """What was taken back, and which adapters that this node knows of still pay for it: name,
    version and who made each.
    """

    contribution: ContributionInfo
    paying: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class LeftInfo:
    """A datanet that is held here no more, and how many texts of one's own stay in its log."""

    id: str
    name: str
    given: int


@dataclass(frozen=True)
class ExportInfo:
    """What was written."""

    folder: str
    version: int
    digest: str
    documents: int
    held_out: int
    words: int
    people: int


@dataclass(frozen=True)
class VerifiedInfo:
    """What was recomputed, what does not hold, and what cannot be known here."""

    rows: int
    versions: int
    texts: int
    documents: int
    checked: int
    problems: tuple[str, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RecoveredInfo:
    """How many entries there are now, and how many of them came; how many texts are not to be had;
    the head that stays unknown, or "".
    """

    rows: int
    fetched: int
    missing: int
    lost: str


class Datanets(Protocol):
    """What a daemon knows and does about datanets. Every call may raise NodeError."""

    def listing(self) -> list[DatanetInfo]:
        """List the datanets that are held here."""

    async def create(self, said: CharterSaid) -> DatanetInfo:
        """Begin a datanet, whose owner and sequencer this node is."""

    async def invite(self, datanet: str, uses: int, days: float) -> str:
        """Return a word with which others join."""

    async def join(self, token: str, name: str) -> DatanetInfo:
        """Take part in a datanet by an invite, or by the name of an open one."""

    async def show(self, datanet: str) -> DatanetDetail:
        """Describe a datanet, as new as it is to be had."""

    async def is_reached(self, datanet: str) -> bool:
        """Take what is new; return whether the log is as new as it is to be had: somebody who has
        it answered, and nobody signed two.
        """

    async def give(self, datanet: str, said: GiveSaid, tell: Tell) -> GivenInfo:
        """Examine files, claim what may be given, and give it."""

    async def drop(self, said: DropSaid, data: bytes) -> DroppedInfo:
        """Keep a piece of a file that has no path here, until it is given, or for an hour."""

    async def queue(self, datanet: str, tell: Tell) -> list[ContributionInfo]:
        """List what waits for the council, with what the checks found."""

    async def text(self, datanet: str, contribution: str) -> bytes:
        """Return a contribution's text."""

    async def judge(
        self, datanet: str, subject: str, decision: str, reason: tuple[str, str, str]
    ) -> ContributionInfo:
        """Accept, refuse or hold; `reason` is code, detail and mend, empty where it is accepted."""

    async def appoint(self, datanet: str, person: str, role: str) -> PersonInfo:
        """Say what somebody's role is from now on."""

    async def make_version(self, datanet: str) -> DatanetVersionInfo | ContributionInfo:
        """Make the next version; what is returned tells whether it counts already."""

    async def change_charter(self, datanet: str, said: CharterChange) -> DatanetInfo:
        """Replace the charter, and with it who writes the log, where that is said."""

    async def withdraw(self, datanet: str, contribution: str) -> WithdrawnInfo:
        """Take back what was given."""

    async def leave(self, datanet: str) -> LeftInfo:
        """Hold a datanet no more: its log and texts go from this node."""

    async def export(
        self, datanet: str, version: int | None, folder: Path, tell: Tell
    ) -> ExportInfo:
        """Write a version's texts and owners into a new folder."""

    async def verify(self, datanet: str, tell: Tell) -> VerifiedInfo:
        """Recompute log, texts and versions, and run the checks again."""

    async def recover(self, datanet: str, is_enough: bool, tell: Tell) -> RecoveredInfo:
        """Fetch what is missing here of a log and its texts. `is_enough`: where a head stays
        unknown, go on from what there is.
        """
