"""Proposes, votes, queues and executes, and reads what was decided: the calls of the governor and
of what stands behind it, the parameters' contract and the guardian's office.

A call that a contract refuses raises ContractReverted, and nothing is sent. Knows no bounds: which
values are applied, parameters.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from ..digest import keccak
from ..errors import ParametersError
from ..hextext import from_hex
from ..parameters import Version, name_word, read_name
from .errors import OddAnswer
from .views import LATEST, View

if TYPE_CHECKING:
    from web3.types import EventData

    from .contract import DeployedContract
    from .wallet import TransactionReceipt

ProposalState = Literal[
    "pending",
    "active",
    "cancelled",
    "defeated",
    "succeeded",
    "queued",
    "expired",
    "executed",
]
"""In the contract's order."""
STATES: tuple[ProposalState, ...] = get_args(ProposalState)
Change = tuple[str, int]
Calls = tuple[tuple[bytes, int, bytes], ...]


class Voice(IntEnum):
    """What a vote says. The numbers are the contract's."""

    AGAINST = 0
    FOR = 1
    ABSTAIN = 2


@dataclass(frozen=True)
class VotingRules:
    """How a network votes: times in seconds; `threshold` in votes, as units of the token;
    `quorum_percent` of all there is of it.
    """

    voting_delay: int
    voting_period: int
    threshold: int
    quorum_percent: int


@dataclass(frozen=True)
class Tally:
    """The votes that were cast on a proposal, as units of the token."""

    against: int
    in_favour: int
    abstained: int


@dataclass(frozen=True)
class Proposal:
    """One proposal. Times in seconds of the chain's clock; `due_at` 0 while it is in no timelock.

    `changes`: the parameters that it would set; None where it would do something else, or more.
    """

    id: int
    proposer: bytes
    description: str
    changes: tuple[Change, ...] | None
    calls: Calls
    votes_from: int
    votes_until: int
    due_at: int
    state: ProposalState
    tally: Tally
    quorum: int


@dataclass(frozen=True)
class GuardianOffice:
    """The guardian, and until when it may pause and has paused, in seconds of the chain's clock."""

    guardian: bytes
    expires_at: int
    paused_until: int
    max_pause: int


