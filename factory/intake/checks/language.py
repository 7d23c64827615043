"""Which language is it? Asked of py3langid, which has its model with it.

Short texts are passed by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules
from .quality import MIN_STOP_WORDS, STOP_WORDS

MIN_SHARE_BPS = 8_000
MIN_WORDS = 20
SAMPLE_CHARS = 1_000
"""From the middle of a document."""


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Compare with the languages that the datanet takes; one that names none takes any."""
    findings: list[Finding] = []
    if not rules.languages:
        return findings
    asked = fitting = 0
    for place, document in enumerate(documents):
        if len(document.words) < MIN_WORDS:
            continue
        language = language_of(document.text)
        numbers[f"language {language}"] += 1
        asked += 1
        if language in rules.languages:
            fitting += 1
        else:
            findings.append(find("other-language", place, f"it reads like {language}"))
        if language == "en":
            num_small = sum(word in STOP_WORDS for word in document.words)
            if num_small < MIN_STOP_WORDS:
                findings.append(find("stop-words", place, f"{num_small} of them"))
    if fitting * 10_000 < asked * MIN_SHARE_BPS:
        detail = f"{fitting} of {asked} documents are in {', '.join(rules.languages)}"
        findings.append(find("language", None, detail))
    return findings


def language_of(text: str) -> str:
    """Return the two-letter code of the likeliest language."""
    start = max(0, (len(text) - SAMPLE_CHARS) // 2)
    return str(_identifier().classify(text[start : start + SAMPLE_CHARS])[0])


@cache
def _identifier():  # type: ignore[no-untyped-def]
    import py3langid

    return py3langid
