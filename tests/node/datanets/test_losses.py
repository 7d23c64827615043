"""A council hears of texts that are far too hard for the base."""

from __future__ import annotations

from pathlib import Path

import msgspec

from node.daemon import NodeDaemon
from node.errors import EngineLost
from tests.node.networks import open_lab

from .people import charter, daemon, giving, hush, write_text

PLAIN, HARD = 2.5, 5.6


async def give(node: NodeDaemon, folder: Path, seed: int) -> str:
    text = write_text(folder / f"{seed}.txt", seed)
    given = await node.datanets.give("kitchen", giving(text, title=str(seed)), hush)
    return given.contributions[0].id


async def held_for_loss(node: NodeDaemon) -> dict[str, list[int]]:
    """The documents of what waits that are held for their loss, by title."""
    queued = await node.datanets.queue("kitchen", hush)
    return {
        one.title: [found.document for found in one.findings if found.code == "loss"]
        for one in queued
    }


async def test_what_is_far_above_the_median_of_what_was_accepted_is_held(tmp_path: Path) -> None:
    asked: list[str] = []
    hard = ""

    async def lose(text: str) -> float:
        asked.append(text)
        return HARD if hard and hard in text else PLAIN

    async with daemon(tmp_path / "owner") as owner:
        await owner.datanets.create(charter())
        first = await give(owner, tmp_path, 1)
        owner.datanets.take_base(bytes([7]) * 32, (), lose)
        hard = (tmp_path / "1.txt").read_text().split("\n\n")[0]
        assert await held_for_loss(owner) == {"1": []}  # nothing is accepted: there is no median
        assert len(asked) == 6  # each of its documents, of two paragraphs
        await owner.datanets.judge("kitchen", first, "accept", ("", "", ""))
        second = await give(owner, tmp_path, 2)
        assert await held_for_loss(owner) == {"2": []}  # six are too few to say anything
        await owner.datanets.judge("kitchen", second, "accept", ("", "", ""))
        hard = write_text(tmp_path / "3.txt", 3).read_text().split("\n\n")[4]
        await give(owner, tmp_path, 3)
        assert await held_for_loss(owner) == {"3": [3]}
        num_asked = len(asked)
        assert await held_for_loss(owner) == {"3": [3]}
        assert len(asked) == num_asked, "what was measured is kept"

    async def gone(text: str) -> float:
        raise EngineLost("the engine is gone")

    async with daemon(tmp_path / "owner") as owner:
        owner.datanets.take_base(bytes([7]) * 32, (), gone)
        assert await held_for_loss(owner) == {"3": [3]}  # kept over a restart
        owner.datanets.take_base(bytes([8]) * 32, (), gone)
        assert await held_for_loss(owner) == {"3": []}  # another base never said so


async def test_a_node_with_an_engine_asks_it(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("node") as node:
            await node.datanets.create(charter())
            digest = await give(node, tmp_path, 1)
            assert await held_for_loss(node) == {"1": []}
            [path] = (tmp_path / "node" / "datanets").glob(f"*/texts/{digest}/loss")
            base, found = msgspec.msgpack.decode(
                path.read_bytes(), type=tuple[bytes, dict[int, int]]
            )
            assert base == node.datanets._shelf.base
            assert len(found) == 6
            assert all(1_000 < loss < 20_000 for loss in found.values())