class Governance:
    """One network's governor, for one key. No proposal is older than `first_block`."""

    def __init__(self, governor: DeployedContract, first_block: int) -> None:
        self._governor = governor
        self._first_block = first_block

    @property
    def address(self) -> bytes:
        """Where the governor is."""
        return self._governor.address

    @cached_property
    def parameters(self) -> DeployedContract:
        """What it writes."""
        return self._beside("Parameters", "parameters")

    @cached_property
    def timelock(self) -> DeployedContract:
        """What its decisions wait in."""
        return self._beside("Timelock", "timelock")

    @cached_property
    def token(self) -> DeployedContract:
        """What is voted with."""
        return self._beside("LorikeetToken", "token")

    @cached_property
    def guardian(self) -> DeployedContract:
        """Whose office may pause posting."""
        return self._beside("Guardian", "guardian")

    def _beside(self, name: str, function: str) -> DeployedContract:
        return self._governor.beside(name, from_hex(self._governor.read_one(function)))

    # ── what was decided ──

    def last_version(self, block: str | int = LATEST) -> int:
        """The number of the last version, as a block has it."""
        return int(self.parameters.read_one("version", block=block))

    def versions(self, known: Sequence[Version], last: int) -> list[Version]:
        """Every version up to the last one, those that are known already not read again: what was
        written stays. OddAnswer where the contract's names are none.
        """
        versions = list(known[:last])
        if len(versions) == last:
            return versions
        try:
            names = [read_name(bytes(one)) for one in self.parameters.read_one("names")]
        except ParametersError as error:
            raise OddAnswer(f"the contract of parameters: {error}") from error
        views = [
            View("Parameters", self.parameters.address, "read", (number,))
            for number in range(len(versions) + 1, last + 1)
        ]
        found = self._governor.rpc.read_many(views)
        for number, (since, values) in enumerate(found, len(versions) + 1):
            named = zip(names, map(int, values), strict=False)  # later names had no value then
            versions.append(Version(number, int(since), dict(named)))
        return versions

    def read_guardian(self) -> GuardianOffice:
        """The guardian's office."""
        found = self.guardian.read_together("guardian", "expiresAt", "pausedUntil", "maxPause")
        guardian, expires_at, paused_until, max_pause = found
        return GuardianOffice(
            from_hex(guardian), int(expires_at), int(paused_until), max_pause=int(max_pause)
        )

    # ── proposals ──

    def proposals(self) -> list[Proposal]:
        """All proposals, the oldest first."""
        return [self._read(event) for event in self._created()]

    def find(self, proposal: int) -> Proposal | None:
        """A proposal by its id."""
        for event in self._created():
            if event["args"]["proposalId"] == proposal:
                return self._read(event)
        return None

    def _created(self) -> Iterator[EventData]:
        last = self._governor.rpc.block_number()
        yield from self._governor.events("ProposalCreated", {}, first=self._first_block, last=last)

    def _read(self, event: EventData) -> Proposal:
        told = event["args"]
        number = int(told["proposalId"])
        calls = tuple(
            (from_hex(target), int(value), bytes(call))
            for target, value, call in zip(
                told["targets"], told["values"], told["calldatas"], strict=True
            )
        )
        votes_from = int(told["voteStart"])
        state, votes, due_at = (
            self._governor.read(function, number)
            for function in ("state", "proposalVotes", "proposalEta")
        )
        against, in_favour, abstained = map(int, votes)
        return Proposal(
            id=number,
            proposer=from_hex(told["proposer"]),
            description=told["description"],
            changes=self._changes(calls),
            calls=calls,
            votes_from=votes_from,
            votes_until=int(told["voteEnd"]),
            due_at=int(due_at[0]),
            state=STATES[int(state[0])],
            tally=Tally(against, in_favour, abstained),
            quorum=self._quorum(votes_from),
        )

    def _quorum(self, at: int) -> int:
        """What it takes: of the supply when votes are counted, or of that of now while that second
        is to come.
        """
        now = self._governor.rpc.get_block().timestamp
        return int(self._governor.read_one("quorum", min(at, now - 1)))

    def _changes(self, calls: Calls) -> tuple[Change, ...] | None:
        changes: list[Change] = []
        for target, value, call in calls:
            if target != self.parameters.address or value:
                return None
            try:
                function, (given,) = self.parameters.decode_call(call)
                if function != "set":
                    return None
                changes += [(read_name(bytes(name)), int(new)) for name, new in given]
            except (OddAnswer, ParametersError, ValueError, TypeError):
                return None
        return tuple(changes)

    # ── what a key does ──

    def votes_of(self, account: bytes) -> int:
        """The votes that an account has: of the tokens of all who delegated to it."""
        return int(self.token.read_one("getVotes", account))

    def votes_on(self, account: bytes, proposal: Proposal) -> int:
        """The votes that an account has on a proposal: those of the second when voting began."""
        return int(self._governor.read_one("getVotes", account, proposal.votes_from))

    def threshold(self) -> int:
        """How many votes a key must have to propose anything."""
        return int(self._governor.read_one("proposalThreshold"))

    def delegate(self, account: bytes) -> TransactionReceipt:
        """Give our tokens' votes to an account; our own, too, count only after this."""
        return self.token.send("delegate", account)

    def propose(self, changes: Iterable[Change], description: str) -> TransactionReceipt:
        """Propose to set parameters, under a text that nobody proposed the same with before."""
        return self._governor.send("propose", *self._set(changes), description)

    def id_of(self, changes: Iterable[Change], description: str) -> int:
        """Return the id of such a proposal."""
        digest = keccak(description.encode())
        return int(self._governor.read_one("getProposalId", *self._set(changes), digest))

    def _set(self, changes: Iterable[Change]) -> tuple[object, ...]:
        call = self.parameters.encode("set", [(name_word(name), new) for name, new in changes])
        return [self.parameters.address], [0], [call]

    def vote(self, proposal: int, voice: Voice, reason: str = "") -> TransactionReceipt:
        """Cast all our votes."""
        if reason:
            return self._governor.send("castVoteWithReason", proposal, int(voice), reason)
        return self._governor.send("castVote", proposal, int(voice))

    def queue(self, proposal: Proposal) -> TransactionReceipt:
        """Put what was voted into the timelock. Anybody may."""
        return self._governor.send("queue", *_actions(proposal))

    def execute(self, proposal: Proposal) -> TransactionReceipt:
        """Have done what waited long enough. Anybody may."""
        return self._governor.send("execute", *_actions(proposal))

    def pause(self, duration: int) -> TransactionReceipt:
        """Ask for no header for so many seconds. We are the guardian."""
        return self.guardian.send("pause", duration)

    def resume(self) -> TransactionReceipt:
        """End a pause. We are the guardian."""
        return self.guardian.send("resume")


def _actions(proposal: Proposal) -> tuple[object, ...]:
    targets = [target for target, _, _ in proposal.calls]
    values = [value for _, value, _ in proposal.calls]
    calls = [call for _, _, call in proposal.calls]
    return targets, values, calls, keccak(proposal.description.encode())
