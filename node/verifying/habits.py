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
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Drawn:
    """A client, drawn: its terms and when it asks; whether a system prompt of its own stands before
    its questions; and how much it puts into its channel (None: as our own clients do).
    """

    habits: Habits
    turns: tuple[Turn, ...]
    has_system: bool = False
    deposit: int | None = None

    def within(self, most: int, within_s: float, dice: random.Random) -> Drawn:
        """Return it with `most` questions at most, within so many seconds: what would take longer
        begins earlier, and is moved closer together.
        """
        turns = self.turns[:most]
        first = turns[0].after_s
        span_s = turns[-1].after_s - first
        begins = float(first)
        if first + span_s > within_s:
            begins = dice.uniform(0.0, min(first, max(within_s - span_s, 0.1 * within_s)))
        scale = min(1.0, (within_s - begins) / max(span_s, 1))
        moved = (replace(one, after_s=int(begins + scale * (one.after_s - first))) for one in turns)
        return replace(self, turns=tuple(moved))


def draw_client(dice: random.Random, count: int | None, most: int) -> Drawn:
    """Draw a client by what is published of people, with `count` questions, None: as many as a
    person asks, `most` at most.
    """
    count = draw_count(dice, most) if count is None else count
    return Drawn(draw_habits(dice), tuple(draw_turns(dice, count)))


def draw_habits(dice: random.Random) -> Habits:
    """Draw the terms of a client's program."""
    [terms] = dice.choices([each for each, _ in PROGRAMS], [weight for _, weight in PROGRAMS])
    return Habits(*terms)


def draw_count(dice: random.Random, most: int) -> int:
    """Draw how many questions a client asks in its life, `most` at most."""
    conversations = round(math.exp(dice.gauss(0.8, CONVERSATIONS_SPREAD))) or 1
    turns = sum(_turns(dice) for _ in range(min(conversations, most)))
    return min(turns, most)


def draw_turns(dice: random.Random, count: int) -> list[Turn]:
    """Draw when `count` questions are asked."""
    turns = list[Turn]()
    now = dice.uniform(0.0, APART_S)
    left = 0
    for _ in range(count):
        goes_on = left > 0
        left = left - 1 if goes_on else _turns(dice) - 1
        if goes_on:
            now += dice.lognormvariate(math.log(PAUSE_S), PAUSE_SPREAD)
        elif turns:
            now += dice.lognormvariate(math.log(APART_S), APART_SPREAD)
        turns.append(Turn(int(now), goes_on))
    return turns


def _turns(dice: random.Random) -> int:
    count = 1
    while dice.random() < GOES_ON:
        count += 1
    return count
