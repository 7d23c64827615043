"""How well a node tells an auditor's canaries from its clients.

    python -m benchmarks.proofs.canaries

A node that computes honestly only for auditors has to know them. Here it is given what it sees of
each question (16 features below), half of all keys with the truth beside them, and a choice of two
classifiers, a logistic regression and boosted trees of depth 3; the figure is the area under the
ROC curve over the other keys, which it never saw, with an interval by resampling keys. 0.5: it
cannot tell; 1: always.

Canaries are drawn by the code that audits (`draw_like`), as background audits are: by an auditor
whom nobody asked yet, and by one who was paid by 50 and by 500 clients of the same world over 60
days; and by the first rule (questions that stand alone, at uniform times within half an hour,
greedy, of 64 to 192 tokens), all in one run. Clients are a model of traffic, whose numbers are not
the auditor's: people with conversations (LMSYS-Chat-1M: two turns, 70 tokens a question; WildChat:
five conversations a person), over weeks, more by day than by night, most with the defaults of our
page and command line; in the second world a fifth of all questions comes from programs, with system
prompts, day and night. Prompts of the pool are drawn as people's and programs' are. No traffic of a
real network was at hand.

Expected before the first run, in which audits lasted a day at most: by the first rule 0.98 or more,
by the temperature alone; by what is published 0.55 to 0.65 among people, most of it by the key's
age, and a tenth more where programs ask, since no canary looks like a program's. (It was 0.92 and
0.95 then, and 0.78 and 0.84 with four weeks.) Learnt of 500 clients: within 0.03 of "as clients";
of 50, half way there.

What each feature gives away is how much is lost when its values are dealt anew among the questions.
"as clients" are clients themselves, within what a plan
may hold: nothing that an auditor could know of habits would do better.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks import write_result
from node.api.verifying import AuditSaid
from node.verifying.auditing import MAX_WITHIN_S, draw_like
from node.verifying.clientele import Clientele, Question
from node.verifying.habits import Drawn, Habits, Turn
from proofs.attestation.pledge import MAX_CANARIES

FEATURES = (
    "key age",
    "questions of the key",
    "time since its last",
    "prompt tokens",
    "goes on with its last",
    "ends with a question mark",
    "begins in lower case",
    "has lines",
    "channel size",
    "part of it spent",
    "temperature",
    "top_p",
    "most tokens",
    "system prompt",
    "hour",
)
DAY_S = 86_400.0
SEEN_DAYS = 21.0
LEARNT_DAYS = 60.0
FIRST_DEPOSIT = 50_000.0
PRICE = 20.0
RESAMPLED = 200

Row = list[float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Terms:
    """What one client's program sends with each question; texts at which an answer stops are none
    of it, since a node does not see them.
    """

    temperature: float
    top_p: float
    max_tokens: float
    has_system: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One question: when, in seconds, and what of it a node can read."""

    at: float
    follows: bool
    tokens: float
    style: tuple[bool, bool, bool]


def rows_of(asked: Sequence[Asked], terms: Terms, deposit: float, since: float) -> list[Row]:
    """What a node sees of one key's questions, those after `since`."""
    rows = []
    read = 0.0
    spent = 0.0
    for number, one in enumerate(asked):
        read = (read if one.follows else 0.0) + one.tokens
        last = asked[number - 1].at if number else one.at
        if one.at >= since:
            rows.append(
                [
                    math.log1p(one.at - asked[0].at),
                    math.log1p(number),
                    math.log1p(one.at - last),
                    math.log1p(read + 150 * terms.has_system),
                    float(one.follows),
                    *map(float, one.style),
                    math.log(deposit),
                    min(spent / deposit, 2.0),
                    terms.temperature,
                    terms.top_p,
                    terms.max_tokens,
                    terms.has_system,
                    one.at % DAY_S / 3600.0,
                ]
            )
        answered = min(terms.max_tokens, 215.0)
        spent += PRICE * (read + answered)
        read += answered
    return rows


# --- clients ---


def draw_words(dice: random.Random) -> tuple[float, tuple[bool, bool, bool]]:
    """Tokens and style of a person's question."""
    tokens = dice.lognormvariate(math.log(70) - 0.72, 1.2)
    return tokens, (dice.random() < 0.5, dice.random() < 0.4, dice.random() < 0.15)


def draw_text(dice: random.Random) -> tuple[float, tuple[bool, bool, bool]]:
    """Tokens and style of what a program asks."""
    style = (dice.random() < 0.2, dice.random() < 0.1, dice.random() < 0.9)
    return dice.lognormvariate(5.5, 0.6), style


