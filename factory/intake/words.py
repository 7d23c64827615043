"""What counts as a word, and the numbers of five words in a row (shingles).

Normative text: docs/protocols/intake.md. Case, punctuation and layout do not count. Scripts that
write no spaces have a word for each character.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

import numpy as np
import numpy.typing as npt

SHINGLE_WORDS = 5
MAX_REMEMBERED = 1 << 18
"""Words whose numbers are kept, 60 MB of long ones; more than that nobody's language has."""

Hashes = npt.NDArray[np.uint64]

_SPACELESS = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\U00020000-\U0003134f"
)
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M")
_WORD = re.compile(f"[\\w{re.escape(_MARKS)}]+")
_ALONE = re.compile(f"[{_SPACELESS}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def words_of(text: str) -> list[str]:
    """Return the words of a text, case folded."""
    folded = text.casefold()
    if not folded.isascii() and _ALONE.search(folded):
        folded = _ALONE.sub(r" \g<0> ", folded)
    return _WORD.findall(folded)


def words_digest(words: list[str]) -> bytes:
    """Return the digest by which exact duplicates are found."""
    return hashlib.sha256(" ".join(words).encode()).digest()


class Shingles:
    """Numbers shingles; remembers the numbers of words, since most come again."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, words: list[str]) -> Hashes:
        """Return the distinct shingles, sorted."""
        return np.unique(self.row(words))

    def row(self, words: list[str]) -> Hashes:
        """Return the shingles as they come. Fewer than five words are one shingle."""
        if not words:
            return np.empty(0, np.uint64)
        numbers = np.array([self._number(word) for word in words], np.uint64)
        span = min(SHINGLE_WORDS, len(words))
        count = len(words) - span + 1
        mixed = np.zeros(count, np.uint64)
        for place in range(span):
            mixed = mixed * _FACTOR + numbers[place : place + count]
        return _finish(mixed)

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            if len(self._numbers) == MAX_REMEMBERED:
                self._numbers.clear()
            self._numbers[word] = number
        return number


def _finish(mixed: Hashes) -> Hashes:
    """Spread the bits (splitmix64's last step)."""
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
