"""Small worlds of contributors who copy, repeat and edit one another, made from a number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from proofs.attribution.background import Background, write_background
from proofs.attribution.index import Index
from proofs.attribution.tokens import Contribution, read_tokens, write_tokens

from .other_ladder import Counts

TOKENIZER = bytes(32)


def index_of(people: int, contributions: Sequence[tuple[int, Sequence[Sequence[int]]]]) -> Index:
    """An index of what people gave."""
    given = [Contribution(giver, documents) for giver, documents in contributions]
    return Index.build(read_tokens(write_tokens(TOKENIZER, people, given)))


def background_of(*documents: Sequence[int]) -> Background:
    """A background."""
    return Background.build(read_tokens(write_background(TOKENIZER, documents)))


@dataclass
class World:
    """A text by contributions, a background, and questions that take up words of both."""

    people: int
    contributions: list[tuple[int, list[list[int]]]]
    common: list[list[int]]
    questions: list[tuple[list[int], list[int]]]

    def index(self) -> Index:
        """The text's index."""
        return index_of(self.people, self.contributions)

    def background(self) -> Background:
        """The background."""
        return background_of(*self.common)

    def counts(self) -> tuple[Counts, Counts]:
        """What the naive checker counts in both."""
        text = [(giver, one) for giver, documents in self.contributions for one in documents]
        return Counts(text, 9), Counts([(None, one) for one in self.common], 5)


def make_world(seed: int, num_questions: int) -> World:
    """A world: tiny or of hundreds of ids, some of them so repetitive that nodes are common."""
    chance = random.Random(seed)
    num_ids = chance.choice([2, 3, 8, 60, 500])
    people = chance.randint(1, 5)
    pool: list[list[int]] = [[1, 0]]

    def document() -> list[int]:
        own = [chance.randrange(num_ids) for _ in range(chance.randint(1, 30))]
        if chance.random() < 0.7:
            other = chance.choice(pool)
            start = chance.randrange(len(other))
            own[chance.randrange(len(own)) :] = other[start : start + chance.randint(1, 40)]
        pool.append(own or [0])
        return pool[-1]

    def documents(most: int) -> list[list[int]]:
        return [document() for _ in range(chance.randint(1, most))]

    contributions = [
        (chance.randrange(people), documents(chance.choice([2, 5, 40])))
        for _ in range(chance.randint(1, 8))
    ]
    common = documents(10) if chance.random() < 0.8 else []
    questions = [(document()[: chance.randint(0, 12)], document()) for _ in range(num_questions)]
    return World(people, contributions, common, questions)
