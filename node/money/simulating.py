"""Tells what a proposal would have made of all past epochs: divides anew the fees of the answers
that this node's mirror recomputed, so that nothing is verified twice.

One at a time, in a thread that ends soon when nobody waits any more, and within a deadline. What
was found is kept by what it follows from: the changes, the versions that hold, the last header.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from p2p.errors import P2pError
from proofs.attribution.shares import AdapterTerms
from proofs.batch import decode_batch
from proofs.chain.client import ChainClient
from proofs.chain.decisions import Decisions
from proofs.chain.errors import ChainError
from proofs.chain.governance import Proposal
from proofs.epoch import EpochHeader
from proofs.hindsight import Settled, Simulation, simulate
from proofs.parameters import Version
from proofs.policies import Policies, policies_of
from proofs.receipt import BARE_BASE, decode_body, decode_receipt

from ..api.governance import SimulationInfo, simulation_info
from ..errors import BadRequest, NodeError
from ..threads import in_thread
from .mirror import Mirror
from .published import Published

CHAIN_DEADLINE_S = 30.0
SIMULATE_DEADLINE_S = 120.0
MAX_KEPT = 32
MAX_DIGITS = 78  # of a word of the chain
Key = tuple[tuple[tuple[str, int], ...], int, bytes]
GetBatch = Callable[[bytes], bytes]


class _NobodyWaitsError(Exception):
    """Whoever asked has left."""


@dataclass(frozen=True)
class Past:
    """All epochs that were recomputed here, and by what their answers were shared out."""

    last: EpochHeader
    versions: Sequence[Version]
    adapters: Mapping[bytes, AdapterTerms]


class Simulating:
    """What proposals would have made of the past."""

    def __init__(
        self,
        chain: ChainClient,
        decisions: Decisions,
        mirror: Mirror,
        published: Published,
        accounts: Sequence[bytes],
    ) -> None:
        self._chain = chain
        self._decisions = decisions
        self._mirror = mirror
        self._published = published
        self._accounts = tuple(accounts)
        self._turn = trio.Lock()
        self._kept: OrderedDict[Key, Simulation] = OrderedDict()

    async def show(self, number: str) -> SimulationInfo:
        """Simulate one proposal, unless that is known. Raises NodeError."""
        try:
            proposal, versions = await in_thread(self._read, number, deadline_s=CHAIN_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(f"what is proposed cannot be read: {error!r}; try again") from error
        state = self._mirror.history.state
        if state.header is None:
            raise BadRequest("no epoch was recomputed here yet: there is nothing to simulate with")
        past = Past(state.header, versions, dict(state.adapters))
        found = await self._simulate(proposal, past)
        return simulation_info(proposal, found, self._accounts)

    def _read(self, number: str) -> tuple[Proposal, Sequence[Version]]:
        assert self._decisions.governance is not None, "it is constructed where there is one"
        is_number = number.isdecimal() and len(number) <= MAX_DIGITS
        proposal = self._decisions.governance.find(int(number)) if is_number else None
        if proposal is None:
            raise BadRequest(
                f"no proposal has the number {number[:MAX_DIGITS]}; lorikeet gov list shows them"
            )
        if not proposal.changes:
            raise BadRequest("this proposal sets no parameter: there is nothing to simulate")
        return proposal, self._decisions.versions()

    async def _simulate(self, proposal: Proposal, past: Past) -> Simulation:
        changes = proposal.changes or ()
        key = (changes, len(past.versions), past.last.hash)
        async with self._turn:
            if key not in self._kept:
                self._kept[key] = await self._compute(str(proposal.id)[:8], dict(changes), past)
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    async def _compute(self, brief: str, changes: dict[str, int], past: Past) -> Simulation:
        stop = threading.Event()
        token = trio.lowlevel.current_trio_token()
        get_batch = partial(self._get_batch, token)
        try:
            with trio.fail_after(SIMULATE_DEADLINE_S):
                return await trio.to_thread.run_sync(  # type: ignore[call-arg]  # an old stub of trio
                    partial(self._replay, changes, past, get_batch, stop), abandon_on_cancel=True
                )
        except trio.TooSlowError as error:
            raise NodeError(
                f"there are too many answers to simulate within {SIMULATE_DEADLINE_S:.0f} s here;"
                f" lorikeet gov simulate {brief} takes as long as it needs"
            ) from error
        except (ChainError, P2pError) as error:
            raise NodeError(f"what was posted cannot be read: {error}; try again") from error
        finally:
            stop.set()

    def _replay(
        self, changes: dict[str, int], past: Past, get_batch: GetBatch, stop: threading.Event
    ) -> Simulation:
        settled = self._settled(past, get_batch, stop)
        network = self._chain.network
        return simulate(settled, changes, network, last=past.last, versions=past.versions)

    def _settled(self, past: Past, get_batch: GetBatch, stop: threading.Event) -> Iterator[Settled]:
        """Yield every answer until the last header, which must still stand."""
        policies = policies_of(past.versions)
        for posted in self._chain.settlement.headers():
            if posted.header.epoch > past.last.epoch:
                return
            for entry in decode_batch(get_batch(posted.header.batch_digest)).receipts:
                if stop.is_set():
                    raise _NobodyWaitsError
                yield read_settled(entry, past.adapters, policies)
            if posted.header == past.last:
                return
        raise NodeError("the chain took epochs back meanwhile; try again")

    def _get_batch(self, token: trio.lowlevel.TrioToken, digest: bytes) -> bytes:
        """Get a batch that is here, or from somebody, by its hash."""
        here = self._published.find(digest)
        if here is not None:
            return here
        return trio.from_thread.run(self._published.batch, digest, trio_token=token)


def read_settled(
    entry: bytes, adapters: Mapping[bytes, AdapterTerms], policies: Policies
) -> Settled:
    """Read one answer as a batch has it that was verified before."""
    receipt = decode_body(decode_receipt(entry).body)
    terms = None if receipt.adapter == BARE_BASE else adapters[receipt.adapter]
    return Settled(receipt, terms, policies.of(receipt.parameters))
