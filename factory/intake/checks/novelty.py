"""How much of a document nobody else gave before: the share of its 5-word shingles that stand in no
earlier contribution of another person; and how much of that is in passages of the giver's own,
which are twelve new shingles in a row, or sixteen words.

A copy with some of its words changed has new shingles all over and hardly such a passage; what was
written into somebody's template has one. Where less than three tenths of a document are others',
nothing is said.

A field's boilerplate is nobody's: shingles that stand in 3 or more documents of others already.
What the giver repeats makes nothing boilerplate. Sees no paraphrase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..findings import find
from ..looked import Looked
from ..sketches import share_in, sketch_of
from ..traces import Trace, open_trace
from ..types import Finding, Known, Rules
from ..words import Hashes

BOILERPLATE_DOCUMENTS = 3
"""Earlier ones, of others. Two would let more copies through, four hold more honest documents
(benchmarks/factory/intake.py measures both).
"""
OWN_SHINGLES = 12
"""New ones in a row that make a passage of one's own. Whoever knows this changes three words in
sixty, five apart, and passes where he changed six before.
"""
MIN_HELD_BPS = 3_000
"""Of the whole document, boilerplate and all: less is nobody's copy."""
MIN_SKETCH_SHARE_BPS = 5_000
NOBODY = 1 << 40

Mask = npt.NDArray[np.bool_]


@dataclass
class Table:
    """For each distinct shingle of a contribution: in how many earlier documents of others it is,
    and the place of the first of their contributions that has it, or NOBODY.
    """

    shingles: Hashes
    documents: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Novelty:
    """Shares in basis points, without boilerplate: what is new, and what is in passages of one's
    own. `held_bps` is what others hold, of the whole document; most of it `nearest`, a place in
    `Known.earlier`.
    """

    new_bps: int
    own_bps: int
    held_bps: int
    nearest: int


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Judge each document, and the whole beside what other datanets published."""
    findings = _check_elsewhere(documents, known)
    if not documents or not known.earlier:
        return findings
    table = build_table(np.concatenate([document.shingles for document in documents]), known)
    shares = []
    for place, document in enumerate(documents):
        found = novelty(document, table)
        shares.append(found.new_bps)
        code = code_of(found, rules)
        if code is not None:
            name = known.earlier[found.nearest].contribution.hex()[:16]
            detail = (
                f"{found.new_bps // 100} % of it is new, {found.own_bps // 100} % in passages of"
                f" its own; most of the rest is in contribution {name}"
            )
            findings.append(find(code, place, detail))
    numbers["novelty median bps"] = sorted(shares)[len(shares) // 2]
    numbers["novelty least bps"] = min(shares)
    return findings


def code_of(found: Novelty, rules: Rules) -> str | None:
    """Return the code of the finding that so much novelty is, None where it is enough."""
    if found.held_bps < MIN_HELD_BPS:
        return None
    if found.new_bps < rules.novelty_refuse_bps:
        return "not-new"
    return "hardly-new" if found.own_bps < rules.novelty_hold_bps else None


def novelty(
    document: Looked, table: Table, boilerplate_documents: int = BOILERPLATE_DOCUMENTS
) -> Novelty:
    """Judge one document by a table that has all its shingles."""
    _, places = np.unique(document.row, return_index=True)
    rows = np.searchsorted(table.shingles, document.row)
    is_new = table.documents[rows] == 0
    is_held = ~is_new & (table.documents[rows] < boilerplate_documents)
    held = table.first[rows[places[is_held[places]]]]
    if not len(held):
        return Novelty(10_000, 10_000, held_bps=0, nearest=0)
    counted = len(held) + int(np.count_nonzero(is_new[places]))
    own = int(np.count_nonzero(_long_runs(is_new, OWN_SHINGLES)[places]))
    return Novelty(
        new_bps=(counted - len(held)) * 10_000 // counted,
        own_bps=own * 10_000 // counted,
        held_bps=len(held) * 10_000 // len(places),
        nearest=int(np.bincount(held).argmax()),
    )


def _long_runs(mask: Mask, least: int) -> Mask:
    """Return which places are in runs of `least` or more that are set."""
    long = np.zeros(len(mask), dtype=bool)
    for start, end in runs_of(mask):
        long[start:end] = end - start >= least
    return long


def runs_of(mask: Mask) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges that are set."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def build_table(shingles: Hashes, known: Known) -> Table:
    """Look shingles up in all earlier contributions."""
    shingles = np.unique(shingles)
    documents_of_others = np.zeros(len(shingles), np.int64)
    first = np.full(len(shingles), NOBODY, np.int64)
    for place, earlier in enumerate(known.earlier):
        if earlier.giver != known.giver:
            rows, counts = _look_up(shingles, open_trace(earlier.trace))
            documents_of_others[rows] += counts
            first[rows] = np.minimum(first[rows], place)
    return Table(shingles, documents_of_others, first)


def _look_up(shingles: Hashes, trace: Trace) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of `shingles` that the trace has, and in how many of its documents each is."""
    if not len(trace.shingles):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    there = np.searchsorted(trace.shingles, shingles)
    there = np.minimum(there, len(trace.shingles) - 1)
    rows = np.flatnonzero(trace.shingles[there] == shingles)
    return rows, trace.counts[there[rows]].astype(np.int64)


def _check_elsewhere(documents: Sequence[Looked], known: Known) -> list[Finding]:
    mine = sketch_of([document.shingles for document in documents])
    findings = []
    for other in known.elsewhere:
        share = share_in(mine, other.sketch)
        if share >= MIN_SKETCH_SHARE_BPS:
            detail = f"about {share // 100} % of it is in {other.name}"
            findings.append(find("sketch", None, detail))
    return findings
