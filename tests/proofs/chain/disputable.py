"""Weights on a chain that one has registered and another may dispute."""

from __future__ import annotations

from proofs.chain.deploy import deploy_disputes, deploy_lori
from proofs.chain.disputes import DisputeRules, Disputes
from proofs.registration import Claim
from proofs.signing import Signer
from proofs.stake import LORI
from proofs.weights import WeightsDigest
from tests.proofs.chain.world import World, address, secret

RULES = DisputeRules(bond=100 * LORI, burn_bps=2_000, answer_time=500, judge_time=5_000)
WEIGHTS = WeightsDigest(b"\3" * 32, b"\4" * 32)
DELAY_S = 60


class Disputable:
    """Weights that "other" registered; it and "payer" have ten bonds each. Nobody votes here."""

    def __init__(self, world: World) -> None:
        self.world = world
        deployer = self.world.client("deployer")
        lori = deploy_lori(deployer.wallet, deployer.address)
        self.disputes = deploy_disputes(
            deployer.wallet, lori, bytes(19) + b"\1", RULES, delay_s=DELAY_S, window_s=10
        )
        opened = deployer.open_disputes(self.disputes)
        for name in ("payer", "other"):
            opened.token.transfer(address(name), 1_000 * LORI)
        self.registry = opened.registry
        self.register(self.registry)

    def by(self, name: str) -> Disputes:
        """The disputes, for the key of this name."""
        return self.world.client(name).open_disputes(self.disputes)

    def register(self, at: bytes) -> None:
        client = self.world.client("other")
        claim = Claim(address("other"), WEIGHTS, b"\5" * 32, 0, (), b"\6" * 32)
        client.open_registry(at).commit(claim)
        self.world.wait(DELAY_S)
        chain_id = self.world.deployment.chain_id
        signature = claim.sign(Signer(secret("other")), chain_id, at)
        client.open_registry(at).register(claim, signature)
