"""Ends numbers that would go on for ever: after MAX_DIGITS digits in a row in a place where no
letter may follow, no digit may either, if anything else may.

Counts bytes of tokens; knows no grammar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DIGITS = 20
"""As many as an unsigned integer of 64 bits has; a double has fewer."""
LETTER = b"q"
"""May follow in every text and string, and in no number or JSON word's middle."""


@dataclass(frozen=True)
class Spelling:
    """How a vocabulary's tokens spell digits: `leading` [vocab_size] how many each begins with,
    `is_digits` whether it is nothing else, `trailing` how many it ends with; `letter` is the token
    that spells LETTER, if there is one.
    """

    leading: NDArray[np.uint8]
    trailing: NDArray[np.uint8]
    is_digits: NDArray[np.bool_]
    letter: int | None

    @classmethod
    def of(cls, vocab_size: int, spell: Callable[[int], bytes]) -> Spelling:
        """Read every token once."""
        leading = np.zeros(vocab_size, np.uint8)
        trailing = np.zeros(vocab_size, np.uint8)
        is_digits = np.zeros(vocab_size, np.bool_)
        letter = None
        for token in range(vocab_size):
            text = spell(token)
            if text == LETTER and letter is None:
                letter = token
            if text[:1].isdigit() or text[-1:].isdigit():
                leading[token] = min(len(text) - len(text.lstrip(b"0123456789")), 255)
                trailing[token] = min(len(text) - len(text.rstrip(b"0123456789")), 255)
                is_digits[token] = text.isdigit()
        return cls(leading, trailing, is_digits, letter)


class Digits:
    """Counts the digits at the end of one answer."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._run = 0

    def accept(self, token: int) -> None:
        """Go on with a token."""
        ends = int(self._spelling.trailing[token])
        self._run = self._run + ends if self._spelling.is_digits[token] else ends

    def bound(self, allowed: NDArray[np.int32]) -> None:
        """Take the tokens out of a mask (one bit for each id, packed, lowest first) that would make
        the run too long.
        """
        spelling = self._spelling
        if not self._run or spelling.letter is None:
            return
        if allowed[spelling.letter >> 5] >> (spelling.letter & 31) & 1:
            return  # a text or a string
        too_long = spelling.leading.astype(np.int64) + self._run > MAX_DIGITS
        too_long &= spelling.leading > 0
        if not too_long.any():
            return
        bits = np.zeros(len(allowed) * 32, np.bool_)
        bits[: len(too_long)] = too_long
        packed = np.packbits(bits, bitorder="little").view(np.int32)
        rest = allowed & ~packed
        if rest.any():
            allowed[:] = rest
