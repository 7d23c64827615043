"""Draws what a client looks like to the node that it asks: how often, when, what follows on what,
and by which terms. Pure.

A canary that is asked otherwise than clients ask is known for one, and answered honestly for that
alone. So an audit's client is drawn whole: as one program with its terms, whose conversations are
short, with pauses between questions that people make, and longer ones between conversations. The
numbers are those of published conversations with chat models: two turns a conversation on average
(Zheng et al. 2023, LMSYS-Chat-1M), five conversations a person (Zhao et al. 2024, WildChat).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

PROGRAMS = (
    ((1_000, 1_000, 2_048), 40),
    ((700, 1_000, 128), 20),
    ((700, 1_000, 1_024), 8),
    ((700, 950, 512), 8),
    ((0, 1_000, 256), 8),
    ((800, 900, 1_024), 6),
    ((1_000, 1_000, 512), 6),
    ((200, 1_000, 512), 4),
)
"""Temperature and top_p in thousandths and most tokens of an answer, and how many of a hundred
programs send them: the first is what a request that says nothing comes to, the second what the
command line sends."""
GOES_ON = 0.5
"""How likely another question follows in a conversation."""
PAUSE_S = 45.0
PAUSE_SPREAD = 1.0
APART_S = 4 * 3600.0
APART_SPREAD = 1.5
"""Medians of the pauses within and between conversations, and the deviations of their
logarithms."""
CONVERSATIONS_SPREAD = 1.2


@dataclass(frozen=True)
class Habits:
    """The terms that one client sends with each question; temperature and top_p in thousandths."""

    temperature: int
    top_p: int
    max_tokens: int


@dataclass(frozen=True)
class Turn:
    """When a question is asked, in seconds from the beginning, and whether it goes on with the
    conversation of the one before.
    """

    after_s: int
    follows: bool


def draw_habits(dice: random.Random) -> Habits:
    """Draw the terms of a client's program."""
    [terms] = dice.choices([each for each, _ in PROGRAMS], [weight for _, weight in PROGRAMS])
    return Habits(*terms)


def draw_count(dice: random.Random, most: int) -> int:
    """Draw how many questions a client asks in its life, `most` at most."""
    conversations = round(math.exp(dice.gauss(0.8, CONVERSATIONS_SPREAD))) or 1
    turns = sum(_turns(dice) for _ in range(min(conversations, most)))
    return min(turns, most)


def draw_turns(dice: random.Random, count: int, within_s: float) -> list[Turn]:
    """Draw when `count` questions are asked. What would take longer than `within_s` is moved
    closer together.
    """
    times = list[float]()
    follows = list[bool]()
    now = dice.uniform(0.0, min(within_s, APART_S))
    left = 0
    for _ in range(count):
        goes_on = left > 0
        left = left - 1 if goes_on else _turns(dice) - 1
        if goes_on:
            now += dice.lognormvariate(math.log(PAUSE_S), PAUSE_SPREAD)
        elif times:
            now += dice.lognormvariate(math.log(APART_S), APART_SPREAD)
        times.append(now)
        follows.append(goes_on)
    scale = min(1.0, within_s / max(now, 1.0))
    return [Turn(int(at * scale), after) for at, after in zip(times, follows, strict=True)]


def _turns(dice: random.Random) -> int:
    count = 1
    while dice.random() < GOES_ON:
        count += 1
    return count
