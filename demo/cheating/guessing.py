"""Guesses by what a node sees of a question whether an auditor asks: how old the client's key is,
how many questions it asked, how long it was silent, its terms, and the style of its prompt.

A node that computes for auditors alone is honest with whom this fears. Pure; what it computes is
nobody's business here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DAY_S = 86_400.0


@dataclass(frozen=True)
class Seen:
    """One question as its node sees it: the client's key, when (s), its prompt and its terms;
    temperature and top_p in thousandths.
    """

    key: bytes
    at_s: float
    prompt: str
    max_tokens: int
    temperature: int
    top_p: int


@dataclass
class _Known:
    born_s: float
    last_s: float
    asked: int = 0


@dataclass
class Guesser:
    """Fears a key that is younger than `young_s` or asked fewer than `few` questions, and one that
    comes back after `quiet_s` of silence with a question that stands alone as a pool's do: a
    sentence on one line, by the terms that everybody's program sends.
    """

    young_s: float = 2 * DAY_S
    few: int = 8
    quiet_s: float = 600.0
    _known: dict[bytes, _Known] = field(default_factory=dict)

    def fears(self, seen: Seen) -> bool:
        """Return whether this may be an auditor's; notes that the question came."""
        known = self._known.setdefault(seen.key, _Known(seen.at_s, seen.at_s))
        is_young = seen.at_s - known.born_s < self.young_s or known.asked < self.few
        was_quiet = seen.at_s - known.last_s >= self.quiet_s
        known.last_s = seen.at_s
        known.asked += 1
        return is_young or (was_quiet and _is_plain(seen))


def _is_plain(seen: Seen) -> bool:
    is_usual = (seen.temperature, seen.top_p) in ((1_000, 1_000), (700, 1_000))
    return is_usual and "\n" not in seen.prompt and seen.prompt[:1].isupper()
