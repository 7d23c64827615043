"""Opens one key's view of one network's contracts, and holds its parts together.

    client.channels      money into channels, claims, withdrawals    (channels.py)
    client.settlement    headers and payouts                         (settlement.py)
    client.token         balances                                    (token.py)

Synchronous, and safe to share between threads. Knows no function of any contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..digest import Network
from ..hextext import from_hex
from .channels import Channels
from .contract import DeployedContract
from .deploy import COLLECTOR, Deployment
from .settlement import Settlement
from .structs import CONFIRM_DEADLINE_S
from .token import Token

if TYPE_CHECKING:
    from .rpc import Rpc


def open_client(
    url: str, settlement: bytes, secret: bytes, deadline_s: float = CONFIRM_DEADLINE_S
) -> ChainClient:
    """A client for the network whose settlement contract is here; channels and token are read from
    it.
    """
    from .rpc import Rpc  # brings web3: a daemon without a chain must not wait for it

    rpc = Rpc(url)
    try:
        return ChainClient(rpc, find_deployment(rpc, settlement), secret, deadline_s)
    except BaseException:  # whatever it was, the session must not stay open
        rpc.close()
        raise


def find_deployment(rpc: Rpc, settlement: bytes) -> Deployment:
    """The network's addresses, as its settlement contract names them.

    WrongChain when there is none.
    """
    channels, token = (
        rpc.read("Settlement", settlement, name)[0] for name in ("channels", "token")
    )
    return Deployment(
        rpc.web3.eth.chain_id,
        channels=from_hex(channels),
        collector=COLLECTOR,
        token=from_hex(token),
        settlement=settlement,
    )


class ChainClient:
    """One key's view of one network's contracts."""

    def __init__(
        self,
        rpc: Rpc,
        deployment: Deployment,
        secret: bytes,
        deadline_s: float = CONFIRM_DEADLINE_S,
    ) -> None:
        from .wallet import Wallet  # brings web3

        self.rpc = rpc
        self.deployment = deployment
        self.wallet = Wallet(rpc, secret, deployment.chain_id)
        settlement = DeployedContract(
            "Settlement", deployment.settlement, rpc, self.wallet, deadline_s
        )
        self.settlement = Settlement(settlement, deployment.first_block)
        self.channels = Channels(settlement.beside("Channels", deployment.channels), deployment)
        self.token = Token(settlement.beside("IFeeToken", deployment.token))

    @property
    def address(self) -> bytes:
        """Who signs and pays the gas."""
        return self.wallet.address

    @property
    def network(self) -> Network:
        """What signatures of this network are bound to."""
        return self.deployment.network

    def close(self) -> None:
        """Give the connections back."""
        self.rpc.close()