@dataclass(frozen=True)
class Life:
    """All that one client does."""

    terms: Terms
    asked: list[Asked]
    deposit: float

    def rows(self) -> list[Row]:
        """Its questions in the last days."""
        return rows_of(self.asked, self.terms, self.deposit, SEEN_DAYS * DAY_S)


def person(dice: random.Random, born: float) -> Life:
    """A person, from the first question on."""
    terms = dice.choices(
        [
            Terms(1.0, 1.0, 2048),
            Terms(0.7, 1.0, 128),
            Terms(dice.choice((0.0, 0.3, 0.7, 0.9)), dice.choice((1.0, 0.95, 0.9)), 1024),
            Terms(dice.choice((0.0, 0.7, 1.0)), 1.0, dice.choice((256, 512, 1024))),
        ],
        (45, 25, 10, 20),
    )[0]
    asked: list[Asked] = []
    at = born
    for _ in range(max(1, round(dice.lognormvariate(0.9, 1.15)))):
        at = by_day(dice, at)
        follows = False
        while True:
            tokens, style = draw_words(dice)
            asked.append(Asked(at, follows, tokens, style))
            if dice.random() < 0.5:
                break
            follows = True
            at += dice.lognormvariate(math.log(60), 1.1)
        at += dice.lognormvariate(math.log(6 * 3600), 1.5)
    return Life(terms, asked, FIRST_DEPOSIT if dice.random() < 0.85 else dice.lognormvariate(11, 1))


def by_day(dice: random.Random, at: float) -> float:
    """Move a time into an hour in which people are awake, as far as they are near one another."""
    while dice.random() < 0.35 * (1 + math.cos(2 * math.pi * (at % DAY_S / DAY_S - 0.1))):
        at += 3600.0 * dice.random()
    return at


def program(dice: random.Random, born: float) -> Life:
    """A program, from its first question on."""
    terms = Terms(
        dice.choice((0.0, 0.0, 0.2, 0.7)), 1.0, dice.choice((64, 256, 512)), has_system=1.0
    )
    at = born
    asked = []
    for _ in range(max(1, round(dice.lognormvariate(2.5, 1)))):
        asked.append(Asked(at, False, *draw_text(dice)))
        at += dice.lognormvariate(math.log(300), 1.5)
    return Life(terms, asked, dice.lognormvariate(12, 1))


