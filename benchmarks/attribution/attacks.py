"""What whoever copies, or divides himself, would be paid for the same answers. Trains nothing: the
index is built anew, the answers are those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from factory.influence.fitting import Bits, blended
from factory.influence.measures import Floats
from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import read_tokens

from .folders import tokens_of
from .rewording import edit
from .texts import HONEST, Giver, World

COPIES = ((0.0, 1), (0.0, 5), (0.04, 1), (0.08, 1), (0.12, 1), (0.20, 1), (0.20, 5))
"""The part of a copy's tokens that are changed, and how many come, each under a name of its own."""
SPLIT = 5
BY_ANSWER_ALONE = 8  # λ in eighths


@dataclass(frozen=True)
class Terms:
    """How a world's people are paid: standing weights, and λ in eighths. Before trainings without
    each of them there is no λ, and weights are the tokens that count.
    """

    standing: tuple[int, ...]
    lambda_eighths: int | None

    @property
    def ways(self) -> dict[str, int]:
        """Return each way to pay that is asked about, by its λ."""
        alone = {"by_answer": BY_ANSWER_ALONE}
        return alone if self.lambda_eighths is None else {**alone, "paid": self.lambda_eighths}


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


def copies(world: World, asked: Asked, terms: Terms) -> list[dict[str, object]]:
    """Let late copies of each honest person join; what the copies get together, and what is left to
    whom they copied: means over the honest people, and the worst.

    Paid as if the copies' own tokens were worth to the adapter what those of the copied one are.
    """
    before = asked.bits(_index(world.givers))
    found: list[dict[str, object]] = []
    for share, count in COPIES:
        rows = [
            _copied(world, asked, terms, before=before, place=place, share=share, count=count)
            for place, giver in enumerate(world.givers)
            if giver.kind == HONEST
        ]
        table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        found.append(
            {
                "tokens_changed": share,
                "copies": count,
                **{f"{name}_percent": round(float(each.mean()), 2) for name, each in table.items()},
                **{f"{way}_most_percent": round(float(table[way].max()), 2) for way in terms.ways},
                "bits_kept_least_percent": round(float(table["bits_kept"].min()), 2),
            }
        )
    return found


def _copied(
    world: World,
    asked: Asked,
    terms: Terms,
    *,
    before: Bits,
    place: int,
    share: float,
    count: int,
) -> dict[str, float]:
    """Let `count` copies of one person join; return parts in percent."""
    people = len(world.givers)
    victim = world.givers[place]
    known = sorted({token for one in world.givers for text in one.documents for token in text})
    joined = list(world.givers)
    for k in range(count):
        text = edit(victim.documents, share, known, seed=place + 100 * k)
        joined.append(Giver(f"copy {k}", "copy", tuple(text)))
    index = _index(joined)
    bits = asked.bits(index)
    owned = np.array(index.owned_tokens()[people:]) / sum(map(len, victim.documents))
    stands = np.rint(terms.standing[place] * owned).astype(int).tolist()
    standing = [*terms.standing, *stands]
    parts = {way: _mean(bits, standing, eighths, asked) for way, eighths in terms.ways.items()}
    whole = _mean(before, terms.standing, BY_ANSWER_ALONE, asked)
    return {
        "owned": 100 * float(owned.mean()),
        **{way: float(found[people:].sum()) / 100 for way, found in parts.items()},
        "of_all_bits": 100 * float(bits[:, people:].sum() / bits.sum()),
        "copied_one_before": float(whole[place]) / 100,
        "copied_one_after": float(parts["by_answer"][place]) / 100,
        "bits_kept": 100 * float(bits[:, place].sum() / before[:, place].sum()),
    }


def sybils(world: World, asked: Asked, terms: Terms) -> dict[str, object]:
    """Let each honest person come as five, who share his documents and his standing weight."""
    differences: dict[str, list[float]] = {way: [] for way in terms.ways}
    bits = asked.bits(_index(world.givers))
    for place, one in enumerate(world.givers):
        if one.kind != HONEST:
            continue
        parts = [replace(one, documents=tuple(_fifths(one.documents)[k])) for k in range(SPLIT)]
        parts = [part for part in parts if part.documents]
        others = [*world.givers[:place], *parts, *world.givers[place + 1 :]]
        standing = list(terms.standing)
        spread = _spread(standing[place], len(parts))
        split = asked.bits(_index(others))
        several = [*standing[:place], *spread, *standing[place + 1 :]]
        for way, eighths in terms.ways.items():
            before = _mean(bits, standing, eighths, asked)[place]
            after = _mean(split, several, eighths, asked)[place : place + len(parts)].sum()
            differences[way].append(float(after - before) / 100)
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
