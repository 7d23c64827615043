"""Documents that are there already, word for word: the first is named. Decides nothing about
documents that are only much alike (novelty.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..findings import find
from ..looked import Looked
from ..traces import open_trace
from ..types import Finding, Known, Rules


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Compare with every earlier contribution, whoever gave it, then among each other."""
    first: dict[bytes, str] = {}
    wanted = {document.digest for document in documents}
    for earlier in known.earlier:
        for place, digest in enumerate(open_trace(earlier.trace).digests):
            if digest in wanted:
                name = f"document {place + 1} of contribution {earlier.contribution.hex()[:16]}"
                first.setdefault(digest, name)
    findings = []
    for place, document in enumerate(documents):
        seen = first.setdefault(document.digest, f"document {place + 1} given here")
        if seen != f"document {place + 1} given here":
            findings.append(find("duplicate", place, f"the same words as {seen}"))
    numbers["duplicates"] += len(findings)
    return findings
