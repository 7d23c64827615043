"""Opens one key's view of one network's contracts, and holds its parts together.

    client.channels      money into channels, claims, withdrawals    (channels.py)
    client.settlement    headers and payouts                         (settlement.py)
    client.token         balances                                    (token.py)
    client.walk_headers  headers as they become final, in order      (headers.py)

Synchronous, and safe to share between threads. Knows no function of any contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..digest import Network
from .channels import Channels
from .contract import DeployedContract
from .deploy import Deployment
from .disputes import Disputes
from .fees import FeeLimits
from .finality import Finality
from .governance import Governance
from .headers import HeaderWalk
from .origin import Stated, find_deployment
from .registry import Registry
from .settlement import Settlement
from .stake import Stake
from .structs import CONFIRM_DEADLINE_S
from .token import Token

if TYPE_CHECKING:
    from .rpc import Rpc


def open_client(
    urls: str | Sequence[str],
    settlement: bytes,
    secret: bytes,
    deadline_s: float = CONFIRM_DEADLINE_S,
    *,
    stated: Stated | None = None,
    limits: FeeLimits | None = None,
    confirmations: int = 0,
) -> ChainClient:
    """A client for the network whose settlement contract is here; channels and token are read from
    it, and compared with what is stated.
    """
    from .rpc import Rpc  # brings web3: a daemon without a chain must not wait for it

    rpc = Rpc(urls)
    try:
        deployment = find_deployment(rpc, settlement, stated or Stated())
        return ChainClient(
            rpc, deployment, secret, deadline_s, limits=limits, confirmations=confirmations
        )
    except BaseException:  # whatever it was, the session must not stay open
        rpc.close()
        raise


class ChainClient:
    """One key's view of one network's contracts.

    `confirmations`: how many blocks deep something must lie before it counts, its own included; 0
    is as deep as the chain calls final.
    """

    def __init__(
        self,
        rpc: Rpc,
        deployment: Deployment,
        secret: bytes,
        deadline_s: float = CONFIRM_DEADLINE_S,
        *,
        limits: FeeLimits | None = None,
        confirmations: int = 0,
    ) -> None:
        from .wallet import Wallet  # brings web3

        self.rpc = rpc
        self.deployment = deployment
        self.limits = limits or FeeLimits()
        self.finality = Finality(rpc, confirmations, deployment.first_block)
        self._confirmations = confirmations
        self._deadline_s = deadline_s
        self.wallet = Wallet(rpc, secret, deployment.chain_id, self.limits)
        self._contract = DeployedContract(
            "Settlement", deployment.settlement, rpc, self.wallet, deadline_s
        )
        self.settlement = Settlement(self._contract, deployment.first_block)
        channels = self._contract.beside("Channels", deployment.channels)
        self.channels = Channels(channels, deployment, self.finality)
        self.token = Token(self._contract.beside("IFeeToken", deployment.token))

    @property
    def address(self) -> bytes:
        """Who signs and pays the gas."""
        return self.wallet.address

    @property
    def network(self) -> Network:
        """What signatures of this network are bound to."""
        return self.deployment.network

    def for_key(self, secret: bytes) -> ChainClient:
        """The same view of the same network, for another key."""
        return ChainClient(
            self.rpc,
            self.deployment,
            secret,
            self._deadline_s,
            limits=self.limits,
            confirmations=self._confirmations,
        )

    def walk_headers(self) -> HeaderWalk:
        """A walk along all headers, from the first one on."""
        return HeaderWalk(
            self._contract, self.finality, self.deployment.first_block, self.read_origin()
        )

    def open_governance(self, governor: bytes) -> Governance:
        """What is voted at this governor, for this key."""
        contract = self._contract.beside("LorikeetGovernor", governor)
        return Governance(contract, self.deployment.first_block)

    def open_registry(self, registry: bytes) -> Registry:
        """Whose weights are by this registry, for this key."""
        return Registry(self._contract.beside("Registry", registry))

    def open_disputes(self, disputes: bytes) -> Disputes:
        """Who disputes registrations at this contract, for this key."""
        return Disputes(self._contract.beside("Disputes", disputes))

    def open_stake(self, stake: bytes) -> Stake:
        """What stands behind operators at this contract, for this key."""
        return Stake(self._contract.beside("Stake", stake))

    def read_origin(self) -> bytes:
        """The hash of the block in which the network was deployed: on every chain another one."""
        return self.rpc.get_block(self.deployment.first_block).hash

    def close(self) -> None:
        """Give the connections back, also those of `for_key`."""
        self.rpc.close()
