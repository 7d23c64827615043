"""Two small adapters' parts with the digests of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from proofs.weights import Pair, Plain, digest_weights

A = ((0.1, -0.25, 1.0e-5), (-3.0, 0.0, 7.5))
B = ((0.3, -1.0e-6), (0.0, 2.0), (-0.7, 1.5), (1.0039062, 0.5))
"""1.0039062 lies between two of bfloat16's numbers."""
NORM = (1.0, 1.1, 0.9)
SETTINGS = bytes.fromhex("93c3c290")


def weights() -> list[dict[str, Any]]:
    """A pair with a scale of 3/2; the same with a norm and settings beside it."""
    pair = ("model.layers.0.self_attn.q_proj", A, B, 1.5)
    return [_entry(pair, (), b""), _entry(pair, NORM, SETTINGS)]


def _entry(pair: tuple[str, Any, Any, float], norm: Any, settings: bytes) -> dict[str, Any]:
    name, a, b, scale = pair
    floats = [np.array(half, np.float32) for half in (a, b)]
    parts: list[tuple[str, Pair | Plain]] = [(name, Pair(*floats, scale))]
    if norm:
        parts.append(("model.norm", Plain((len(norm),), [np.array(norm, np.float32)])))
    found = digest_weights(parts, settings)
    return {
        "pair": {"module": name, "a": _listed(a), "b": _listed(b), "scale": scale},
        "norm": list(norm),
        "settings": settings.hex(),
        "brain": found.brain.hex(),
        "half": found.half.hex(),
    }


def _listed(half: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    return [list(row) for row in half]
