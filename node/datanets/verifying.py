"""Recomputes a datanet from what lies here: every signature and place of the log, every version,
every text, and intake's checks of what is in the newest version. Asks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from p2p.identity import peer_id_of
from proofs.datanet.log import fold
from proofs.datanet.version import parts_of
from proofs.errors import DatanetError

from ..datanet_api import Progress, Tell, VerifiedInfo
from ..errors import BadRequest, DatanetRefused
from .examining import review_text
from .ground import Held
from .remote import check_text


@dataclass
class _Found:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    texts: int = 0
    documents: int = 0
    checked: int = 0


async def verify(held: Held, tell: Tell) -> VerifiedInfo:
    """Recompute everything; what does not hold is a problem, what cannot be known a note."""
    found = _Found()
    state = held.state
    rows = state.seq + 1
    tell(Progress("log", 0, rows))
    try:
        again = await trio.to_thread.run_sync(lambda: fold(held.all_rows()))
        if again != state:
            found.problems.append("the log does not give the state that this node works with")
    except (DatanetError, OSError) as error:
        found.problems.append(f"the log: {error}")
    tell(Progress("log", rows, rows))
    if held.fork is not None:
        found.problems.append("its sequencer signed two entries for one place")
    newest = state.version()
    wanted = newest.version.contributions if newest else []
    for number, digest in enumerate(wanted):
        tell(Progress("texts", number, len(wanted)))
        await _verify_text(held, digest, found)
    tell(Progress("texts", len(wanted), len(wanted)))
    if newest is not None:
        _verify_totals(held, found)
    return VerifiedInfo(
        rows,
        len(state.versions),
        found.texts,
        found.documents,
        checked=found.checked,
        problems=tuple(found.problems),
        notes=tuple(found.notes),
    )


async def _verify_text(held: Held, digest: bytes, found: _Found) -> None:
    given = held.state.given[digest]
    who = f"{held.state.people[given.contributor].name}, {given.title!r} ({digest.hex()[:12]})"
    if given.withdrawn is not None:
        found.notes.append(f"{who} was withdrawn since: its text is not to be had")
        return
    entry = held.contribution(digest)
    try:
        text = await trio.to_thread.run_sync(held.texts.read, digest)
        check_text(text, entry)
    except OSError as error:
        found.problems.append(f"{who}: its text is not here ({error.strerror})")
        return
    except DatanetRefused as error:
        found.problems.append(f"{who}: {error}")
        return
    found.texts += 1
    found.documents += len(entry.documents)
    try:
        examined = await review_text(held, given, entry)
    except BadRequest as error:
        found.notes.append(f"{who}: the checks were not run again: {error}")
        return
    found.checked += 1
    for finding in examined.findings:
        if finding.outcome == "refuse":
            place = "" if finding.document is None else f", document {finding.document + 1}"
            found.notes.append(
                f"{who}{place}: the checks refuse it today ({finding.code}: {finding.detail});"
                " the council took it"
            )


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
