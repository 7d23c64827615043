"""Has files and texts looked at by intake, by a datanet's rules and against what others gave.

Decides what is compared with what; intake decides what is wrong with a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from factory.intake import (
    Earlier,
    Examined,
    Finding,
    IntakeError,
    Known,
    Rules,
    examine,
    review,
    trace_documents,
)
from proofs.datanet.entries import Charter, Contribution
from proofs.datanet.state import Given

from ..catalogue.book import write_whole
from ..datanet_api import FindingInfo, Progress, Tell
from ..errors import BadRequest
from .ground import Held
from .remote import cut

TRACE = "trace"
T = TypeVar("T")


def rules_of(charter: Charter, *, column: str = "", mask: bool = False) -> Rules:
    """Return intake's rules as a charter says them."""
    plain = Rules()
    return Rules(
        languages=tuple(language for language in charter.languages if len(language) == 2),
        min_words=charter.limits.min_words,
        max_document_bytes=min(charter.limits.max_document_bytes, plain.max_document_bytes),
        max_bytes=min(charter.limits.max_contribution_bytes, plain.max_bytes),
        novelty_refuse_bps=charter.novelty_floor_bps,
        novelty_hold_bps=max(charter.novelty_floor_bps, plain.novelty_hold_bps),
        column=column,
        mask=mask,
    )


def known_to(held: Held, giver: bytes, before: int | None = None) -> Known:
    """Return what somebody's text is compared with: what is here of what was given before it.

    `before` is the place of its claim; None is now. Reads and writes the disk.
    """
    earlier = [
        Earlier(one.digest, one.contributor, _trace(held, one))
        for one in held.state.in_log_order()
        if one.is_upheld and (before is None or one.claimed.seq < before)
        if held.texts.has(one.digest)
    ]
    return Known(giver=giver, earlier=tuple(earlier))


async def examine_files(
    held: Held, files: Sequence[Path], rules: Rules, giver: bytes, tell: Tell
) -> Examined:
    """Look at files that somebody wants to give. Raises BadRequest where intake cannot."""
    known = await trio.to_thread.run_sync(known_to, held, giver)

    def told(name: str, done: int, total: int) -> None:
        trio.from_thread.run_sync(tell, Progress("examine", done, total, name))

    return await _run(partial(examine, files, rules, known, tell=told))


async def review_text(held: Held, given: Given, entry: Contribution) -> Examined:
    """Look at a text that is here again, as anybody can who has the log and the texts."""
    known = await trio.to_thread.run_sync(known_to, held, given.contributor, given.claimed.seq)
    text = await trio.to_thread.run_sync(held.texts.read, given.digest)
    return await review_documents(held, cut(text, entry), known)


async def review_documents(held: Held, documents: Sequence[bytes], known: Known) -> Examined:
    """Look at clean documents."""
    return await _run(partial(review, documents, rules_of(held.state.charter), known))


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


def _trace(held: Held, one: Given) -> Path:
    path = held.texts.path(one.digest, TRACE)
    if not path.exists():
        text = held.texts.read(one.digest)
        write_whole(path, trace_documents(cut(text, held.contribution(one.digest))))
    return path


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
