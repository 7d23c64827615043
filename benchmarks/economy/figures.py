"""What a strategy's profit is beside honesty's, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from proofs.parameters import NODE_SHARE, WHOLE_BPS

from .market import Outcome, Sales
from .measured import PROMPT_TOKENS, TOKENS
from .strategies import HONEST_NODE, Strategy
from .world import PRICE, World

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""97.5 % of Student's distribution, by degrees of freedom from 1 on."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Return it as a table shows it."""
        if self.low == self.high:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and where it lies, by Student's distribution; one value has no interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, mean, mean)
    wide = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
    wide *= statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - wide, mean + wide)


def work_cost(world: World) -> float:
    """Return what computing an honest answer costs, in units of the fee token: the part that the
    world says of what a node is paid for one.
    """
    fee = PRICE.cost(PROMPT_TOKENS, TOKENS)
    return world.work_part * fee * world.values[NODE_SHARE] / WHOLE_BPS


def sold(outcome: Outcome, strategy: Strategy, replaying: Sequence[bool]) -> Sales:
    """Return what a strategy sold to clients that replay, to the others, or to both."""
    each = [outcome.sales[strategy.name, one] for one in replaying]
    return Sales(
        sum(one.answers for one in each),
        sum(one.earned for one in each),
        sum(one.worked for one in each),
    )


def profit(outcome: Outcome, sales: Sales) -> float:
    """Return what sales brought beyond what they cost, in units of the fee token."""
    return sales.earned - sales.worked * work_cost(outcome.world)


def per_answer(outcome: Outcome, strategy: Strategy) -> float:
    """Return the profit of one answer."""
    sales = sold(outcome, strategy, (True, False))
    return profit(outcome, sales) / sales.answers if sales.answers else 0.0


def per_day(outcome: Outcome, strategy: Strategy, replaying: Sequence[bool]) -> float:
    """Return the profit of one node in one day."""
    num = sum(node.strategy.name == strategy.name for node in outcome.people.nodes)
    return profit(outcome, sold(outcome, strategy, replaying)) / num / outcome.world.days


def beside_honest(outcome: Outcome, strategy: Strategy, replaying: Sequence[bool]) -> float:
    """Return a node's profit of a day, times that of an honest one in the same world; below 1 the
    strategy loses.
    """
    honest = per_day(outcome, HONEST_NODE, replaying)
    return per_day(outcome, strategy, replaying) / honest if honest else 0.0


def replayed_part(outcome: Outcome) -> float:
    """Return how many of the answers that clients with an engine bought were replayed."""
    bought = sum(sales.answers for (_, replays), sales in outcome.sales.items() if replays)
    return outcome.replays.total() / bought if bought else 0.0
