"""Which tokens an adapter has learnt: what scripts/train_adapters.py drew, drawn again.

    text ids   ……[———window———]……[—a chat's answer—]……[—window—]……
    stretches     passage 3 | 4          9                9 | 10

Its rows follow from its seed alone, so their place in the text is known without training. A stretch
is a run of trained tokens within one passage. Knows no contributor.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.attribution.texts import train_adapters

from .corpus import Corpus

MIN_TOKENS = 8  # shorter ones have no window, so nobody owns them (docs/protocols/attribution.md)

Flags = npt.NDArray[np.bool_]


def stretches_of(corpus: Corpus, tokenizer: Any) -> dict[int, list[list[int]]]:
    """Return what was trained on of each passage, by its place in the text."""
    learnt = [i for i in range(len(corpus.passages)) if i not in corpus.held_out]
    texts = [corpus.passages[i].text for i in learnt]
    begins = np.cumsum([0, *(len(text) + len("\n\n") for text in texts)])
    found = tokenizer("\n\n".join(texts), return_offsets_mapping=True)
    ids = np.array(found.input_ids)
    offsets = np.array(found.offset_mapping)
    trained = _trained(corpus, tokenizer, learnt, begins=begins, offsets=offsets)
    stretches: dict[int, list[list[int]]] = {}
    for place, (passage, text) in enumerate(zip(learnt, texts, strict=True)):
        first, end = _between(offsets, int(begins[place]), int(begins[place]) + len(text))
        runs = _runs(trained[first:end])
        kept = [ids[first + a : first + b].tolist() for a, b in runs if b - a >= MIN_TOKENS]
        if kept:
            stretches[passage] = kept
    return stretches


def _trained(
    corpus: Corpus,
    tokenizer: Any,
    learnt: list[int],
    *,
    begins: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
) -> Flags:
    """Return which tokens of the running text stood in a row."""
    made = train_adapters()
    trained = np.zeros(len(offsets), dtype=bool)
    draw = random.Random(made.SEED)
    for _ in range(corpus.domain.num_steps):
        for _ in range(made.NUM_PLAIN_ROWS):
            first = draw.randrange(len(offsets) - made.WINDOW_TOKENS)
            trained[first : first + made.WINDOW_TOKENS] = True
        for _ in range(made.NUM_CHAT_ROWS):
            place = draw.choice(range(len(learnt)))
            passage = corpus.passages[learnt[place]]
            room = made.WINDOW_TOKENS - len(made.chat_ids(tokenizer, passage.title))
            spans = tokenizer(passage.body, return_offsets_mapping=True).offset_mapping[:room]
            begin = int(begins[place]) + len(passage.title) + len("\n")
            first, end = _between(offsets, begin, begin + int(spans[-1][1]))
            trained[first:end] = True
    return trained


def _between(offsets: npt.NDArray[np.int64], begin: int, end: int) -> tuple[int, int]:
    """Return the tokens [first, end) that lie within these characters."""
    first = int(np.searchsorted(offsets[:, 0], begin, side="left"))
    return first, int(np.searchsorted(offsets[:, 1], end, side="right"))


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """Return the runs [first, end) of what is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
