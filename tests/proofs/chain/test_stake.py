"""Stake and what costs it, on the real contracts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from proofs.chain.deploy import deploy_lori, deploy_stake
from proofs.chain.errors import ContractReverted
from proofs.chain.stake import Stake
from proofs.digest import Network
from proofs.evidence import (
    FalseVerdict,
    TwoReceipts,
    check_evidence,
    show_false_verdict,
    show_two_receipts,
)
from proofs.stake import LORI, StakeTerms
from tests.proofs.chain.conftest import undone
from tests.proofs.chain.forks import convict, false_attestation, sign_twice
from tests.proofs.chain.world import World, address, memory_world

TERMS = StakeTerms(
    thaw=500, per_answer=100 * LORI, slash_bps=3_000, cap=10_000 * LORI, bounty_bps=1_000
)
NODE = "operator"


class Scene:
    """A stake contract on a fresh chain; some tokens for everybody."""

    def __init__(self) -> None:
        self.world: World = memory_world()[0]
        wallet = self.world.client("deployer").wallet
        self.lori = deploy_lori(wallet, wallet.address)
        self.at = deploy_stake(wallet, self.lori, self.world.deployment.settlement, TERMS)
        for name in ("payer", "other"):
            self.stake("deployer").token.transfer(address(name), 10_000 * LORI)

    def stake(self, by: str) -> Stake:
        return self.world.client(by).open_stake(self.at)

    @property
    def network(self) -> Network:
        return self.world.client("anybody").network

    def forked(self, number: int = 0) -> TwoReceipts:
        config = self.world.config(number=number)
        return show_two_receipts(config, *sign_twice(config, self.network), self.network)

    def lied(self, network: Network) -> bytes:
        return false_attestation("other", self.world.config(), network)


@pytest.fixture(scope="module")
def opened() -> Scene:
    return Scene()


@pytest.fixture
def scene(opened: Scene) -> Iterator[Scene]:
    """The same for each test, and what it does undone."""
    with undone(opened.world):
        yield opened


def test_stake_counts_thaws_and_comes_back(scene: Scene):
    own, at = scene.stake("payer"), address(NODE)
    assert own.terms == TERMS
    assert own.settlement == scene.world.deployment.settlement
    own.add(at, 300 * LORI)
    assert own.stake_of(at) == 300 * LORI
    assert own.holding(at, address("payer")).amount == 300 * LORI
    own.thaw(at, own.holding(at, address("payer")).shares_of(100 * LORI))
    assert (own.stake_of(at), own.thawing_of(at)) == (200 * LORI, 100 * LORI)
    assert own.terms.covers(own.stake_of(at)) == 2
    with pytest.raises(ContractReverted, match="cannot be taken yet"):
        own.withdraw(at)
    scene.world.wait(TERMS.thaw)
    own.withdraw(at)
    assert own.token.balance_of(address("payer")) == 9_800 * LORI
    assert own.holding(at, address("payer")).thawing == 0


def test_two_receipts_for_one_place_cost_all_who_stand_there(scene: Scene):
    at = address(NODE)
    scene.stake("payer").add(at, 100 * LORI)
    scene.stake("other").add(at, 300 * LORI)
    evidence = scene.forked()
    assert check_evidence(evidence, scene.network) == at
    scene.stake("anybody").show(evidence)
    lost = TERMS.lost(400 * LORI, 0)
    assert scene.stake("anybody").stake_of(at) == 400 * LORI - lost
    assert scene.stake("other").holding(at, address("other")).amount == 210 * LORI
    token = scene.stake("anybody").token
    assert token.balance_of(address("anybody")) == TERMS.bounty(lost)
    with pytest.raises(ContractReverted, match="SlashedBefore"):
        scene.stake("other").show(evidence)
    scene.stake("other").show(scene.forked(number=1))


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": 2},
        {"config": {"withdraw_delay": 901}},
        {"config": {"receiver": address("other")}},
        {"config": {"receiver_authorizer": address("other")}},
        {"first": {"cumulative": 1}},
        {"second": {"payouts": bytes(32)}},
        {"first": {"signature": bytes(64) + b"\x1b"}},
    ],
    ids=str,
)
def test_what_was_not_signed_costs_nothing(scene: Scene, change: dict):
    scene.stake("payer").add(address(NODE), 100 * LORI)
    evidence = scene.forked()
    for name, value in change.items():
        if isinstance(value, dict):
            value = msgspec.structs.replace(getattr(evidence, name), **value)
        evidence = msgspec.structs.replace(evidence, **{name: value})
    with pytest.raises(ContractReverted, match="NoOffence"):
        scene.stake("anybody").show(evidence)
    assert scene.stake("anybody").stake_of(address(NODE)) == 100 * LORI


def test_an_attestation_that_contradicts_itself_costs_its_auditor(scene: Scene):
    auditor = address("other")
    scene.stake("payer").add(auditor, 100 * LORI)
    evidence = show_false_verdict(scene.lied(scene.network), scene.network)
    assert check_evidence(evidence, scene.network) == auditor
    scene.stake("anybody").show(evidence)
    assert scene.stake("anybody").stake_of(auditor) == 70 * LORI
    with pytest.raises(ContractReverted, match="SlashedBefore"):
        scene.stake("anybody").show(evidence)
    told = bytearray(evidence.attestation)
    told[-1] ^= 7  # 27 and 28: another key's signature
    with pytest.raises(ContractReverted, match="NothingAtStake"):
        scene.stake("anybody").show(msgspec.structs.replace(evidence, attestation=bytes(told)))


def test_a_false_attestation_of_another_network_costs_nothing(scene: Scene):
    scene.stake("payer").add(address("other"), 100 * LORI)
    for network in (
        Network(1, scene.network.settlement, scene.network.token),
        Network(scene.network.chain_id, address("other"), scene.network.token),
    ):
        told = scene.lied(network)
        evidence = FalseVerdict(1, network.chain_id, network.settlement, told)
        with pytest.raises(ContractReverted, match="NoOffence"):
            scene.stake("anybody").show(evidence)


def test_a_convicted_aggregator_loses_its_stake_too(scene: Scene):
    world = scene.world
    scene.stake("payer").add(address("aggregator"), 100 * LORI)
    term = world.client("anybody").settlement.read_office().term
    assert world.client("anybody").settlement.convicted(term) is None
    with pytest.raises(ContractReverted, match="NoOffence"):
        scene.stake("anybody").show_conviction(term)
    convict(world)
    assert world.client("anybody").settlement.convicted(term) == address("aggregator")
    scene.stake("anybody").show_conviction(term)
    assert scene.stake("anybody").stake_of(address("aggregator")) == 70 * LORI
    with pytest.raises(ContractReverted, match="SlashedBefore"):
        scene.stake("other").show_conviction(term)
