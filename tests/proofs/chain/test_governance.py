"""A vote on a chain, from its proposal to the parameter, as Python sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proofs.chain.client import ChainClient
from proofs.chain.deploy import deploy_governance, deploy_lori, rules_for_development
from proofs.chain.errors import ContractReverted
from proofs.chain.governance import Governance, Proposal, Voice
from proofs.parameters import (
    COMPLETION_FLOOR,
    DEFAULTS,
    NODE_SHARE,
    Version,
    digest_parameters,
    in_force,
    rule_on,
)
from tests.proofs.chain.world import World, address

TEXT = "Raise the floor\n\nso that a machine is worth switching on.\n"


@pytest.fixture
def people(anywhere: World) -> tuple[World, Governance]:
    """A chain with a governor, whose deployer holds every vote."""
    wallet = anywhere.client("deployer").wallet
    lori = deploy_lori(wallet, wallet.address)
    governor = deploy_governance(wallet, lori, rules_for_development(address("anybody")))
    anywhere.deployment = replace(anywhere.deployment, lori=lori, governor=governor)
    governance = see(anywhere, "deployer")
    governance.delegate(wallet.address)
    anywhere.wait(2)  # who proposes must have had his votes in the second before
    return anywhere, governance


def see(world: World, by: str) -> Governance:
    client: ChainClient = world.client(by)
    return client.open_governance(world.deployment.governor)


def find(governance: Governance, number: int) -> Proposal:
    found = governance.find(number)
    assert found is not None
    return found


def test_a_proposal_becomes_a_version(people: tuple[World, Governance]):
    world, governance = people
    assert governance.last_version() == 1
    (first,) = governance.versions((), 1)
    assert dict(first.values) == dict(DEFAULTS)
    digest = governance.parameters.read_one("digestOf", 1)
    assert bytes(digest) == digest_parameters(first.values)

    changes = [(COMPLETION_FLOOR, 40), (NODE_SHARE, 9_000)]
    governance.propose(changes, TEXT)
    number = governance.id_of(changes, TEXT)
    proposal = find(governance, number)
    assert proposal.changes == ((COMPLETION_FLOOR, 40), (NODE_SHARE, 9_000))
    assert (proposal.description, proposal.state) == (TEXT, "pending")
    assert proposal.quorum > 0
    world.wait(2)
    governance.vote(number, Voice.FOR, "because")
    assert find(governance, number).tally.in_favour == governance.votes_of(address("deployer"))
    with pytest.raises(ContractReverted, match="GovernorAlreadyCastVote"):
        governance.vote(number, Voice.AGAINST)
    world.wait(12)
    assert find(governance, number).state == "succeeded"
    see(world, "other").queue(find(governance, number))
    with pytest.raises(ContractReverted, match="TimelockUnexpectedOperationState"):
        governance.execute(find(governance, number))
    world.wait(3)
    see(world, "other").execute(find(governance, number))
    assert find(governance, number).state == "executed"

    versions = governance.versions([first], governance.last_version())
    assert [one.number for one in versions] == [1, 2]
    ruling = rule_on(versions)
    assert ruling.values[COMPLETION_FLOOR] == 40
    assert ruling.values[NODE_SHARE] == DEFAULTS[NODE_SHARE], "no vote leaves the bounds"
    assert [one.name for one in ruling.refusals] == [NODE_SHARE]
    assert rule_on(in_force(versions, versions[1].since - 1)).version == 1


def test_what_does_something_else_is_told_apart(people: tuple[World, Governance]):
    world, governance = people
    call = governance.guardian.encode("end")
    actions = ([governance.guardian.address], [0], [call])
    governance._governor.send("propose", *actions, "End it")
    (proposal,) = governance.proposals()
    assert proposal.changes is None
    world.wait(2)
    governance.vote(proposal.id, Voice.FOR)
    world.wait(12)
    governance.queue(find(governance, proposal.id))
    world.wait(3)
    before = governance.read_guardian()
    governance.execute(find(governance, proposal.id))
    assert governance.read_guardian().expires_at < before.expires_at


def test_who_has_no_votes_proposes_nothing(people: tuple[World, Governance]):
    world, _ = people
    with pytest.raises(ContractReverted, match="GovernorInsufficientProposerVotes"):
        see(world, "other").propose([(COMPLETION_FLOOR, 1)], TEXT)


def test_the_guardian_pauses_and_its_deployer_has_no_way_past_a_vote(
    people: tuple[World, Governance],
):
    world, governance = people
    office = see(world, "anybody")
    office.pause(60)
    paused = office.read_guardian()
    assert paused.guardian == address("anybody")
    assert paused.paused_until > world.rpc.get_block().timestamp
    office.resume()
    assert office.read_guardian().paused_until <= world.rpc.get_block().timestamp
    with pytest.raises(ContractReverted, match="NotTimelock"):
        governance.parameters.send("set", [(bytes(32), 1)])
    with pytest.raises(ContractReverted, match="AccessControlUnauthorizedAccount"):
        governance.timelock.send("grantRole", bytes(32), address("deployer"))


def test_versions_that_are_known_are_not_read_again(people: tuple[World, Governance]):
    _, governance = people
    known = [Version(1, 5, {NODE_SHARE: 1})]
    assert governance.versions(known, 1) == known
    assert governance.versions(known, 0) == []
