"""What running daemons say of themselves: among peers, on a chain, alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.api.doctor import Checked
from node.daemon import NodeDaemon
from node.doctor import running
from tests.node.cli.test_commands import lorikeet, point_home_at
from tests.node.networks import open_lab, until
from tests.node.twin import Twin, serve_twin


async def checkup(daemon: NodeDaemon) -> dict[str, Checked]:
    return {one.part: one for one in await daemon.checkup()}


async def test_a_node_among_others_works_and_one_that_is_left_alone_says_so(
    tmp_path: Path, monkeypatch
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("node") as node:
            async with lab.daemon("other", role="gateway") as other:

                async def is_known() -> bool:
                    found = await checkup(other)
                    return found["dht"].state == found["gossip"].state == "ok"

                await until(is_known)
                found = await checkup(node)
                assert found["peers"].state == "ok"
                assert found["dht"].what == "1 of 1 peers gave a record back"
                assert found["engine"].what.startswith("it answers: one token")
                assert found["adapters"].state == "note"
                assert found["chain"].state == "note"
                assert (await checkup(other))["engine"].state == "ok"
            await node.host.disconnect(other.host.peer_id)
            await until(lambda: not node.host.has_peers())
            found = await checkup(node)
            assert found["peers"].state == "wrong"
            assert found["dht"].state == "note"
            node.telemetry.trouble("base", "the disk is full")
            assert (await checkup(node))["base"] == Checked(
                "base",
                "wrong",
                "the disk is full",
                f"it is tried again; more in {node.config.home / 'log'}",
            )
            monkeypatch.setattr(running, "ANSWER_DEADLINE_S", 0.0)
            assert (await checkup(node))["engine"].state == "wrong"


async def test_gas_and_fee_tokens(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("aggregator", "rich")) as lab:
        async with (
            lab.daemon("rich", role="gateway") as rich,
            lab.daemon("poor", role="gateway") as poor,
        ):
            found = await checkup(rich)
            assert found["chain"].state == found["gas"].state == found["clock"].state == "ok"
            assert found["earnings"].what == "nothing that was earned here waits"
            assert found["fee token"].what.endswith(
                "has 1000000.000000 DEVUSD, in which answers are paid here"
            )
            found = await checkup(poor)
            assert found["gas"].state == found["fee token"].state == "wrong"
            assert found["gas"].mend.endswith(f"to {(await poor.status()).address}")


async def test_the_command_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    nobody = await lorikeet(tmp_path / "nothing", "doctor")
    assert nobody.returncode == 1
    assert b"lorikeet init" in nobody.stdout
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        done = await lorikeet(tmp_path, "doctor", "--json")
    assert done.returncode == 1
    found = {one["part"]: one for one in json.loads(done.stdout)}
    assert found["peers"]["state"] == "ok"
    assert found["gas"]["mend"] == "send some ETH"
    assert found["home"]["state"] == "ok"
    alone = await lorikeet(tmp_path, "doctor")
    assert "none runs here" in alone.stdout.decode()


@pytest.mark.parametrize(("ahead", "told"), [(-90, "90 s old"), (24, "24 s ahead of this clock")])
def test_a_block_is_old_or_ahead_and_never_of_a_negative_age(
    ahead: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.time, "time", lambda: 1_000_000.0)
    assert told in running.check_clock(1_000_000 + ahead).what
