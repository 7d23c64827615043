"""Words in letters of two scripts that look alike, a way to write what no search finds.

Knows Latin with Cyrillic, Armenian, Cherokee, and the Greek letters that look Latin; not those
that stand in the names of proteins and units (alpha, beta, mu).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules

_LATIN = "A-Za-z\u00c0-\u024f"
_GREEK = (
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4"
    "\u03a5\u03a7\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7\u03f2\u03f3"
)
_ALIKE = f"\u0400-\u052f\u0531-\u0587\u13a0-\u13fd{_GREEK}\uff21-\uff3a\uff41-\uff5a"
_MIXED = re.compile(f"[{_LATIN}][{_ALIKE}]|[{_ALIKE}][{_LATIN}]")
_WORD = re.compile(r"\w{1,64}")


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Find the words of each document that mix scripts."""
    findings = []
    for place, document in enumerate(documents):
        found = find_mixed(document.text)
        if found:
            numbers["mixed-script words"] += len(found)
            shown = ", ".join(found[:5])
            findings.append(find("mixed-scripts", place, f"{len(found)} words: {shown}"))
    return findings


def find_mixed(text: str) -> list[str]:
    """Return the words of a text that mix scripts; of long ones, pieces."""
    if text.isascii() or not _MIXED.search(text):
        return []
    return [word for word in _WORD.findall(text) if _MIXED.search(word)]
