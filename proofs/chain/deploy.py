"""Says where the contracts are on a chain, and brings them there.

Knows no key and no process: who deploys gives a wallet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eth_abi import encode  # type: ignore[attr-defined]

from ..digest import X402_CHANNELS, Network
from ..hextext import to_hex
from .compiled import load_contract

if TYPE_CHECKING:
    from .rpc import Rpc
    from .wallet import Wallet

# x402 signs for these addresses on every chain. Where the real contracts are not deployed, as on a
# chain that just started, ours are placed there.
CHANNELS = X402_CHANNELS
COLLECTOR = bytes.fromhex("4020806089470a89826cb9fb1f4059150b550004")
MULTICALL = bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11")
PLACED = {CHANNELS: "Channels", COLLECTOR: "Erc3009Collector", MULTICALL: "Multicall3"}


@dataclass(frozen=True)
class Deployment:
    """The contracts of one network; all addresses are 20 bytes."""

    chain_id: int
    channels: bytes
    collector: bytes
    token: bytes
    settlement: bytes
    first_block: int = 0  # no header was posted before this one

    @property
    def network(self) -> Network:
        """What signatures for these contracts are bound to."""
        return Network(self.chain_id, self.settlement, self.token, self.channels)


def placed_code() -> dict[bytes, bytes]:
    """What a development chain has at x402's addresses.

    These contracts have no constructor and no immutables.
    """
    return {address: load_contract(name).runtime_bytecode for address, name in PLACED.items()}


def place_code(rpc: Rpc) -> None:
    """Put the code where it belongs on a running anvil."""
    for address, code in placed_code().items():
        rpc.call("anvil_setCode", to_hex(address), to_hex(code))


def deploy_dev_dollar(wallet: Wallet) -> bytes:
    """A new DevDollar; refused by its constructor on any chain that is not for development."""
    return wallet.send(b"", load_contract("DevDollar").bytecode).contract


def deploy_settlement(wallet: Wallet, aggregator: bytes, channels: bytes, token: bytes) -> bytes:
    """A new Settlement that takes headers from `aggregator`."""
    arguments = encode(("address", "address", "address"), (aggregator, channels, token))
    return wallet.send(b"", load_contract("Settlement").bytecode + arguments).contract


def deploy_for_development(wallet: Wallet, chain_id: int, aggregator: bytes) -> Deployment:
    """Token and settlement, beside the channels that were placed before."""
    token = deploy_dev_dollar(wallet)
    return Deployment(
        chain_id,
        CHANNELS,
        COLLECTOR,
        token,
        settlement=deploy_settlement(wallet, aggregator, CHANNELS, token),
    )
