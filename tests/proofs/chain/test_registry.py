"""Weights are whose they were first, on the chain and by what clients read of it."""

from __future__ import annotations

import hashlib

import pytest
from eth_account.messages import encode_typed_data

from proofs.chain.deploy import deploy_registry
from proofs.chain.errors import ContractReverted
from proofs.chain.registry import Registry
from proofs.digest import keccak
from proofs.hextext import to_hex
from proofs.registration import Claim
from proofs.signing import Signer, address_of
from proofs.weights import WeightsDigest
from tests.proofs.chain.world import World, address, memory_world, secret

DELAY_S = 60
WINDOW_S = 1_000
WEIGHTS = WeightsDigest(b"\1" * 32, b"\2" * 32)


class Scene:
    """A registry on a fresh chain."""

    def __init__(self) -> None:
        self.world: World = memory_world()[0]
        wallet = self.world.client("deployer").wallet
        self.at = deploy_registry(wallet, DELAY_S, WINDOW_S)

    def registry(self, by: str = "anybody") -> Registry:
        return self.world.client(by).open_registry(self.at)

    def claim(self, who: str, weights: WeightsDigest = WEIGHTS, **changes) -> Claim:
        values = {"royalty_bps": 250, "parents": (), "salt": hashlib.sha256(who.encode()).digest()}
        return Claim(address(who), weights, b"\3" * 32, **(values | changes))

    def sign(self, who: str, claim: Claim) -> bytes:
        return claim.sign(Signer(secret(who)), self.world.deployment.chain_id, self.at)

    def register(self, who: str, claim: Claim) -> None:
        self.registry().commit(claim)
        self.world.wait(DELAY_S)
        self.registry().register(claim, self.sign(who, claim))


def test_anybody_pays_the_gas_for_a_creator_s_claim():
    scene = Scene()
    claim = scene.claim("payer")
    assert scene.registry().find(WEIGHTS) is None
    assert scene.registry().ready_at(claim) is None
    scene.register("payer", claim)
    found = scene.registry().find(WEIGHTS)
    assert found is not None
    assert (found.creator, found.owner) == (address("payer"), address("payer"))
    assert (found.manifest, found.royalty_bps, found.parents) == (b"\3" * 32, 250, ())
    assert found.registered_at >= found.committed_at + DELAY_S
    ready_at = scene.registry().ready_at(claim)
    assert ready_at == found.committed_at + DELAY_S
    one = WeightsDigest(WEIGHTS.brain, b"\7" * 32)
    other = WeightsDigest(b"\7" * 32, WEIGHTS.half)
    assert scene.registry().find(one) == scene.registry().find(other) == found


def test_what_is_made_of_others_names_them():
    scene = Scene()
    scene.register("payer", scene.claim("payer"))
    made = WeightsDigest(b"\4" * 32, b"\5" * 32)
    claim = scene.claim("operator", made, parents=(WEIGHTS.half,))
    scene.register("operator", claim)
    found = scene.registry().find(made)
    assert found is not None
    assert found.parents == (WEIGHTS.half,)
    with pytest.raises(ContractReverted, match="parent is not registered"):
        scene.register(
            "other",
            scene.claim("other", WeightsDigest(b"\6" * 32, b"\7" * 32), parents=(b"\7" * 32,)),
        )


def test_who_comes_second_is_refused_unless_he_committed_first():
    scene = Scene()
    early = scene.claim("payer")
    scene.registry().commit(early)
    scene.world.wait(5)
    scene.register("other", scene.claim("other"))
    assert scene.registry().find(WEIGHTS).creator == address("other")
    with pytest.raises(ContractReverted, match="Taken"):
        scene.register("operator", scene.claim("operator"))
    scene.registry().register(early, scene.sign("payer", early))
    assert scene.registry().find(WEIGHTS).creator == address("payer")


def test_the_owner_hands_weights_on():
    scene = Scene()
    scene.register("payer", scene.claim("payer"))
    with pytest.raises(ContractReverted, match="owner"):
        scene.registry("other").hand_on(WEIGHTS.brain, address("other"))
    scene.registry("payer").hand_on(WEIGHTS.brain, address("other"))
    found = scene.registry().find(WEIGHTS)
    assert found.allows(address("other"))
    assert found.allows(address("payer")), "who registered them may publish, too"
    assert not found.allows(address("operator"))


def test_a_claim_s_digest_is_that_of_eip_712():
    signer = Signer(secret("payer"))
    claim = Claim(signer.address, WEIGHTS, b"\3" * 32, 7, (b"\4" * 32, b"\5" * 32), b"\6" * 32)
    fields = {
        "creator": "address",
        "brain": "bytes32",
        "half": "bytes32",
        "manifest": "bytes32",
        "royaltyBps": "uint16",
        "parents": "bytes32[]",
        "salt": "bytes32",
    }
    told = encode_typed_data(
        {
            "name": "Lorikeet Registry",
            "version": "1",
            "chainId": 5,
            "verifyingContract": to_hex(b"\7" * 20),
        },
        {"Claim": [{"name": name, "type": kind} for name, kind in fields.items()]},
        {
            "creator": to_hex(claim.creator),
            "brain": WEIGHTS.brain,
            "half": WEIGHTS.half,
            "manifest": claim.manifest,
            "royaltyBps": 7,
            "parents": list(claim.parents),
            "salt": claim.salt,
        },
    )
    assert claim.digest(5, b"\7" * 20) == keccak(b"\x19" + told.version + told.header + told.body)
    assert address_of(signer.public_key) == claim.creator
