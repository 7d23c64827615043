"""Computes the noise of verifiable sampling: Philox-4x32-10 keyed by (seed, position, token id).

Specified in docs/protocols/sampling.md. Knows no logits and chooses no token.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED_BYTES = 32
GUMBEL_LIMIT = -math.log(-math.log1p(-(2.0**-33)))
"""No noise is larger: the value for the largest 32-bit word, about 22.9."""

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class NoiseKey:
    """The Philox key (two words) and the upper half of its counter (two words), from the seed."""

    key: tuple[int, int]
    nonce: tuple[int, int]


def derive_key(seed: bytes) -> NoiseKey:
    """Derive the key: the first 16 bytes of sha-256("lorikeet noise 1"

    seed) as four little-endian 32-bit words.
    """
    k0, k1, n0, n1 = struct.unpack("<4I", hashlib.sha256(b"lorikeet noise 1" + seed).digest()[:16])
    return NoiseKey((k0, k1), (n0, n1))


def philox(
    counter: tuple[Words, Words, Words, Words], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Compute ten rounds of Philox-4x32 (Salmon et al., 2011).

    The arrays hold 32-bit words in 64 bits.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]
        c0 = (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c1 = p1 & _LOW
        c2 = (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c3 = p0 & _LOW
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def noise_words(key: NoiseKey, position: int, token_ids: NDArray[np.int64]) -> Words:
    """Compute one 32-bit word per token id: the first output word for the counter (token id,
    position, nonce).
    """
    ids = token_ids.astype(np.uint64)
    fixed = [np.full_like(ids, word) for word in (position, *key.nonce)]
    return philox((ids, fixed[0], fixed[1], fixed[2]), key.key)[0]


def gumbel(words: Words) -> NDArray[np.float64]:
    """Turn words into standard Gumbel noise in binary64: u = (word + 1/2) / 2^32, -ln(-ln u)."""
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