def clients(dice: random.Random, count: int, of_programs: float) -> list[list[Row]]:
    """Keys of clients until `count` questions are there, that part of them of programs."""
    found: list[list[Row]] = []
    made = {person: 0, program: 0}
    while sum(made.values()) < count:
        wants = made[program] < of_programs * sum(made.values())
        draw = program if wants else person
        rows = draw(dice, dice.uniform(0, (SEEN_DAYS + 3) * DAY_S)).rows()
        rows = rows[: max(1, count // 50)]
        made[draw] += len(rows)
        found += [rows] if rows else []
    return found


# --- canaries ---


def canaries(
    dice: random.Random, count: int, plan: Callable[[random.Random, float], Drawn]
) -> list[list[Row]]:
    """Keys of audits until `count` canaries are there."""
    found: list[list[Row]] = []
    while sum(map(len, found)) < count:
        began = dice.uniform(0, (SEEN_DAYS + 3) * DAY_S)
        drawn = plan(dice, began)
        words = draw_text if drawn.has_system else draw_words
        asked = [Asked(began + one.after_s, one.follows, *words(dice)) for one in drawn.turns]
        habits = drawn.habits
        terms = Terms(
            habits.temperature / 1000,
            habits.top_p / 1000,
            habits.max_tokens,
            has_system=float(drawn.has_system),
        )
        rows = rows_of(asked, terms, drawn.deposit or FIRST_DEPOSIT, SEEN_DAYS * DAY_S)
        found += [rows] if rows else []
    return found


def seen_by_auditor(dice: random.Random, count: int, of_programs: float) -> Clientele:
    """What an auditor knows who was paid by so many clients."""
    lives: list[Life] = []
    made = {person: 0, program: 0}
    while len(lives) < count:
        wants = made[program] < of_programs * sum(made.values())
        draw = program if wants else person
        lives.append(draw(dice, dice.uniform(0, LEARNT_DAYS * DAY_S)))
        made[draw] += len(lives[-1].asked)
    found = Clientele()
    for number, life in enumerate(sorted(lives, key=lambda one: one.asked[0].at)):
        terms = life.terms
        habits = Habits(
            round(1000 * terms.temperature), round(1000 * terms.top_p), round(terms.max_tokens)
        )
        for one in life.asked:
            if one.at < LEARNT_DAYS * DAY_S:
                question = Question(
                    int(one.at), habits, bool(terms.has_system), int(life.deposit), one.follows
                )
                found.note(number.to_bytes(20, "big"), question)
    return found


def as_clients(dice: random.Random, count: int, of_programs: float) -> list[list[Row]]:
    """Keys that ask just as clients do, as far as a plan has room, until `count` are there."""
    found: list[list[Row]] = []
    while sum(map(len, found)) < count:
        draw = program if dice.random() < of_programs else person
        life = draw(dice, dice.uniform(0, (SEEN_DAYS + 3) * DAY_S))
        began = life.asked[0].at if life.asked else 0.0
        held = [one for one in life.asked[:MAX_CANARIES] if one.at <= began + MAX_WITHIN_S]
        rows = replace(life, asked=held).rows()
        found += [rows] if rows else []
    return found


def background(clientele: Clientele, dice: random.Random, now: float) -> Drawn:
    """The client of a background audit."""
    said = AuditSaid("", canaries=None, within_s=MAX_WITHIN_S)
    return draw_like(clientele, said, dice, now)


def first_rule(dice: random.Random, _: float) -> Drawn:
    """The client of an audit by the first rule, of one length."""
    times = sorted(int(dice.uniform(0, 1800)) for _ in range(4))
    habits = Habits(0, 1_000, dice.choice((64, 96, 128, 192)))
    return Drawn(habits, tuple(Turn(at, follows=False) for at in times))


# --- the node's classifiers ---


def logistic(x: Floats, y: Floats) -> Callable[[Floats], Floats]:
    """Fit a logistic regression on the features and their squares."""
    middle = x.mean(0)
    spread = x.std(0) + 1e-9

    def widen(some: Floats) -> Floats:
        near = (some - middle) / spread
        return np.hstack([near, near**2, np.ones((len(some), 1))])

    wide = widen(x)
    weights = np.zeros(wide.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(wide @ weights, -30, 30)))
        curve = (wide * (p * (1 - p))[:, None]).T @ wide + np.eye(len(weights))
        weights += np.linalg.solve(curve, wide.T @ (y - p) - weights)
    return lambda some: widen(some) @ weights


@dataclass(frozen=True)
class Tree:
    """A tree: splits on a feature at a value, or ends with what it adds."""

    adds: float = 0.0
    feature: int = 0
    at: float = 0.0
    sides: tuple[Tree, Tree] | None = None

    def of(self, x: Floats) -> Floats:
        """What it adds to each row."""
        if self.sides is None:
            return np.full(len(x), self.adds)
        low, high = self.sides
        return np.where(x[:, self.feature] <= self.at, low.of(x), high.of(x))


def grow(x: Floats, slope: Floats, curve: Floats, depth: int) -> Tree:
    """Grow a tree by second-order gains (as XGBoost does), 16 cuts a feature, 20 rows a leaf."""

    def gain(s: float, c: float) -> float:
        return s * s / (c + 1.0)

    leaf = Tree(adds=0.1 * float(slope.sum() / (curve.sum() + 1.0)))
    best = (1e-3, 0, 0.0)
    whole = gain(slope.sum(), curve.sum())
    for feature in range(x.shape[1] if depth and len(x) > 40 else 0):
        for at in np.unique(np.quantile(x[:, feature], np.linspace(0.05, 0.95, 16))):
            low = x[:, feature] <= at
            if 20 <= low.sum() <= len(x) - 20:
                high = ~low
                wins = gain(slope[low].sum(), curve[low].sum())
                wins += gain(slope[high].sum(), curve[high].sum()) - whole
                best = max(best, (wins, feature, float(at)))
    if best[0] <= 1e-3:
        return leaf
    _, feature, at = best
    low = x[:, feature] <= at
    sides = (
        grow(x[low], slope[low], curve[low], depth - 1),
        grow(x[~low], slope[~low], curve[~low], depth - 1),
    )
    return Tree(feature=feature, at=at, sides=sides)


def boosted(x: Floats, y: Floats, rounds: int) -> Callable[[Floats], Floats]:
    """Fit boosted trees of depth 3."""
    trees: list[Tree] = []
    scores = np.zeros(len(x))
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-scores))
        trees.append(grow(x, y - p, p * (1 - p), 3))
        scores += trees[-1].of(x)
    return lambda some: np.sum([tree.of(some) for tree in trees], axis=0)


