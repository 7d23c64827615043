"""Template tokens: what would end a turn or begin a system prompt if it were encoded as such.

Decides by the base's own list where the rules bring it, and by the shapes that bases use. After
cleaning, so nothing invisible stands inside one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..findings import find
from ..looked import Looked
from ..types import Finding, Known, Rules

_SHAPES = (
    "<[|\uff5c][\\w\u2581.-]{1,40}[|\uff5c]>",
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]",
    r"<</?SYS>>",
    r"</?(?:start|end)_of_turn>",
)


def check(
    documents: Sequence[Looked], rules: Rules, known: Known, numbers: Counter[str]
) -> list[Finding]:
    """Find the first template token of each document, and count them."""
    own = [re.escape(token) for token in rules.tokens if token.strip()]
    pattern = re.compile("|".join([*sorted(own, key=len, reverse=True), *_SHAPES]))
    findings = []
    for place, document in enumerate(documents):
        found = pattern.findall(document.text)
        if found:
            findings.append(find("template-token", place, f"{found[0]}, {len(found)} in all"))
    return findings
