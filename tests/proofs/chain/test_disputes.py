"""Disputes about registrations, decided by a vote, on the real contracts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from node.testnet.deciding import pass_time
from proofs.chain.deploy import (
    deploy_disputes,
    deploy_governance,
    deploy_lori,
    rules_for_development,
)
from proofs.chain.disputes import DisputeRules, Disputes, DisputeState
from proofs.chain.errors import ContractReverted
from proofs.chain.governance import Governance, Voice
from proofs.chain.registry import Registry
from proofs.registration import Claim
from proofs.signing import Signer
from proofs.stake import LORI
from proofs.weights import WeightsDigest
from tests.proofs.chain.conftest import undone
from tests.proofs.chain.world import World, address, memory_world, secret

RULES = DisputeRules(bond=100 * LORI, burn_bps=2_000, answer_time=500, judge_time=5_000)
WEIGHTS = WeightsDigest(b"\1" * 32, b"\2" * 32)
DELAY_S = 60


class Scene:
    """Weights that "other" registered and "payer" says are his; the deployer has all votes."""

    def __init__(self) -> None:
        self.world: World = memory_world()[0]
        deployer = self.world.client("deployer")
        lori = deploy_lori(deployer.wallet, deployer.address)
        rules = rules_for_development(deployer.address)
        governor = deploy_governance(deployer.wallet, lori, rules)
        self._governor = governor
        self.at = deploy_disputes(
            deployer.wallet,
            lori,
            self.people.timelock.address,
            RULES,
            delay_s=DELAY_S,
            window_s=10,
        )
        for name in ("payer", "other"):
            self.people.token.send("transfer", address(name), 1_000 * LORI)
        self.people.delegate(deployer.address)
        self.register("other")

    @property
    def people(self) -> Governance:
        return self.world.client("deployer").open_governance(self._governor)

    @property
    def registry(self) -> Registry:
        return self.world.client("deployer").open_registry(self.disputes("deployer").registry)

    def disputes(self, by: str) -> Disputes:
        return self.world.client(by).open_disputes(self.at)

    def register(self, who: str) -> None:
        claim = Claim(address(who), WEIGHTS, b"\3" * 32, 0, (), b"\4" * 32)
        self.registry.commit(claim)
        self.world.wait(DELAY_S)
        chain = self.world.deployment.chain_id
        signature = claim.sign(Signer(secret(who)), chain, self.registry.address)
        self.registry.register(claim, signature)

    def owner(self) -> bytes:
        found = self.registry.find(WEIGHTS)
        assert found is not None
        return found.owner

    def purse(self, who: str) -> int:
        return int(self.people.token.read_one("balanceOf", address(who)))

    def vote_on(self, number: int, is_upheld: bool) -> None:
        """From a proposal of one call to its execution."""
        governor, rpc = self.people._governor, self.world.rpc
        call = self.disputes("deployer").encode_decision(number, is_upheld)
        governor.send("propose", [self.at], [0], [call], f"# Dispute {number}")
        (proposal,) = self.people.proposals()
        assert proposal.changes is None, "it sets no parameter"
        pass_time(rpc, proposal.votes_from)
        self.people.vote(proposal.id, Voice.FOR)
        pass_time(rpc, proposal.votes_until)
        self.people.queue(proposal)
        found = self.people.find(proposal.id)
        assert found is not None
        pass_time(rpc, found.due_at)
        self.people.execute(found)


@pytest.fixture(scope="module")
def opened() -> Scene:
    return Scene()


@pytest.fixture
def scene(opened: Scene) -> Iterator[Scene]:
    """The same for each test, and what it does undone."""
    with undone(opened.world):
        yield opened


@pytest.mark.parametrize("is_upheld", [True, False])
def test_a_vote_decides_whose_weights_are(scene: Scene, is_upheld: bool):
    assert scene.registry.disputes() == scene.at
    assert scene.disputes("payer").rules == RULES
    scene.disputes("payer").open(WEIGHTS.half)
    assert scene.disputes("payer").count() == 1
    scene.disputes("other").answer(1)
    found = scene.disputes("payer").read(1)
    assert (found.state, found.respondent) == (DisputeState.ANSWERED, address("other"))
    with pytest.raises(ContractReverted, match="NotTimelock"):
        scene.disputes("payer")._contract.send("decide", 1, True)
    scene.vote_on(1, is_upheld)
    winner, loser = ("payer", "other") if is_upheld else ("other", "payer")
    assert scene.owner() == address(winner)
    assert scene.purse(winner) == 1_080 * LORI, "its own bond, and four fifths of the other"
    assert scene.purse(loser) == 900 * LORI
    registered = scene.registry.find(WEIGHTS)
    assert registered.allows(address(winner))
    assert not registered.allows(address(loser))


def test_who_does_not_answer_loses_what_he_registered(scene: Scene):
    scene.disputes("payer").open(WEIGHTS.brain)
    with pytest.raises(ContractReverted, match="too early"):
        scene.disputes("anybody").close(1)
    scene.world.wait(RULES.answer_time)
    scene.disputes("anybody").close(1)
    assert scene.owner() == address("payer")
    assert scene.purse("payer") == 1_000 * LORI


def test_what_nobody_decides_costs_nobody_anything(scene: Scene):
    scene.disputes("payer").open(WEIGHTS.brain)
    scene.disputes("other").answer(1)
    scene.world.wait(RULES.judge_time)
    scene.disputes("anybody").lapse(1)
    assert scene.owner() == address("other")
    assert scene.purse("payer") == scene.purse("other") == 1_000 * LORI
