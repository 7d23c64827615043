"""What anybody would write: the base's own samples, drawn from seeds, so that they can be made
again.

The bases' published backgrounds want a million tokens; drawing so many takes a processor half an
hour, so the worlds take NUM_SAMPLES of WINDOW tokens and say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from factory.influence.base import Base
from factory.influence.recipe import Recipe
from factory.keeping import keep
from factory.learning import load_base

NUM_SAMPLES = 32
SAMPLE_TOKENS = 128
TEMPERATURE = 0.8
FIRST_SEED = 77_000
AT_ONCE = 52
END_OF_TEXT = 0  # what stands between documents in the base's own training


def samples(path: Path, base: Path, count: int) -> list[list[int]]:
    """Return `count` samples of the base, each from its own seed; drawn once, kept at `path`."""
    drawn: list[list[int]] = json.loads(path.read_bytes()) if path.exists() else []
    if len(drawn) < count:
        vocabulary = json.loads((base / "config.json").read_bytes())["vocab_size"]
        recipe = Recipe(base=str(base), contributors=("a", "b"), rank=1, alpha=1, upper_layers=1)
        bare = Base(recipe, np.arange(vocabulary))
        bare.begin(0)
        while len(drawn) < count:
            number = min(AT_ONCE, count - len(drawn))
            seeds = range(FIRST_SEED + len(drawn), FIRST_SEED + len(drawn) + number)
            drawn += bare.draw([[END_OF_TEXT]] * number, seeds, SAMPLE_TOKENS, TEMPERATURE)
            keep(path, json.dumps(drawn).encode())
            print(f"{len(drawn)} of {count} samples of the base", flush=True)
    return drawn[:count]


def plain_base(gguf: Path, folder: Path) -> Path:
    """Write the base once as a folder: reading a GGUF file takes half a minute each time."""
    if not (folder / "complete").exists():
        load_base(gguf, torch.device("cpu")).save_pretrained(folder)
        (folder / "complete").touch()
    return folder
