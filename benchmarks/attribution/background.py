"""What anybody would write: the base's own samples, drawn from seeds, so that they can be made
again.

The bases' published backgrounds want a million tokens; drawing so many takes a processor half an
hour, so the worlds take NUM_SAMPLES of WINDOW tokens and say so.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from factory.influence import sampling
from factory.influence.sampling import SAMPLE_TOKENS
from factory.learning import load_base

NUM_SAMPLES = 32
END_OF_TEXT = 0  # what stands between documents in the base's own training


def samples(path: Path, base: Path, count: int) -> list[list[int]]:
    """Return `count` samples of the base, each from its own seed; drawn once, kept at `path`."""
    vocabulary = json.loads((base / "config.json").read_bytes())["vocab_size"]
    return sampling.samples(path, base, vocabulary, count=count, first=END_OF_TEXT)


def plain_base(gguf: Path, folder: Path) -> Path:
    """Write the base once as a folder: reading a GGUF file takes half a minute each time."""
    if not (folder / "complete").exists():
        load_base(gguf, torch.device("cpu")).save_pretrained(folder)
        (folder / "complete").touch()
    return folder


__all__ = ["NUM_SAMPLES", "SAMPLE_TOKENS", "plain_base", "samples"]
