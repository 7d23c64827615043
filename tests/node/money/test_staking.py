"""A node that saw an offence writes it down, and shows it to the stake contract where that pays."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.config import Config
from node.doctor.running import tell_stake
from node.errors import ConfigError
from node.money.heads import Heads
from node.money.staking import Staking, Standing
from node.telemetry import Telemetry
from proofs.chain.deploy import DEVELOPMENT_STAKE, deploy_lori, deploy_stake
from proofs.chain.stake import Stake
from proofs.codec import encode
from proofs.promise import Evidence
from proofs.stake import LORI
from tests.node.networks import until
from tests.proofs.chain.forks import convict, sign_twice
from tests.proofs.chain.world import World, address, memory_world

INTERVAL_S = 0.02


class Scene:
    """A chain in this process with a stake contract, and one node that looks at it."""

    def __init__(self, folder: Path, least_bounty: int = LORI) -> None:
        self.world: World = memory_world()[0]
        wallet = self.world.client("deployer").wallet
        lori = deploy_lori(wallet, wallet.address)
        self.at = deploy_stake(wallet, lori, self.world.deployment.settlement, DEVELOPMENT_STAKE)
        self.telemetry = Telemetry()
        self.folder = folder / "evidence"
        client = self.world.client("anybody")
        self.staking = Staking(
            client,
            client.open_stake(self.at),
            Heads(self.world.rpc),
            self.telemetry,
            folder=self.folder,
            least_bounty=least_bounty,
            terms=lambda: DEVELOPMENT_STAKE,
            announces=lambda: 3,
        )

    def stake(self, by: str = "deployer") -> Stake:
        return self.world.client(by).open_stake(self.at)

    def see_two_receipts(self) -> None:
        config = self.world.config()
        first, second = map(encode, sign_twice(config, self.world.client("anybody").network))
        self.staking.note(config, Evidence(first, second))

    @asynccontextmanager
    async def watched(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.staking.run, INTERVAL_S)
            yield
            nursery.cancel_scope.cancel()


async def test_two_receipts_are_written_down_once_and_shown(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.stake().add(address("operator"), 100 * LORI)
    scene.stake().add(address("anybody"), 250 * LORI)
    scene.see_two_receipts()
    scene.see_two_receipts()
    assert len(list(scene.folder.iterdir())) == 1
    async with scene.watched():
        await until(lambda: scene.telemetry.counters.get("offences_shown") == 1)
    assert scene.stake().stake_of(address("operator")) == 50 * LORI
    assert scene.stake("anybody").token.balance_of(address("anybody")) == 10 * LORI
    told = scene.staking.describe()
    assert told["evidence"] == [], "nothing more comes of it"
    assert (told["counted"], told["answers"]) == (str(250 * LORI), 2)
    assert (told["announced"], told["needed"]) == (3, str(300 * LORI))


async def test_what_brings_too_little_waits_until_more_is_at_stake(tmp_path: Path) -> None:
    scene = Scene(tmp_path, least_bounty=5 * LORI)
    scene.see_two_receipts()
    (scene.folder / "odd.evidence").write_bytes(b"\x90")
    (waiting,) = [path.name for path in scene.folder.iterdir() if path.name != "odd.evidence"]
    scene.stake().add(address("operator"), 40 * LORI)
    async with scene.watched():
        await until(lambda: scene.staking.describe()["evidence"] == [waiting])
        assert scene.stake().stake_of(address("operator")) == 40 * LORI
        scene.stake().add(address("operator"), 60 * LORI)
        await until(lambda: scene.telemetry.counters.get("offences_shown") == 1)
    assert scene.stake().stake_of(address("operator")) == 50 * LORI


async def test_a_convicted_aggregator_s_stake_follows_its_bond(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.stake().add(address("aggregator"), 100 * LORI)
    convict(scene.world)
    async with scene.watched():
        await until(lambda: scene.telemetry.counters.get("offences_shown") == 1)
    assert scene.stake().stake_of(address("aggregator")) == 50 * LORI


@pytest.mark.parametrize(
    ("counted", "announced", "state", "mend"),
    [
        (99, 2, "note", "lorikeet stake add 101"),
        (150, 2, "note", "lorikeet stake add 50, or announce less: max_answers = 1 in"),
        (250, 2, "ok", ""),
        (0, 0, "ok", ""),
    ],
)
def test_the_doctor_says_whether_stake_is_enough_for_what_is_announced(
    counted: int, announced: int, state: str, mend: str
) -> None:
    terms = DEVELOPMENT_STAKE
    units = counted * LORI
    needed = terms.needed(announced)
    told = tell_stake(Standing(units, 0, terms.covers(units), announced=announced, needed=needed))
    assert told.state == state
    assert told.mend.startswith(mend)
    assert ("it announces 2" in told.what) == (announced == 2)


def test_a_stake_contract_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stake is set"):
        Config(tmp_path, stake=f"0x{address('anybody').hex()}")
    with pytest.raises(ConfigError, match="least_bounty"):
        Config(tmp_path, least_bounty=-1.0)
