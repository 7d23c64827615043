"""Finds a network's contracts: whose they are, in which block they were deployed, and whether they
are those that the operator stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..hextext import from_hex, to_hex
from .deploy import COLLECTOR, Deployment
from .errors import WrongChain

if TYPE_CHECKING:
    from .rpc import Rpc


@dataclass(frozen=True)
class Stated:
    """What an operator says about a network; None is not said."""

    chain_id: int | None = None
    channels: bytes | None = None
    token: bytes | None = None
    first_block: int | None = None


def find_deployment(rpc: Rpc, settlement: bytes, stated: Stated) -> Deployment:
    """The network's addresses, as its settlement contract names them.

    WrongChain when there is none, or when it is not what was stated.
    """
    chain_id = rpc.chain_id()
    compare("chain id", stated.chain_id, chain_id)
    rpc.pin(chain_id)
    channels, token = (
        from_hex(rpc.read("Settlement", settlement, name)[0]) for name in ("channels", "token")
    )
    compare("channels", stated.channels, channels)
    compare("token", stated.token, token)
    return Deployment(
        chain_id,
        channels=channels,
        collector=COLLECTOR,
        token=token,
        settlement=settlement,
        first_block=find_first_block(rpc, settlement, stated.first_block),
    )


def compare(what: str, stated: object, found: object) -> None:
    """WrongChain unless what was stated is what was found."""
    if stated is not None and stated != found:
        ours, theirs = (to_hex(v) if isinstance(v, bytes) else v for v in (stated, found))
        raise WrongChain(
            f"the configuration says {what} {ours}, the chain {theirs}; one of them is wrong:"
            " check chain_rpc, settlement and the network's published addresses"
        )


def find_first_block(rpc: Rpc, settlement: bytes, stated: int | None) -> int:
    """The block in which the settlement contract was deployed: it says so itself, and the operator
    may say otherwise where contracts see other block numbers than their chain has (as on Arbitrum).
    """
    if stated is not None:
        return stated
    return int(rpc.read("Settlement", settlement, "deployedAt")[0])
