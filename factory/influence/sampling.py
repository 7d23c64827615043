"""What anybody would write: the base's own words, drawn from seeds, so that they can be made again.

Whose words an answer drew on is told against these; an adapter's background wants a million tokens,
and drawing so many takes a processor half an hour.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from ..keeping import keep
from .base import Base
from .recipe import Recipe

SAMPLE_TOKENS = 128
TEMPERATURE = 0.8
FIRST_SEED = 77_000
AT_ONCE = 52


def samples(path: Path, base: Path, vocabulary: int, count: int, first: int) -> list[list[int]]:
    """Return `count` samples of the base that begin with the token `first`, each from its own seed;
    drawn once, kept at `path`.
    """
    drawn: list[list[int]] = []
    if path.exists():
        drawn = msgspec.json.decode(path.read_bytes(), type=list[list[int]])
    if len(drawn) < count:
        recipe = Recipe(base=str(base), contributors=("a", "b"), rank=1, alpha=1, upper_layers=1)
        bare = Base(recipe, np.arange(vocabulary))
        bare.begin(0)
        while len(drawn) < count:
            number = min(AT_ONCE, count - len(drawn))
            seeds = range(FIRST_SEED + len(drawn), FIRST_SEED + len(drawn) + number)
            drawn += bare.draw([[first]] * number, seeds, SAMPLE_TOKENS, TEMPERATURE)
            keep(path, msgspec.json.encode(drawn))
            print(f"{len(drawn)} of {count} samples of the base", flush=True)
    return drawn[:count]
