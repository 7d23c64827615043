"""ladder-1: how many bits of an answer each contributor's words saved, beyond what anybody writes.

Normative text: docs/protocols/attribution.md. For each token of the answer, contexts of 1 to 8
tokens, prompt included, climb from what the background foretells; what the contributors' text
foretells beyond it is a gain of at most 12 bits, divided among those who own the tokens that
foretold it. Integers alone, the same on every machine. Decides bits, in 1/65536; pays nobody.

    drawn = measure(index, background, prompt_ids, answer_ids)
    drawn.bits        # one integer for each contributor, for blend.py
    drawn.by_token    # (tokens, contributors), for explain.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .background import ONE, Background, interpolate
from .blend import BIT
from .index import MAX_CONTEXT, Index
from .tokens import Ints

MAX_TOKEN_BITS = 12
TABLE_STEPS = 1 << 12

_BLOCK = 256  # tokens of an answer measured at once, which bounds the memory


@dataclass(frozen=True, eq=False)
class Drawn:
    """What an answer drew on. `foretold` is what the background made of each token, in 1/2^20."""

    by_token: Ints
    foretold: Ints

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of each contributor, in 1/65536."""
        return tuple(self.by_token.sum(axis=0).tolist())


def measure(
    index: Index,
    background: Background,
    prompt_ids: Sequence[int] | Ints,
    answer_ids: Sequence[int] | Ints,
) -> Drawn:
    """Measure an answer by ladder-1. Its bits fit 64 bits whatever its length."""
    prompt = np.asarray(prompt_ids, dtype=np.int64)[-MAX_CONTEXT:]
    answer = np.asarray(answer_ids, dtype=np.int64)
    ids = np.concatenate([prompt, answer])
    by_token = [np.zeros((0, index.num_contributors), dtype=np.int64)]
    foretold = [np.zeros(0, dtype=np.int64)]
    for start in range(len(prompt), len(ids), _BLOCK):
        back = min(start, MAX_CONTEXT)
        block = ids[start - back : start + _BLOCK]
        foretold.append(background.predict(block, back))
        by_token.append(_climb(index, block, back, foretold[-1]))
    return Drawn(np.concatenate(by_token), np.concatenate(foretold))


def _climb(index: Index, ids: Ints, start: int, foretold: Ints) -> Ints:
    """Return the bits of each contributor for each token from ids[start] on."""
    nodes = index.suffixes.narrow(index.tokens.ranks_of(ids), start, MAX_CONTEXT + 1)
    following, owned = index.suffixes.count(nodes)
    sizes = nodes.sizes
    likely = foretold
    mine = np.zeros((len(foretold), index.num_contributors), dtype=np.int64)
    for length in range(1, MAX_CONTEXT + 1):
        # The context ends before the token; with the token it is the next place's, one longer.
        seen = sizes[:-1, length]
        k = following[:-1, length - 1]
        likely = interpolate(likely, sizes[1:, length + 1] * ONE, seen, k)
        mine = interpolate(mine, owned[1:, length] * ONE, seen[:, None], k[:, None])
    likely = np.maximum(likely, 1)  # 0 is no more than the background's either
    gain = np.minimum(log2(likely) - log2(foretold), MAX_TOKEN_BITS * BIT)
    drawn: Ints = np.maximum(gain, 0)[:, None] * mine // likely[:, None]
    return drawn


def log2(numbers: Ints) -> Ints:
    """Return the binary logarithm of integers from 1 to 2^40, in 1/65536, by the table."""
    exponent = np.searchsorted(_POWERS, numbers, side="right") - 1
    # To the nearest of 4,096 steps between two powers of two; the last step is the next power.
    step = ((numbers << 13 >> exponent) + 1 >> 1) - TABLE_STEPS
    logarithm: Ints = exponent * BIT + log2_table()[step]
    return logarithm


@cache
def log2_table() -> Ints:
    """Return log2(1 + i / 4096) in 1/65536, rounded half up, for i from 0 to 4096."""
    return np.array([_log2_of(step) for step in range(TABLE_STEPS + 1)], dtype=np.int64)


def _log2_of(step: int) -> int:
    # Squaring doubles a logarithm: what it carries over is the next binary digit.
    if step == TABLE_STEPS:
        return BIT
    fraction = 96
    number = TABLE_STEPS + step << fraction - 12
    digits = 0
    for _ in range(17):
        number = number * number >> fraction
        carry = number >> fraction + 1
        number >>= carry
        digits = digits << 1 | carry
    return digits + 1 >> 1


_POWERS = np.array([1 << exponent for exponent in range(41)], dtype=np.int64)
