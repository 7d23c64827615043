"""Says whether the contracts that a configuration names, or an invite brought, are of one network:
each is there, and they name one another.

    stake ── settlement, token ──┐
    governor ── token, timelock ─┼─ one token, one timelock
    registry ── disputes ────────┘

A network without one of them has fewer to compare. Decides nothing else.
"""

from __future__ import annotations

from proofs.chain.client import ChainClient
from proofs.chain.disputes import Disputes
from proofs.chain.errors import OddAnswer
from proofs.chain.governance import Governance
from proofs.chain.registry import Registry
from proofs.chain.stake import Stake
from proofs.hextext import to_hex


def check_one_network(
    chain: ChainClient,
    governance: Governance | None,
    stake: Stake | None,
    registry: Registry | None,
) -> None:
    """Raise ChainError that names what is not there, or not of this network. Blocks."""
    settlement = chain.deployment.settlement
    if stake is not None and stake.settlement != settlement:
        raise OddAnswer(
            f"the stake contract judges by settlement {to_hex(stake.settlement)}, not by ours"
        )
    tokens = {} if governance is None else {"governor": governance.token.address}
    if stake is not None:
        tokens["stake"] = stake.token.address
    disputes = None if registry is None else _find_disputes(chain, registry)
    if disputes is not None:
        tokens["registry"] = disputes.token.address
        timelock = None if governance is None else governance.timelock.address
        if timelock not in (None, disputes.timelock):
            raise OddAnswer(
                f"disputes of the registry are decided by {to_hex(disputes.timelock)}, which is not"
                " the governor's timelock"
            )
    if len(set(tokens.values())) > 1:
        told = ", ".join(f"{name}'s is {to_hex(token)}" for name, token in tokens.items())
        raise OddAnswer(f"these contracts are of different networks, by their token: {told}")


def _find_disputes(chain: ChainClient, registry: Registry) -> Disputes | None:
    """Return where the registrations are disputed, if anywhere, and hold it to its registry."""
    at = registry.disputes()
    if at is None:
        return None
    disputes = chain.open_disputes(at)
    if disputes.registry != registry.address:
        raise OddAnswer(
            f"the registry names {to_hex(at)} for its disputes, which are those of"
            f" {to_hex(disputes.registry)}"
        )
    return disputes
