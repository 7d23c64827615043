"""Recomputes a datanet from what lies here: every signature and place of the log, every version,
every text of the newest version, and intake's report of each, byte for byte. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import trio

from factory.intake import Broken, Examined, Report, read_report
from p2p.identity import peer_id_of
from proofs.datanet.entries import MAX_REPORT_BYTES, Contribution
from proofs.datanet.log import apply, fold
from proofs.datanet.version import parts_of
from proofs.errors import DatanetError

from ..api.datanets import Progress, Tell, VerifiedInfo
from ..errors import BadRequest, DatanetRefused
from .examining import report_on
from .ground import Held
from .remote import check_text, cut
from .store import REPORT

COMPARED = frozenset({"duplicate", "not-new", "hardly-new"})
"""What depends on what others gave; the rest of a report follows from rules and text."""
Agreement = Literal["agrees", "differs", "unknown"]


@dataclass
class _Found:
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    texts: int = 0
    documents: int = 0
    checked: int = 0


async def verify(held: Held, tell: Tell) -> VerifiedInfo:
    """Recompute everything; what does not hold is a problem, and what cannot be known here is said
    apart.
    """
    found = _Found()
    await _verify_log(held, found, tell)
    newest = held.state.version()
    wanted = newest.version.contributions if newest else []
    for number, digest in enumerate(wanted):
        tell(Progress("texts", number, len(wanted)))
        await _verify_text(held, digest, found)
    tell(Progress("texts", len(wanted), len(wanted)))
    _verify_totals(held, found)
    return VerifiedInfo(
        held.state.seq + 1,
        len(held.state.versions),
        found.texts,
        found.documents,
        checked=found.checked,
        problems=tuple(found.problems),
        unknown=tuple(found.unknown),
        notes=tuple(found.notes),
    )


async def _verify_log(held: Held, found: _Found, tell: Tell) -> None:
    rows = held.state.seq + 1
    tell(Progress("log", 0, rows))
    try:
        again = await trio.to_thread.run_sync(lambda: fold(held.all_rows()))
        async with held.lock:  # the log may have gone on meanwhile
            for row in held.rows(again.seq + 1, held.state.seq - again.seq, 1 << 30):
                apply(again, *row)
            is_same = again == held.state
        if not is_same:
            found.problems.append("the log does not give the state that this node works with")
    except (DatanetError, OSError) as error:
        found.problems.append(f"the log: {error}")
    tell(Progress("log", rows, rows))
    if held.fork is not None:
        found.problems.append("its sequencer signed two entries for one place")


async def _verify_text(held: Held, digest: bytes, found: _Found) -> None:
    given = held.state.given[digest]
    who = f"{held.state.people[given.contributor].name}, {given.title!r} ({digest.hex()[:12]})"
    if given.withdrawn is not None:
        found.notes.append(f"{who} was withdrawn since: its text is not to be had")
        return
    entry = held.contribution(digest)
    try:
        documents = await trio.to_thread.run_sync(_read_documents, held, digest, entry)
    except OSError as error:
        found.unknown.append(f"{who}: its text is not here ({error.strerror})")
        return
    except DatanetRefused as error:
        found.problems.append(f"{who}: {error}")
        return
    found.texts += 1
    found.documents += len(entry.documents)
    try:
        report = await trio.to_thread.run_sync(_read_report, held, digest)
        examined = await report_on(held, given.contributor, documents, given.claimed.seq)
    except (BadRequest, OSError) as error:
        found.unknown.append(f"{who}: the checks were not run again: {error}")
        return
    found.checked += 1
    _compare(who, report, examined, found)


def _read_documents(held: Held, digest: bytes, entry: Contribution) -> list[bytes]:
    with held.texts.open_text(digest) as file:
        check_text(file, entry)
    return cut(held.texts.read(digest), entry)


def _read_report(held: Held, digest: bytes) -> bytes:
    with held.texts.path(digest, REPORT).open("rb") as file:
        return file.read(MAX_REPORT_BYTES)


def _compare(who: str, report: bytes, examined: Examined, found: _Found) -> None:
    agreement, why = compare_reports(report, examined.report)
    if agreement == "differs":
        found.problems.append(f"{who}: its report is not what the checks find: {why}")
    if agreement == "unknown":
        found.unknown.append(f"{who}: its report: {why}")
    for finding in examined.findings:
        if finding.outcome == "refuse":
            place = "" if finding.document is None else f", document {finding.document + 1}"
            found.notes.append(
                f"{who}{place}: the checks refuse it ({finding.code}: {finding.detail}); the"
                " council took it"
            )


def compare_reports(given: bytes, made: bytes) -> tuple[Agreement, str]:
    """Compare the report that a contributor signed with the one that was made here, byte for byte;
    where they differ say in what, or why that cannot be known.
    """
    if given == made:
        return "agrees", ""
    ours = read_report(made)
    try:
        theirs = read_report(given)
    except Broken as error:
        return "differs", str(error)
    if (theirs.cleaner, theirs.tools) != (ours.cleaner, ours.tools):
        return "unknown", f"another cleaner made it ({_makers(theirs)}; here {_makers(ours)})"
    for name in ("rules", "num_documents", "documents"):
        if getattr(theirs, name) != getattr(ours, name):
            return "differs", f"another {name.replace('num_', 'number of ')}"
    if _own(theirs) != _own(ours):
        return "differs", _difference(_own(theirs), _own(ours))
    if theirs.known != ours.known:
        return "unknown", "it was compared with other texts than those that are here"
    return "differs", "other findings, numbers or another sketch"


def _makers(report: Report) -> str:
    return ", ".join([report.cleaner, *(f"{name} {version}" for name, version in report.tools)])


def _own(report: Report) -> list[tuple[str, int]]:
    """Return how often a report says what does not depend on others' texts."""
    return [(code, count) for code, count in report.totals if code not in COMPARED]


def _difference(theirs: Sequence[tuple[str, int]], ours: Sequence[tuple[str, int]]) -> str:
    codes = sorted({code for code, _ in {*theirs} ^ {*ours}})
    said, counted = dict(theirs), dict(ours)
    return ", ".join(f"{code} {said.get(code, 0)}, not {counted.get(code, 0)}" for code in codes)


def _verify_totals(held: Held, found: _Found) -> None:
    """Compare each version's totals with its contributions, whatever was withdrawn since."""
    for made in held.state.versions:
        parts = parts_of(held.state, made.version.contributions)
        counted = sum(len(part.documents) for part in parts)
        said = sum(total.documents for total in made.version.totals)
        if counted != said:
            found.problems.append(
                f"version {made.version.number} by {peer_id_of(made.version.by)}: {said} documents"
                f" are said, {counted} are there"
            )
