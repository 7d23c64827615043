"""Says which characters a text in a signed record may have. The ranges stand here, and not in a
table of Unicode, because those differ between versions of Python and a log is read alike by all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import DatanetError

_HIDDEN = "\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f"
_NOT_IN_A_LINE = re.compile(f"[\x00-\x1f{_HIDDEN}]")
_NOT_IN_A_TEXT = re.compile(f"[\x00-\x08\x0b-\x1f{_HIDDEN}]")


def check_lines(**named: str) -> None:
    """Raise DatanetError for a text of one line that holds a control or hidden character."""
    _check(named.items(), _NOT_IN_A_LINE)


def check_texts(**named: str) -> None:
    """Raise DatanetError for a text of many lines that holds a control or hidden character."""
    _check(named.items(), _NOT_IN_A_TEXT)


def plain_line(text: str, max_chars: int) -> str:
    """Return a text as it may stand in a record: on one line, without hidden characters, cut."""
    return _NOT_IN_A_LINE.sub(" ", text).strip()[:max_chars].strip()


def _check(named: Iterable[tuple[str, str]], forbidden: re.Pattern[str]) -> None:
    for name, text in named:
        found = forbidden.search(text)
        if found:
            raise DatanetError(
                "text",
                f"{name} holds the hidden character U+{ord(found[0]):04X}",
                "leave it out",
            )
