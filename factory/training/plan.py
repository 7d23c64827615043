"""Decides what a recipe leaves open, by the amount of text and the base.

    rank            4 / 8 / 16 / 32 below 0.1 / 1 / 10 million tokens and above
    learning rate   2e-3 below 0.5 billion parameters, 4e-4 below 3, 2e-4 above: about ten times
                    what suits a full fine-tuning (LoRA Without Regret, Schulman et al. 2025)
    epochs          as many as make 30 steps, at most 4

Computes; reads no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from .recipe import AUTO, Recipe

RANKS = ((100_000, 4), (1_000_000, 8), (10_000_000, 16))
MAX_RANK_BY_AUTO = 32
RATES = ((500_000_000, 2e-3), (3_000_000_000, 4e-4))
LEAST_RATE = 2e-4
LEAST_STEPS = 30
MAX_EPOCHS_BY_AUTO = 4
LOOKS = 8
LEAST_EVERY = 10


@dataclass(frozen=True)
class Amount:
    """How much there is to learn: tokens, rows of running text and rows of chat; and from which
    size of base.
    """

    tokens: int
    running: int
    chats: int
    parameters: int


@dataclass(frozen=True)
class Steps:
    """How rows are dealt: so many of each kind to a step, so many steps to an epoch and in all."""

    running: int
    chats: int
    an_epoch: int
    total: int


def resolve(recipe: Recipe, amount: Amount) -> Recipe:
    """Return the recipe with nothing left open."""
    adapter, train = recipe.adapter, recipe.train
    rank = adapter.rank
    rate = train.learning_rate
    if rank == AUTO:
        rank = next((rank for most, rank in RANKS if amount.tokens < most), MAX_RANK_BY_AUTO)
    if rate == AUTO:
        rate = next((rate for most, rate in RATES if amount.parameters < most), LEAST_RATE)
    alpha = 2 * rank if adapter.alpha == AUTO else adapter.alpha
    an_epoch = steps_of(recipe, amount, epochs=1).an_epoch
    epochs = train.epochs
    if epochs == AUTO:
        epochs = max(1, min(MAX_EPOCHS_BY_AUTO, math.ceil(LEAST_STEPS / an_epoch)))
    decided = replace(
        recipe,
        adapter=replace(adapter, rank=rank, alpha=alpha),
        train=replace(train, learning_rate=rate, epochs=epochs),
    )
    total = steps_of(decided, amount, epochs=int(epochs)).total
    every = recipe.stop.every
    if every == AUTO:
        every = max(LEAST_EVERY, math.ceil(total / LOOKS))
    return replace(decided, stop=replace(recipe.stop, every=every))


def steps_of(recipe: Recipe, amount: Amount, epochs: int) -> Steps:
    """Return how the rows are dealt."""
    rows = max(1, recipe.train.batch_tokens // recipe.rows.window)
    chats = round(recipe.rows.chat * rows) if amount.chats else 0
    if amount.running:
        chats = min(chats, rows - 1)
    running = rows - chats if amount.running else 0
    if not running:
        chats = rows
    an_epoch = math.ceil(amount.running / running if running else amount.chats / chats)
    return Steps(running, chats, an_epoch, min(epochs * an_epoch, recipe.train.steps))
