"""Has files and texts looked at by intake: by a datanet's rules, and against what others gave.

    now     what is upheld here, sketches of other datanets, the base's tokens: for who gives and
            who judges; what was found is kept beside the text
    report  what anybody finds from log and texts alone: as it was at the claim's place

Decides what is compared with what; intake decides what is wrong with a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from factory.intake import (
    Broken,
    Earlier,
    Elsewhere,
    Examined,
    Finding,
    IntakeError,
    Known,
    Rules,
    examine,
    review,
    trace_documents,
)
from factory.intake.clean import CLEANER
from factory.intake.report import digest_rules, tools
from proofs.codec import encode
from proofs.datanet.entries import Charter, Contribution, digest_of
from proofs.datanet.state import Given

from ..api.datanets import FindingInfo, Progress, Tell
from ..catalogue.book import write_whole
from ..errors import BadRequest
from .ground import Held
from .losses import Losses
from .remote import cut
from .store import SKETCH

TRACE, REVIEW = "trace", "review"
MAX_ELSEWHERE = 4_096  # sketches, of a kilobyte each
MAX_SKETCH_BYTES = 2_048
T = TypeVar("T")


@dataclass(frozen=True)
class Around:
    """What this node knows besides a datanet: the base's template tokens, other datanets, and what
    the base loses of texts, where it has an engine.
    """

    tokens: tuple[str, ...] = ()
    others: tuple[Held, ...] = ()
    losses: Losses | None = None


def rules_of(
    charter: Charter, *, tokens: tuple[str, ...] = (), column: str = "", mask: bool = False
) -> Rules:
    """Return intake's rules as a charter says them."""
    plain = Rules()
    return Rules(
        languages=tuple(language for language in charter.languages if len(language) == 2),
        min_words=charter.limits.min_words,
        max_document_bytes=min(charter.limits.max_document_bytes, plain.max_document_bytes),
        max_bytes=min(charter.limits.max_contribution_bytes, plain.max_bytes),
        novelty_refuse_bps=charter.novelty_floor_bps,
        tokens=tokens,
        column=column,
        mask=mask,
    )


# --- now ---


async def examine_files(
    held: Held, files: Sequence[Path], rules: Rules, giver: bytes, around: Around, tell: Tell
) -> Examined:
    """Look at files that somebody wants to give. BadRequest where intake cannot, OSError."""
    upheld = [one for one in held.state.in_log_order() if one.is_upheld]
    known = await _known(held, giver, upheld, around)

    def told(name: str, done: int, total: int) -> None:
        trio.from_thread.run_sync(tell, Progress("examine", done, total, name))

    return await _run(partial(examine, files, rules, known, tell=told))


async def findings_on(
    held: Held, given: Given, entry: Contribution, around: Around
) -> tuple[FindingInfo, ...]:
    """Look at a text that is here, as a curator does, unless that was done by the same rules and
    against the same texts. BadRequest where intake cannot, OSError.
    """
    earlier = [
        one
        for one in held.state.in_log_order()
        if one.is_upheld and one.claimed.seq < given.claimed.seq
    ]
    known = await _known(held, given.contributor, earlier, around)
    rules = rules_of(held.state.charter, tokens=around.tokens)
    losses = list[int]()
    if around.losses is not None:
        losses = await around.losses.of(held, given.digest, entry)
        known = msgspec.structs.replace(known, median_loss=await around.losses.median(held))
    path = held.texts.path(given.digest, REVIEW)
    key = _key(rules, known, losses)
    kept = await trio.to_thread.run_sync(_read_review, path, key)
    if kept is not None:
        return kept
    examined = await review_text(held, given.digest, entry, rules, known, losses=losses)
    found = tuple(finding_of(examined, finding) for finding in examined.findings)
    with suppress(OSError):  # it is found again
        await trio.to_thread.run_sync(write_whole, path, msgspec.msgpack.encode((key, found)))
    return found


def finding_of(examined: Examined, finding: Finding) -> FindingInfo:
    """Return a finding as the faces show it."""
    document = finding.document
    return FindingInfo(
        finding.code,
        0 if document is None else document + 1,
        "" if document is None else examined.documents[document].title,
        finding.detail,
        mend=finding.mend,
        outcome=finding.outcome,
    )


