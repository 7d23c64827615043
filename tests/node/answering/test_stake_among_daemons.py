"""A client that requires stake asks the nodes that have enough of it, as the chain says now."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from node.errors import NoProvider
from p2p.cid import Cid
from proofs.hextext import from_hex, to_hex
from proofs.stake import LORI
from tests.node.networks import Lab, ask, open_lab, until

NAMES = ("a", "b", "client", "aggregator")
NEEDED = 200 * LORI  # of a development chain's stake, for two answers at once


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_node_with_too_little_stake_is_left_out_until_it_has_enough(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        assert lab.chain is not None
        everybody = {
            "stake": lab.chain.stake,
            "governor": lab.chain.governor,
            "watch_interval_s": 0.3,
            "max_answers": 2,
        }
        async with (
            lab.daemon("a", **everybody) as a,
            lab.daemon("b", **everybody) as b,
            lab.daemon("client", role="gateway", require_stake=True, **everybody) as client,
        ):
            base = Cid(bytes.fromhex((await client.status()).base.split()[-1]))
            both = {a.host.peer_id, b.host.peer_id}

            async def are_found() -> bool:
                return both <= {one.peer_id for one in await client.host.dht.find_providers(base)}

            async def served_by() -> str:
                return (await ask(client)).started.served_by

            async def is_short(name: str) -> bool:
                """Ask, so that quotes are heard, and look who is said to have too little."""
                with suppress(NoProvider):
                    await served_by()
                return short_of(client) == {to_hex(lab.address(name)): 2}

            await until(are_found)
            with pytest.raises(NoProvider, match="require_stake"):
                await until(served_by)  # at first nobody knows what they have

            await put(lab, "a", NEEDED)
            await put(lab, "b", NEEDED // 2)
            await until(partial(is_short, "b"))
            assert {await served_by() for _ in range(4)} == {a.host.peer_id}
            [checked] = [one for one in await b.checkup() if one.part == "stake"]
            assert checked.state == "note"
            assert checked.mend.startswith("lorikeet stake add 100, or announce less: max_answers")
            assert (await ask(client, node=b.host.peer_id)).started.served_by == b.host.peer_id

            await put(lab, "b", NEEDED // 2)
            await take(lab, "a")
            await until(partial(is_short, "a"))
            assert {await served_by() for _ in range(4)} == {b.host.peer_id}


def short_of(client: object) -> dict[str, int]:
    """Who has too little behind him, as a daemon says, and how many answers he announces."""
    told = client.money.describe()["others_stake"]  # type: ignore[attr-defined]
    assert told["required"]
    return {one["node"]: one["answers"] for one in told["short"]}


async def put(lab: Lab, name: str, amount: int) -> None:
    """Put stake behind a node."""

    def send() -> None:
        assert lab.chain is not None
        holder = lab.chain.client(lab.chain.secrets()[0])
        try:
            holder.open_stake(from_hex(lab.chain.stake)).add(lab.address(name), amount)
        finally:
            holder.close()

    await trio.to_thread.run_sync(send)


async def take(lab: Lab, name: str) -> None:
    """Ask for all of it back."""

    def send() -> None:
        assert lab.chain is not None
        holder = lab.chain.client(lab.chain.secrets()[0])
        try:
            stake = holder.open_stake(from_hex(lab.chain.stake))
            stake.thaw(lab.address(name), stake.holding(lab.address(name), holder.address).shares)
        finally:
            holder.close()

    await trio.to_thread.run_sync(send)
