"""What people decide on a chain, as one node takes it over."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from node.app import open_daemon
from node.cli.invite import join
from node.config import Config, load_config
from node.errors import ConfigError
from node.invite import SHARED, write_invite
from node.money.governing import BORDER_S, NOTHING_SEEN, Decided, Governing, Look
from node.money.heads import Heads
from node.telemetry import Telemetry
from node.testnet.deciding import carry, pass_time
from node.wire.metering import Price
from proofs.chain.deploy import deploy_governance, deploy_lori, rules_for_development
from proofs.chain.governance import Governance
from proofs.parameters import (
    AUDIT_ONE_IN,
    COMPLETION_FLOOR,
    CREATOR_SHARE,
    DEFAULTS,
    MOST_ANSWER_TOKENS,
    PROMISE_S,
    PROMPT_FLOOR,
    UNGOVERNED,
    Ruling,
    Version,
)
from tests.node.networks import open_lab, until
from tests.proofs.chain.world import World, address, memory_world

INTERVAL_S = 0.02
CHANGES = ((COMPLETION_FLOOR, 80), (CREATOR_SHARE, 1_500), (AUDIT_ONE_IN, 1))


class Network:
    """A chain in this process on which people vote, and one node that looks at it."""

    def __init__(self) -> None:
        self.world: World = memory_world()[0]
        client = self.world.client("deployer")
        lori = deploy_lori(client.wallet, client.address)
        rules = rules_for_development(client.address)
        governor = deploy_governance(client.wallet, lori, rules)
        self.people: Governance = client.open_governance(governor)
        self.people.delegate(client.address)
        self.world.wait(2)
        self.telemetry = Telemetry()
        self.heard: list[Decided] = []
        self.begin()

    def begin(self) -> None:
        """A node that starts now, since the clock of trio is another one in each test."""
        self.heard.clear()
        self.governing = self.new()

    def new(self, seen: Look = NOTHING_SEEN) -> Governing:
        return Governing(
            self.world.client("anybody"),
            self.people,
            Heads(self.world.rpc),
            self.telemetry,
            on_change=self.heard.append,
            seen=seen,
        )

    @property
    def ruling(self) -> Ruling:
        return self.governing.decided.ruling

    def decide(self) -> int:
        return carry(self.people, self.world.rpc, CHANGES, "# Why", lambda _step, _said: None)

    def end_epoch(self) -> None:
        self.world.earn(1_000)
        self.world.post(self.world.next_header())

    @asynccontextmanager
    async def watched(self):
        """The chain is looked at while the block lasts; what the test does to it comes between."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.governing.run, INTERVAL_S)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture(scope="module")
def decided() -> Network:
    """A network that has voted, in the middle of its first epoch."""
    network = Network()
    assert network.decide() == 2
    return network


async def test_what_was_decided_waits_for_the_next_epoch(decided: Network) -> None:
    decided.begin()
    async with decided.watched():
        await until(lambda: decided.ruling.version == 1)
    assert decided.ruling.values == DEFAULTS
    assert decided.governing.describe()["newest_version"] == 2

    decided.end_epoch()
    async with decided.watched():
        await until(lambda: decided.ruling.version == 2)
    told = decided.governing.describe()
    shown = await decided.governing.show()
    assert (shown.version, shown.newest) == (2, 2)
    assert {one.name: one.value for one in shown.parameters}[COMPLETION_FLOOR] == "80"
    assert [(one.title, one.state) for one in shown.proposals] == [("Why", "executed")]
    assert told["changed"] == {COMPLETION_FLOOR: "80", CREATOR_SHARE: "1500"}
    assert [one["name"] for one in told["refused"]] == [AUDIT_ONE_IN]  # type: ignore[index]
    assert sorted({one.ruling.version for one in decided.heard}) == [1, 2]
    assert decided.governing.decided.price(Price(1, 50)) == Price(1, 80)


async def test_at_a_border_a_neighbour_may_go_by_the_version_before_for_a_while(
    decided: Network, autojump_clock: trio.testing.MockClock
) -> None:
    first = Version(1, 1_000, DEFAULTS)
    versions = (first, Version(2, 2_000, {**DEFAULTS, CREATOR_SHARE: 1_500}))
    governing = decided.new(seen=Look((first,), 0, 0))

    def taken() -> tuple[int, int]:
        return governing.agreeable.first, governing.agreeable.last

    assert taken() == (1, 1)
    governing.take(Look(versions, 1_500, 0))
    assert taken() == (1, 2), "the next one: its node saw a header that is not seen here"
    assert governing.decided.policy.creator_bps == 2_500
    governing.take(Look(versions, 2_500, 0))
    assert taken() == (1, 2), "the one before: its node did not see the header"
    assert governing.decided.policy.creator_bps == 1_500
    await trio.sleep(BORDER_S)
    assert taken() == (2, 2)


async def test_a_pause_ends_by_itself(decided: Network) -> None:
    decided.begin()
    decided.people.pause(60)
    async with decided.watched():
        await until(decided.governing.is_paused)
    assert (
        decided.governing.describe()["paused_until"] == decided.people.read_guardian().paused_until
    )
    pass_time(decided.world.rpc, decided.people.read_guardian().paused_until)
    async with decided.watched():
        await until(lambda: not decided.governing.is_paused())


def test_the_stricter_of_decision_and_operator_is_done() -> None:
    values = {
        **DEFAULTS,
        PROMPT_FLOOR: 5,
        COMPLETION_FLOOR: 40,
        AUDIT_ONE_IN: 20,
        MOST_ANSWER_TOKENS: 128,
        PROMISE_S: 120,
    }
    decided = Decided(replace(UNGOVERNED, values=values))
    assert decided.price(Price(1, 50)) == Price(5, 50)
    assert decided.price(Price(9, 10)) == Price(9, 40)
    assert (decided.one_in(100), decided.one_in(10), decided.one_in(0)) == (20, 10, 0)
    assert (decided.answer_tokens(2_048), decided.answer_tokens(64)) == (128, 64)
    assert (decided.promise_s(600), decided.promise_s(60)) == (120, 60)


def test_a_governor_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chain_rpc"):
        Config(tmp_path, governor=f"0x{address('anybody').hex()}")


async def test_what_is_no_such_contract_is_refused_at_the_start_and_an_invite_s_are_taken(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("node",)) as lab:
        assert lab.chain is not None
        token = lab.chain.token
        for odd in ({"governor": token}, {"stake": token}, {"registry": token}):
            with pytest.raises(ConfigError, match="check chain_rpc, settlement, governor"):
                async with lab.daemon("node", role="watcher", **odd):
                    pass
        own = {"stake": lab.chain.stake, "governor": lab.chain.governor}
        shared = lab.config("node", registry=lab.chain.registry, **own)
        (tmp_path / "new").mkdir()
        join(tmp_path / "new", write_invite({name: getattr(shared, name) for name in SHARED}))
        joined = replace(load_config(tmp_path / "new", {}), role="watcher", listen=shared.listen)
        async with open_daemon(joined) as node:
            assert node.money is not None
            told = node.money.describe()
            assert told["parameters"]["version"] == 1, "from the first moment"  # type: ignore[index]
            await until(lambda: "counted" in node.money.describe()["stake"])
            told = node.money.describe()["stake"]
            assert (told["contract"], told["counted"]) == (lab.chain.stake, "0")
