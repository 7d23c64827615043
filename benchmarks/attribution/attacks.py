"""What whoever copies, or divides himself, would be paid for the same answers. Trains nothing: the
index is built anew, the answers are those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from factory.influence.fitting import Bits, Evidence, Fitted, blended
from factory.influence.measures import Floats
from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import read_tokens

from .folders import tokens_of
from .rewording import edit
from .texts import HONEST, Giver, World

CHANGED = (0.0, 0.04, 0.08, 0.12, 0.20)
SPLIT = 5
BY_ANSWER_ALONE = 8  # λ in eighths


@dataclass(frozen=True)
class Asked:
    """The answers of a run, as the rule reads them."""

    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    background: Background
    none_bits: int

    def bits(self, index: Index) -> Bits:
        """Return every answer's bits [answers, givers] by an index."""
        rows = [
            measure(index, self.background, prompt, answer).bits
            for prompt, answer in zip(self.prompts, self.answers, strict=True)
        ]
        return np.array(rows, dtype=np.int64)


def copies(
    world: World, asked: Asked, evidence: Evidence, fitted: Fitted
) -> list[dict[str, object]]:
    """Let a late copy of each honest person join, some of its tokens changed. Per answer alone, and
    as it is paid if its text were worth to the adapter what the copied one is.
    """
    found: list[dict[str, object]] = []
    known = sorted({token for one in world.givers for text in one.documents for token in text})
    for share in CHANGED:
        alone, paid, owned, victims = [], [], [], []
        for place, victim in enumerate(world.givers):
            if victim.kind != HONEST:
                continue
            changed = edit(victim.documents, share, known, seed=place)
            joined = [*world.givers, Giver("copy", "copy", tuple(changed))]
            index = _index(joined)
            bits = asked.bits(index)
            part = index.owned_tokens()[-1] / sum(map(len, changed))
            standing = [*fitted.standing_bps, round(fitted.standing_bps[place] * part)]
            owned.append(part)
            by_answer = _mean(bits, standing, BY_ANSWER_ALONE, asked)
            alone.append(by_answer[-1])
            victims.append(by_answer[place])
            paid.append(_mean(bits, standing, fitted.lambda_eighths, asked)[-1])
        found.append(
            {
                "tokens_changed": share,
                "owned_percent": _percent(float(np.mean(owned))),
                "by_answer_percent": _bps(float(np.mean(alone))),
                "by_answer_most_percent": _bps(max(alone)),
                "copied_one_by_answer_percent": _bps(float(np.mean(victims))),
                "paid_percent": _bps(float(np.mean(paid))),
                "paid_most_percent": _bps(max(paid)),
            }
        )
    return found


def sybils(world: World, asked: Asked, fitted: Fitted) -> dict[str, object]:
    """Let each honest person come as five, who share his documents and his standing weight."""
    differences: dict[str, list[float]] = {"by_answer": [], "paid": []}
    bits = asked.bits(_index(world.givers))
    for place, one in enumerate(world.givers):
        if one.kind != HONEST:
            continue
        parts = [replace(one, documents=tuple(_fifths(one.documents)[k])) for k in range(SPLIT)]
        parts = [part for part in parts if part.documents]
        others = [*world.givers[:place], *parts, *world.givers[place + 1 :]]
        standing = list(fitted.standing_bps)
        spread = _spread(standing[place], len(parts))
        split = asked.bits(_index(others))
        several = [*standing[:place], *spread, *standing[place + 1 :]]
        for name, eighths in (("by_answer", BY_ANSWER_ALONE), ("paid", fitted.lambda_eighths)):
            before = _mean(bits, standing, eighths, asked)[place]
            after = _mean(split, several, eighths, asked)[place : place + len(parts)].sum()
            differences[name].append(float(after - before) / 100)
    return {
        name: {"least_points": min(found), "most_points": max(found)}
        for name, found in differences.items()
    }


def _index(givers: Sequence[Giver]) -> Index:
    return Index.build(read_tokens(tokens_of(givers)))


def _fifths(documents: Sequence[list[int]]) -> list[list[list[int]]]:
    """Divide documents into five runs of about as many tokens; a document may be cut."""
    running = [(number, token) for number, one in enumerate(documents) for token in one]
    fifths = []
    for part in np.array_split(np.arange(len(running)), SPLIT):
        texts: dict[int, list[int]] = {}
        for i in part:
            number, token = running[int(i)]
            texts.setdefault(number, []).append(token)
        fifths.append(list(texts.values()))
    return fifths


def _spread(whole: int, count: int) -> list[int]:
    return [whole // count + (k < whole % count) for k in range(count)]


def _mean(bits: Bits, standing: Sequence[int], eighths: int, asked: Asked) -> Floats:
    """Return everybody's mean part over answers, in basis points."""
    found: Floats = blended(bits, standing, eighths, asked.none_bits).mean(axis=0)
    return found


def _bps(value: float) -> float:
    return round(float(value) / 100, 2)


def _percent(value: float) -> float:
    return round(100 * float(value), 1)
