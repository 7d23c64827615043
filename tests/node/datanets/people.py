"""Daemons without a base that take part in datanets, and texts that intake lets pass."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from node.api.datanets import CharterSaid, GiveSaid, Progress
from node.app import open_daemon
from node.config import Config
from node.daemon import NodeDaemon

PEOPLE = ["The cook", "A neighbour", "My mother", "The baker", "An old friend", "The teacher"]
DOES = ["boils", "chops", "remembers", "buys", "fries", "washes", "carries", "sells", "keeps"]
THINGS = ["the rice", "two onions", "a fresh fish", "green lentils", "the pot", "mustard oil"]
WHEN = ["in the morning", "before the rain", "near the river", "on market days", "with patience"]
WHY = ["because guests are coming", "as her father did", "so that nothing burns", "and then rests"]


def write_text(path: Path, seed: int, paragraphs: int = 12) -> Path:
    """A text of plain sentences; another seed is another text."""
    dice = random.Random(seed)
    told = []
    for _ in range(paragraphs):
        sentences = [
            f"{dice.choice(PEOPLE)} {dice.choice(DOES)} {dice.choice(THINGS)}"
            f" {dice.choice(WHEN)} for {dice.randint(2, 9)} people {dice.choice(WHY)}."
            for _ in range(8)
        ]
        told.append(" ".join(sentences))
    path.write_text("\n\n".join(told) + "\n")
    return path


@asynccontextmanager
async def daemon(home: Path, *bootstrap: str, **changes: Any) -> AsyncIterator[NodeDaemon]:
    """One daemon that holds datanets and needs no base."""
    settings: dict[str, Any] = {
        "home": home,
        "role": "bootstrap",
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        "bootstrap": bootstrap,
    }
    async with open_daemon(Config(**(settings | changes))) as running:
        yield running


def charter(name: str = "kitchen", **changes: Any) -> CharterSaid:
    values: dict[str, Any] = {"languages": ("en",), "min_words": 10, "novelty_floor_bps": 0}
    return CharterSaid(name, **(values | changes))


def giving(*files: Path, **changes: Any) -> GiveSaid:
    return GiveSaid(tuple(map(str, files)), **({"agreed": True} | changes))


def hush(progress: Progress) -> None:
    """Hears how far it is."""