# --- the report ---


async def report_on(
    held: Held, giver: bytes, documents: Sequence[bytes], claim_seq: int
) -> Examined:
    """Look at documents as whoever has the log and the texts can: by the charter that was in force
    at the claim's place, against what was given before it and upheld there. BadRequest, OSError.
    """
    earlier = [one for one in held.state.in_log_order() if one.was_upheld(claim_seq)]
    known = await _known(held, giver, earlier, Around())
    charter = await trio.to_thread.run_sync(held.entry, held.state.charter_at(claim_seq))
    assert isinstance(charter, Charter)
    return await _run(partial(review, documents, rules_of(charter), known))


async def review_text(
    held: Held,
    digest: bytes,
    entry: Contribution,
    rules: Rules,
    known: Known,
    *,
    losses: Sequence[int] = (),
) -> Examined:
    """Look at a text that is here. BadRequest, OSError."""
    text = await trio.to_thread.run_sync(held.texts.read, digest)
    return await _run(partial(review, cut(text, entry), rules, known, losses=losses))


# --- what it is compared with ---


async def _known(held: Held, giver: bytes, earlier: Iterable[Given], around: Around) -> Known:
    """Return what a text is compared with, as far as it is here. Reads and writes the disk."""
    listed = [one for one in earlier if held.texts.has(one.digest)]
    return await trio.to_thread.run_sync(_known_of, held, giver, listed, around)


def _known_of(held: Held, giver: bytes, listed: Sequence[Given], around: Around) -> Known:
    earlier = list[Earlier]()
    for one in listed:
        with suppress(FileNotFoundError):  # it was withdrawn meanwhile
            earlier.append(Earlier(one.digest, one.contributor, _trace(held, one)))
    return Known(giver=giver, earlier=tuple(earlier), elsewhere=tuple(_elsewhere(around.others)))


def _elsewhere(others: Iterable[Held]) -> list[Elsewhere]:
    """Return the sketches of what other datanets accepted; what is none is left out."""
    from factory.intake.sketches import share_in  # loads numpy

    found = list[Elsewhere]()
    for held in others:
        for one in list(held.state.given.values()):
            if one.status != "accepted" or len(found) == MAX_ELSEWHERE:
                continue
            with suppress(OSError, Broken):
                with held.texts.path(one.digest, SKETCH).open("rb") as file:
                    sketch = file.read(MAX_SKETCH_BYTES)
                share_in(sketch, sketch)
                name = f"{held.state.charter.name}, contribution {one.digest.hex()[:12]}"
                found.append(Elsewhere(name, sketch))
    return found


def _trace(held: Held, one: Given) -> Path:
    path = held.texts.path(one.digest, TRACE)
    if not path.exists():
        text = held.texts.read(one.digest)
        write_whole(path, trace_documents(cut(text, held.contribution(one.digest))))
    return path


# --- what was found before ---


def _key(rules: Rules, known: Known, losses: Sequence[int]) -> bytes:
    """Return what a review follows from, besides the text. A trace follows from its text."""
    earlier = [(one.contribution, one.giver) for one in known.earlier]
    elsewhere = [(one.name, digest_of(one.sketch)) for one in known.elsewhere]
    made_by = (CLEANER, tools())
    lost = (known.median_loss, list(losses))
    return digest_of(encode((digest_rules(rules), known.giver, earlier, elsewhere, made_by, lost)))


def _read_review(path: Path, key: bytes) -> tuple[FindingInfo, ...] | None:
    try:
        made, found = msgspec.msgpack.decode(
            path.read_bytes(), type=tuple[bytes, tuple[FindingInfo, ...]]
        )
    except (OSError, msgspec.DecodeError):
        return None
    return found if made == key else None


async def _run(call: Callable[..., T]) -> T:
    """Run intake in a thread; when we are cancelled it stops soon."""
    stop = threading.Event()
    try:
        return await trio.to_thread.run_sync(  # type: ignore[call-arg]  # an old stub of trio
            partial(call, stop=stop), abandon_on_cancel=True
        )
    except IntakeError as error:
        raise BadRequest(str(error)) from error
    finally:
        stop.set()
