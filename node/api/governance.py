"""Declares what the faces tell of a network's decisions, and makes it of what the chain says.

Decides nothing and asks no chain. Votes are text: they are larger than JSON's numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proofs.hextext import to_hex
from proofs.hindsight import Line, Simulation
from proofs.parameters import BY_NAME, UNGOVERNED, Version, in_force, rule_on, show_value
from proofs.proposal import find_simulation

if TYPE_CHECKING:
    from proofs.chain.governance import Proposal

MAX_ACCOUNTS = 20
"""Of how many accounts a simulation tells; the command has all."""


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter: its value in force and the next epoch's, and the bounds that no vote leaves.

    `refused` says why a value that was voted is not applied.
    """

    name: str
    value: str
    next: str
    default: str
    least: str
    most: str
    unit: str
    refused: str
    meaning: str


@dataclass(frozen=True)
class ProposalInfo:
    """One proposal. Times in seconds of the chain's clock; votes in the token's smallest unit.

    `changes` None: it does something else than set parameters. `simulation`: the digest of the
    report that its text names, of what it would have changed in all past epochs.
    """

    number: str
    state: str
    title: str
    proposer: str
    changes: Mapping[str, str] | None
    votes_from: int
    votes_until: int
    executable_from: int | None
    in_favour: str
    against: str
    abstained: str
    quorum: str
    simulation: str | None
    text: str


@dataclass(frozen=True)
class ChangeInfo:
    """One parameter that a proposal would set: the newest version's value, and what would hold.
    `refused` says why the value that is proposed would not.
    """

    name: str
    unit: str
    now: str
    then: str
    refused: str


@dataclass(frozen=True)
class WouldEarn:
    """What one account earned in the past epochs, and what it would have."""

    account: str
    earned: int
    would_earn: int


@dataclass(frozen=True)
class SimulationInfo:
    """What a proposal would have made of the answers of the epochs from the first to `epochs`, as
    far as this node recomputed them.

    `own`: the accounts that this node earns for; `accounts`: those for which it makes the greatest
    difference, of `num_accounts` that earned anything. `digest`: of the report that `lorikeet gov
    simulate --report` writes; `is_named`: the proposal's text names it.
    """

    number: str
    changes: tuple[ChangeInfo, ...]
    epochs: int
    answers: int
    paid: int
    would_pay: int
    own: tuple[WouldEarn, ...]
    accounts: tuple[WouldEarn, ...]
    num_accounts: int
    digest: str
    is_named: bool


@dataclass(frozen=True)
class GovernanceInfo:
    """What a network's people decided and decide: proposals, the newest first."""

    version: int
    newest: int
    parameters: tuple[ParameterInfo, ...]
    proposals: tuple[ProposalInfo, ...]


def governance_info(
    versions: Sequence[Version], began_at: int, proposals: Sequence[Proposal]
) -> GovernanceInfo:
    """Put together what is in force since the epoch that began at `began_at`, what comes next, and
    what is proposed.
    """
    now = rule_on(in_force(versions, began_at)) if versions else UNGOVERNED
    newest = rule_on(versions) if versions else UNGOVERNED
    refused = {one.name: one.reason for one in newest.refusals}
    parameters = tuple(
        ParameterInfo(
            name,
            value=show_value(name, now.values[name]),
            next=show_value(name, newest.values[name]),
            default=show_value(name, one.default),
            least=show_value(name, one.least),
            most=show_value(name, one.most),
            unit=one.unit,
            refused=refused.get(name, ""),
            meaning=one.meaning,
        )
        for name, one in BY_NAME.items()
    )
    told = tuple(map(proposal_info, sorted(proposals, key=lambda one: -one.votes_from)))
    return GovernanceInfo(now.version, newest.version, parameters, told)


def proposal_info(one: Proposal) -> ProposalInfo:
    """Describe one proposal as plain values."""
    digest = find_simulation(one.description)
    changes = one.changes
    return ProposalInfo(
        str(one.id),
        one.state,
        title_of(one.description),
        proposer=to_hex(one.proposer),
        changes=None
        if changes is None
        else {name: show_value(name, value) for name, value in changes},
        votes_from=one.votes_from,
        votes_until=one.votes_until,
        executable_from=one.due_at or None,
        in_favour=str(one.tally.in_favour),
        against=str(one.tally.against),
        abstained=str(one.tally.abstained),
        quorum=str(one.quorum),
        simulation=digest.hex() if digest else None,
        text=one.description,
    )


def simulation_info(
    one: Proposal, simulation: Simulation, own: Collection[bytes]
) -> SimulationInfo:
    """Describe what was simulated of a proposal; `own`: this node's accounts."""
    found = simulation.found
    digest = hashlib.sha256(simulation.report).digest()
    by_change = sorted(found.lines, key=lambda line: -abs(line.would_earn - line.earned))
    by_account = {line.account: line for line in found.lines}
    return SimulationInfo(
        str(one.id),
        tuple(_changed(simulation, name) for name, _ in one.changes or ()),
        epochs=simulation.epochs,
        answers=found.receipts,
        paid=found.paid,
        would_pay=found.would_pay,
        own=tuple(_would_earn(by_account.get(each, Line(each, 0, 0))) for each in own),
        accounts=tuple(map(_would_earn, by_change[:MAX_ACCOUNTS])),
        num_accounts=len(found.lines),
        digest=digest.hex(),
        is_named=digest == find_simulation(one.description),
    )


def _changed(simulation: Simulation, name: str) -> ChangeInfo:
    refused = {each.name: each.reason for each in simulation.ruling.refusals}
    return ChangeInfo(
        name,
        BY_NAME[name].unit,
        now=show_value(name, simulation.before.values[name]),
        then=show_value(name, simulation.ruling.values[name]),
        refused=refused.get(name, ""),
    )


def _would_earn(line: Line) -> WouldEarn:
    return WouldEarn(to_hex(line.account), line.earned, line.would_earn)


def title_of(description: str) -> str:
    """Return the first line of a proposal's text."""
    lines = (line.strip("# \t") for line in description.splitlines())
    return next((line for line in lines if line), "")
