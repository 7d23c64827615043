"""How much of a document nobody else gave before: the share of its 5-word shingles that stand in no
earlier contribution of another person.

A field's boilerplate does not count: shingles that stand in 3 or more documents of others already.
What the giver repeats makes nothing boilerplate. Sees no paraphrase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
MIN_SKETCH_SHARE_BPS = 5_000
NOBODY = 1 << 40


@dataclass
class Table:
    """For each distinct shingle of a contribution: in how many earlier documents of others it is,
    and the place of the first of their contributions that has it, or NOBODY.
    """

    shingles: Hashes
    documents: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Judge each document, and the whole beside what other datanets published."""
    findings = _check_elsewhere(documents, known)
    if not documents or not known.earlier:
        return findings
    table = build_table(documents, known)
    shares = []
    for place, document in enumerate(documents):
        share, nearest = novelty(document, table)
        shares.append(share)
        code = _code_of(share, rules)
        if code is not None:
            name = known.earlier[nearest].contribution.hex()[:16]
            detail = f"{share // 100} % of it is new; most of the rest is in contribution {name}"
            findings.append(find(code, place, detail))
    numbers["novelty median bps"] = sorted(shares)[len(shares) // 2]
    numbers["novelty least bps"] = min(shares)
    return findings


def _code_of(share: int, rules: Rules) -> str | None:
    if share < rules.novelty_refuse_bps:
        return "not-new"
    return "hardly-new" if share < rules.novelty_hold_bps else None


def novelty(
    document: Looked, table: Table, boilerplate_documents: int = BOILERPLATE_DOCUMENTS
) -> tuple[int, int]:
    """Return the share of a document that is new, in basis points, and where most of the rest is.

    A document of boilerplate alone is new: nobody owns it.
    """
    rows = np.searchsorted(table.shingles, document.shingles)
    counted = rows[table.documents[rows] < boilerplate_documents]
    held = table.first[counted]
    held = held[held < NOBODY]
    if not len(held):
        return 10_000, 0
    nearest = int(np.bincount(held).argmax())
    return (len(counted) - len(held)) * 10_000 // len(counted), nearest


def build_table(documents: Sequence[Looked], known: Known) -> Table:
    """Look every shingle of the documents up in all earlier contributions."""
    together = np.concatenate([document.shingles for document in documents])
    shingles = np.unique(together)
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
