"""An aggregator that dies for good: it is dismissed, channels settle themselves, the owner installs
another one, whose books come from the chain and the published batches. Nobody's unit is lost or
paid twice.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.cli import aggregator
from node.config import CONFIG_FILE, dump_config
from node.daemon import NodeDaemon
from node.errors import NodeError, NodeRefused
from node.wire.client_session import ClientSession
from proofs.chain.client import ChainClient
from proofs.hextext import to_hex
from proofs.ledger import AggregatorLedger, Ledger
from tests.node.forked import forked_python
from tests.node.networks import Lab, ask, open_lab, passing, serves, until

from .test_channels import channels

WINDOW_S = 120
NAMES = ("volunteer", "gateway", "regular", "aggregator", "successor", "owner")
QUICK: dict[str, Any] = {"watch_interval_s": 0.3, "grace_s": 1.0}


async def lorikeet(home: Path, *arguments: str) -> Any:
    """What a command says in JSON."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [forked_python(), "-m", "node", *arguments, "--home", str(home), "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=dict(os.environ),
        )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def pass_time(chain: ChainClient, seconds: int) -> None:
    chain.rpc.call("evm_increaseTime", seconds)
    chain.rpc.call("evm_mine")


async def hand_over(lab: Lab, chain: ChainClient) -> None:
    """Have the owner give the office to the successor, by the commands."""
    assert lab.chain is not None
    home = lab.folder / "owner"
    home.mkdir(exist_ok=True)
    (home / CONFIG_FILE).write_text(dump_config(lab.config("owner")))
    key = home / "owner.key"
    key.touch(mode=0o600)
    key.write_text(lab.chain.owner_key.removeprefix("0x"))
    who = to_hex(lab.address("successor"))
    await trio.to_thread.run_sync(partial(aggregator.propose, home, aggregator=who, key=key))
    pass_time(chain, chain.settlement.terms.timelock)
    await trio.to_thread.run_sync(partial(aggregator.install, home, aggregator=who))
    assert chain.settlement.aggregator() == lab.address("successor")


def claimed_in_all(chain: ChainClient, volunteer: NodeDaemon) -> int:
    """What was ever claimed of the channels that pay the volunteer."""
    rows = channels(volunteer.config.home)
    return sum(chain.channels.read(row.channel_id).total_claimed for row in rows)


@pytest.mark.timeout(600)
async def test_what_a_dead_aggregator_left_is_paid_by_exits_and_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        assert lab.chain is not None
        chain = lab.chain.client(lab.identity("owner").secret)
        settlement = chain.settlement
        before = chain.token.balance_of(lab.address("volunteer"))
        first = {"aggregator": lab.identity("aggregator").peer_id} | QUICK
        second = {"aggregator": lab.identity("successor").peer_id} | QUICK
        owed = 0

        async with (
            lab.daemon("regular", role="gateway", **first) as regular,
            lab.daemon("gateway", role="gateway", **first) as gateway,
        ):
            async with lab.daemon("volunteer", **first) as volunteer:

                async def all_are(*states: str) -> bool:
                    rows = await volunteer.receipts()
                    return len(rows) == 2 and all(row.state in states for row in rows)

                async with lab.daemon("aggregator", role="aggregator", **first):
                    for client in (gateway, regular):
                        await until(lambda client=client: serves(client, volunteer.host.peer_id))
                        owed += (await ask(client)).ended.amount
                    await until(lambda: all_are("included", "final"), WINDOW_S)
                    pass_time(chain, settlement.terms.window)
                    await until(lambda: all_are("final"), WINDOW_S)

                # It is gone for good. One client signs, the other one never does.
                owed += (await ask(gateway)).ended.amount
                with monkeypatch.context() as patched:
                    patched.setattr(ClientSession, "_take_done", vanish)
                    with pytest.raises(NodeError, match="we have what"):
                        await ask(gateway, max_tokens=40, node=volunteer.host.peer_id)
                await until(lambda: volunteer.telemetry.counters.get("receipts_unilateral"))
                owed += max(row.amount for row in await volunteer.receipts())
                pass_time(chain, settlement.terms.silence + 1)
                await until(lambda: volunteer.telemetry.counters.get("exits_begun"), WINDOW_S)
                assert settlement.read_office().aggregator is None

            async with lab.daemon("volunteer", **second) as volunteer:
                pass_time(chain, settlement.terms.window)
                await until(
                    lambda: chain.token.balance_of(lab.address("volunteer")) - before == owed,
                    WINDOW_S,
                )

            await hand_over(lab, chain)
            collected = await lorikeet(
                lab.folder / "owner", "aggregator", "collect", to_hex(lab.address("aggregator"))
            )
            assert collected["collected"] == settlement.terms.bond, "it did not lie"
            assert settlement.credit_of(lab.address("aggregator")) == 0
            home = lab.folder / "successor"
            config = lab.config("successor", role="aggregator", **second)
            (home / CONFIG_FILE).write_text(dump_config(config))
            rebuilt = await lorikeet(home, "aggregator", "rebuild", "--from", "p2p")
            assert (rebuilt["epochs"], rebuilt["known_before"]) == (settlement.last_epoch(), 0)
            for path in home.glob("ledger.sqlite*"):
                path.unlink()  # and its disk is lost, too: the daemon itself begins from nothing
            async with (
                lab.daemon("successor", role="aggregator", **second) as successor,
                lab.daemon("volunteer", **second) as volunteer,
            ):
                await until(
                    lambda: successor.telemetry.counters.get("epochs_adopted") == rebuilt["epochs"],
                    WINDOW_S,
                )
                owed += (await ask(regular, node=volunteer.host.peer_id)).ended.amount
                with pytest.raises(NodeRefused, match="settled by itself"):
                    await ask(gateway, node=volunteer.host.peer_id)
                owed += (await ask(gateway, node=volunteer.host.peer_id)).ended.amount  # another

                pass_on = passing(chain.rpc)

                def is_paid() -> bool:
                    pass_on()
                    return chain.token.balance_of(lab.address("volunteer")) - before == owed

                await until(is_paid, WINDOW_S)
                assert claimed_in_all(chain, volunteer) == owed
                state = settlement.read()
                assert state.total_paid + state.total_exited == owed
                assert state.epoch > rebuilt["epochs"]
                assert settlement.read_office().aggregator == lab.address("successor")
        chain.close()
        ledger = Ledger(home / "ledger.sqlite")
        assert AggregatorLedger(ledger).last_epoch() == state.epoch
        ledger.close()


def vanish(*_: object) -> None:
    raise NodeError("we have what we wanted")
