"""Which trainings a run consists of, in which order. Decides; trains nothing.

First the whole adapter, then one without each contributor, then random halves, then a few from
another seed. If time ends early, what is missing is what is needed least.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .recipe import Recipe

WHOLE = "whole"


@dataclass(frozen=True)
class Training:
    """One training: who is left out, and from which seed it starts."""

    name: str
    left_out: frozenset[int]
    second_seed: bool = False


def plan(recipe: Recipe) -> tuple[Training, ...]:
    """Return every training of a run, those that are needed most first."""
    people = range(len(recipe.contributors))
    again = second_seeds(recipe)
    return (
        Training(WHOLE, frozenset()),
        *(Training(without(who), frozenset([who])) for who in people),
        *(Training(half(k), left_out) for k, left_out in enumerate(halves(recipe))),
        *([Training(second(WHOLE), frozenset(), second_seed=True)] if again else []),
        *(Training(second(without(who)), frozenset([who]), second_seed=True) for who in again),
    )


def without(who: int) -> str:
    """Return the name of the training that leaves out one contributor."""
    return f"without-{who:02}"


def half(k: int) -> str:
    """Return the name of the training that leaves out the k-th half."""
    return f"half-{k:02}"


def second(name: str) -> str:
    """Return the name of a training repeated from the second seed."""
    return f"second-{name}"


def halves(recipe: Recipe) -> tuple[frozenset[int], ...]:
    """Return who is left out in each of the random halves; no two are the same while there are
    others.
    """
    draw = random.Random(recipe.seed)
    people = range(len(recipe.contributors))
    found: list[frozenset[int]] = []
    for _ in range(64 * recipe.halves):
        one = frozenset(draw.sample(people, len(people) // 2))
        if len(found) < recipe.halves and one not in found:
            found.append(one)
    return tuple(found)


def second_seeds(recipe: Recipe) -> tuple[int, ...]:
    """Return the contributors who are left out once more from the second seed."""
    draw = random.Random(recipe.seed + 1)
    return tuple(sorted(draw.sample(range(len(recipe.contributors)), recipe.second_seed)))