def auc(scores: Floats, y: Floats) -> float:
    """The chance that a canary is scored above a client's question; ties count half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]
    hits = float(y.sum())
    return float((ranks[y == 1].sum() - hits * (hits + 1) / 2) / (hits * (len(y) - hits)))


@dataclass(frozen=True)
class Half:
    """Keys, each with its questions and whether it is an auditor's."""

    keys: list[tuple[list[Row], float]]

    def table(self, chosen: Sequence[int] | None = None) -> tuple[Floats, Floats]:
        """All questions, and whose they are."""
        keys = self.keys if chosen is None else [self.keys[at] for at in chosen]
        x = np.array([row for rows, _ in keys for row in rows])
        return x, np.array([truth for rows, truth in keys for _ in rows])


def measure(
    theirs: list[list[Row]], ours: list[list[Row]], rounds: int, seed: int
) -> dict[str, object]:
    """Train on half of the keys, and say how well the others are told apart."""
    keys = [(rows, 0.0) for rows in theirs] + [(rows, 1.0) for rows in ours]
    random.Random(seed).shuffle(keys)
    learnt = Half(keys[::2])
    held = Half(keys[1::2])
    x, y = learnt.table()
    test, truth = held.table()
    models = {"logistic": logistic(x, y), "trees": boosted(x, y, rounds)}
    figures = {name: auc(model(test), truth) for name, model in models.items()}
    name = max(figures, key=lambda each: figures[each])
    low, high = interval(held, models[name], seed)
    alone = {
        feature: max(auc(sign * test[:, at], truth) for sign in (1, -1))
        for at, feature in enumerate(FEATURES)
    }
    return {
        "canaries": int(y.sum() + truth.sum()),
        "questions": len(y) + len(truth) - int(y.sum() + truth.sum()),
        "auc": figures,
        "best": figures[name],
        "interval": (low, high),
        "by one feature": dict(sorted(alone.items(), key=lambda pair: -pair[1])[:6]),
        "given away by": importances(models[name], test, truth, seed),
    }


def importances(
    model: Callable[[Floats], Floats], x: Floats, truth: Floats, seed: int
) -> dict[str, float]:
    """How much less is told apart when one feature is dealt anew among all questions; the six that
    give most away.
    """
    dice = np.random.default_rng(seed)
    whole = auc(model(x), truth)
    lost = {}
    for at, feature in enumerate(FEATURES):
        dealt = x.copy()
        dealt[:, at] = dice.permutation(dealt[:, at])
        lost[feature] = whole - auc(model(dealt), truth)
    return dict(sorted(lost.items(), key=lambda pair: -pair[1])[:6])


def interval(held: Half, model: Callable[[Floats], Floats], seed: int) -> tuple[float, float]:
    """95 %, by drawing keys anew."""
    dice = random.Random(seed)
    scored = [(model(np.array(rows)), truth) for rows, truth in held.keys]
    found = []
    for _ in range(RESAMPLED):
        chosen = dice.choices(scored, k=len(scored))
        scores = np.concatenate([each for each, _ in chosen])
        found.append(auc(scores, np.concatenate([np.full(len(s), t) for s, t in chosen])))
    found.sort()
    return found[int(0.025 * RESAMPLED)], found[int(0.975 * RESAMPLED) - 1]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--questions", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=100)
    asked = parser.parse_args()
    rows = []
    for world, of_programs in (("people", 0.0), ("people, and programs", 0.2)):
        rules: dict[str, Callable[[random.Random, int], list[list[Row]]]] = {
            "first rule": partial(canaries, plan=first_rule),
            "published": partial(canaries, plan=partial(background, Clientele())),
            **{
                f"learnt of {count}": partial(
                    canaries,
                    plan=partial(
                        background,
                        seen_by_auditor(random.Random(f"{world} auditor"), count, of_programs),
                    ),
                )
                for count in (50, 500)
            },
            "as clients": partial(as_clients, of_programs=of_programs),
        }
        for rule, ask in rules.items():
            figures = measure(
                clients(random.Random(f"{world} clients"), asked.questions, of_programs),
                ask(random.Random(f"{world} {rule}"), asked.questions),
                asked.rounds,
                seed=1,
            )
            rows.append({"world": world, "rule": rule, **figures})
            print(rows[-1], flush=True)
    write_result("proofs-canaries", {"goal": "at most 0.6", "features": FEATURES, "rows": rows})


if __name__ == "__main__":
    main()
