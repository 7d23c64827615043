"""Remembers how this node's own paying clients ask, in numbers, so that the clients of its audits
ask alike.

    a question is paid → note: when, by which terms, in which channel → at most so many clients
      → draw: one's times, each pause moved, by another's terms, if several send them

What was asked is not kept. A report shows what was drawn to anybody, so no client is drawn as it
was. Who wants audits to look as he likes has to be many paying clients; then that is what this
node's clients are like.
"""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import msgspec

from .habits import APART_S, APART_SPREAD, Drawn, Habits, Turn, draw_habits

MAX_CLIENTS = 2_048
MAX_TURNS = 64
KEPT_S = 60 * 86_400.0
DAY_S = 86_400
FEW = 20
"""How many clients weigh as much as what is published of people: of so many, half of all draws are
by what was seen here."""
ALIKE = 3
"""How many clients send the same before it is drawn."""
MOVED = 0.5
"""The deviation of the logarithm by which each pause is moved."""
MAX_FILE_BYTES = 8 << 20


@dataclass(frozen=True)
class Question:
    """A question that was paid: when, in Unix seconds; by which terms; whether a system prompt of
    the client's own stood before it; how much was in its channel; and whether it went on with the
    one before.
    """

    at: int
    habits: Habits
    has_system: bool
    deposit: int
    follows: bool


class Life(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is kept of a client: terms, system prompt and channel of its first question, and when
    each was asked and whether it followed.
    """

    habits: Habits
    has_system: bool
    deposit: int
    turns: list[tuple[int, bool]]


class Clientele:
    """The newest clients and what they did, of any number of threads one."""

    def __init__(self) -> None:
        self._lives: OrderedDict[bytes, Life] = OrderedDict()
        self.is_dirty = False

    def __len__(self) -> int:
        return len(self._lives)

    def note(self, client: bytes, asked: Question) -> None:
        """Remember a question of a client (its address); the client seen first makes room."""
        life = self._lives.get(client)
        if life is None:
            self._drop_old(asked.at)
            life = Life(asked.habits, asked.has_system, asked.deposit, [])
            self._lives[client] = life
        if len(life.turns) < MAX_TURNS:
            last = life.turns[-1][0] if life.turns else asked.at
            life.turns.append((max(asked.at, last), asked.follows and bool(life.turns)))
            self.is_dirty = True

    def draw(self, dice: random.Random, count: int | None, now: float) -> Drawn | None:
        """Draw a client that asks `count` questions (None: as many as such a client does). None:
        draw by what is published, since few clients were seen.
        """
        lives = list(self._lives.values())
        if len(lives) < ALIKE or dice.random() * (len(lives) + FEW) >= len(lives):
            return None
        drawn = dice.choice(lives)
        alike = [one for one in lives if one.has_system == drawn.has_system]
        return Drawn(  # times, terms and channel of three: a long life is drawn again and again
            _draw_habits(dice, lives, dice.choice(alike)),
            tuple(_draw_turns(dice, alike, drawn, count, now)),
            drawn.has_system,
            dice.choice(alike).deposit,
        )

    def encode(self) -> bytes:
        """Return all of it, for `load` after a restart."""
        self.is_dirty = False
        return msgspec.msgpack.encode(list(self._lives.items()))

    def load(self, path: Path) -> None:
        """Take what was kept before a restart; nothing where there is no file. Raises OSError,
        ValueError.
        """
        if not path.exists():
            return
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        for client, life in _FILE.decode(path.read_bytes())[-MAX_CLIENTS:]:
            if life.turns:
                self._lives[client] = life
        self.is_dirty = False

    def _drop_old(self, now: int) -> None:
        while self._lives:
            life = next(iter(self._lives.values()))
            if len(self._lives) < MAX_CLIENTS and life.turns[0][0] + KEPT_S > now:
                return
            self._lives.popitem(last=False)


def _draw_habits(dice: random.Random, lives: Sequence[Life], drawn: Life) -> Habits:
    """Return a client's terms where several send them. Else put some together of what those send
    whose terms are as rare, each value sent by several; they are nobody's then.
    """
    counts = Counter(one.habits for one in lives)
    if counts[drawn.habits] >= ALIKE:
        return drawn.habits
    rare = [one for one in lives if counts[one.habits] < ALIKE]
    usual = draw_habits(dice)

    def pick(value_of: Callable[[Habits], int]) -> int:
        times = Counter(value_of(one.habits) for one in lives)
        values = [value_of(one.habits) for one in rare]
        known = [value for value in values if times[value] >= ALIKE]
        return dice.choice(known or [value_of(usual)])

    return Habits(
        pick(lambda one: one.temperature),
        pick(lambda one: one.top_p),
        pick(lambda one: one.max_tokens),
    )


def _draw_turns(
    dice: random.Random, alike: Sequence[Life], drawn: Life, count: int | None, now: float
) -> Iterator[Turn]:
    """Yield a client's questions from about the hour on at which it asked its first, with pauses
    that are moved, each by MOVED on average. Where it asked less than `count`, another goes on.
    """
    at = (drawn.turns[0][0] - int(now) + dice.randint(-1_800, 1_800)) % DAY_S
    yield Turn(at, follows=False)
    done = 1
    while count is None or done < count:
        for before, after in islice(pairwise(drawn.turns), None if count is None else count - done):
            at += int((after[0] - before[0]) * math.exp(dice.gauss(0.0, MOVED)))
            yield Turn(at, after[1])
            done += 1
        if count is None:
            return
        if done < count:
            drawn = dice.choice(alike)
            at += int(dice.lognormvariate(math.log(APART_S), APART_SPREAD))
            yield Turn(at, follows=False)
            done += 1


_FILE = msgspec.msgpack.Decoder(list[tuple[bytes, Life]])
