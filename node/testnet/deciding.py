"""Takes a proposal through its vote at once, with the keys and the clock that a development chain
gives everybody, and waits until every node applies what was decided.

Decides nothing by itself: the contracts are asked as anybody would ask them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from proofs.chain.governance import Governance, Proposal, Voice
from proofs.proposal import Changes
from proofs.stake import LORI

from .asking import AskFailed, Asking, NodeClient

if TYPE_CHECKING:  # it brings web3
    from proofs.chain.rpc import Rpc

APPLY_DEADLINE_S = 120.0
POLL_S = 0.5
Tell = Callable[[str, str], None]  # (step, what came of it)


def carry(governance: Governance, rpc: Rpc, changes: Changes, text: str, tell: Tell) -> int:
    """Propose, vote, queue and execute, with a key that has a quorum of the votes; the number of
    the version that comes of it. Blocks. ChainError.
    """
    sent = governance.propose(changes, text)
    number = governance.id_of(changes, text)
    tell("proposed", f"in 0x{sent.hash.hex()}")
    pass_time(rpc, _find(governance, number).votes_from)
    governance.vote(number, Voice.FOR)
    proposal = _find(governance, number)
    votes, quorum = (f"{one / LORI:,.0f}" for one in (proposal.tally.in_favour, proposal.quorum))
    tell("voted", f"{votes} for, a quorum is {quorum}")
    pass_time(rpc, proposal.votes_until)
    governance.queue(proposal)
    tell("queued", "the timelock holds it")
    pass_time(rpc, _find(governance, number).due_at)
    governance.execute(proposal)
    version = governance.last_version()
    tell("executed", f"version {version} is written")
    return version


def pass_time(rpc: Rpc, until: int) -> None:
    """Have a development chain's clock go on beyond a second."""
    missing = until - rpc.get_block().timestamp
    rpc.call("evm_increaseTime", max(missing, 0) + 1)
    rpc.call("evm_mine")


async def take_over(asker: str, nodes: Sequence[str], version: int, tell: Tell) -> None:
    """End the epoch, which takes an answer, and wait until all nodes apply this version. URLs.

    AskFailed, trio.TooSlowError.
    """
    async with NodeClient(asker) as client:
        await client.ask(Asking("base", "What is new?"), max_tokens=4)
    tell("asked", "one answer, so that there is something to post and the epoch ends")
    with trio.fail_after(APPLY_DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for url in nodes:
                nursery.start_soon(_await_version, url, version)
    tell("applied", f"version {version} is in force at {len(nodes)} nodes")


async def _await_version(url: str, version: int) -> None:
    async with NodeClient(url) as client:
        while True:
            told = ((await client.status()).settlement or {}).get("parameters")
            if not isinstance(told, dict):
                raise AskFailed(f"{url} knows no governor")
            if told["version"] >= version:
                return
            await trio.sleep(POLL_S)


def _find(governance: Governance, number: int) -> Proposal:
    found = governance.find(number)
    assert found is not None, "it was proposed just now"
    return found
