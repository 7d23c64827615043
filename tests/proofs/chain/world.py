"""A small world to try contracts in: chains, keys, configs, vouchers, and a payout tree written from its definition."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from eth_utils.crypto import keccak

from proofs.chain.client import ChainClient
from proofs.chain.deploy import CHANNELS, Deployment, deploy_for_development, placed_code
from proofs.chain.devchain import CHAIN_ID, FUND_DOLLARS, FUND_WEI, address_of
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import LocalRpc
from proofs.chain.rpc import Rpc, read_error
from proofs.chain.structs import Sibling, VoucherClaim, header_hash
from proofs.chain.wallet import Wallet


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def address(name: str) -> bytes:
    return address_of(secret(name))


class MemoryRpc(Rpc):
    """The same answers without HTTP between us."""

    def __init__(self, chain: MemoryChain) -> None:
        super().__init__("memory")
        self._local = LocalRpc(chain)

    def call(self, method, *params):
        answer = self._local.answer({"id": 1, "method": method, "params": params})
        if "error" in answer:
            raise read_error(answer["error"])
        return answer["result"]


@dataclass(frozen=True)
class Config:
    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay: int = 900
    salt: bytes = bytes(32)


@dataclass(frozen=True)
class Header:
    epoch: int
    previous: bytes
    payout_root: bytes
    payout_total: int
    receipts_root: bytes = b"\x11" * 32
    num_receipts: int = 1
    batch: bytes = b"\x22" * 32


class World:
    """Clients for named keys on one chain."""

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        self.rpc = rpc
        self.deployment = deployment

    def client(self, name: str) -> ChainClient:
        return ChainClient(self.rpc, self.deployment, secret(name), deadline_s=20)

    def config(self, payer: str = "payer", operator: str = "operator", **changes) -> Config:
        token, receiver = self.deployment.token, self.deployment.settlement
        return replace(Config(address(payer), address(payer), receiver, address(operator), token), **changes)

    def voucher(self, config: Config, amount: int, signer: str = "payer", total: int | None = None) -> VoucherClaim:
        client = self.client(signer)
        digest = client._read("Channels", CHANNELS, "getVoucherDigest", client.channel_id(config), amount)[0]
        return VoucherClaim(config, amount, client.wallet.sign_digest(digest), amount if total is None else total)

    def next_header(self, payouts: Mapping[bytes, int], **changes) -> Header:
        state = self.client("anybody").read_settlement()
        total, root = tree_root(sorted(payouts.items()))
        header = Header(state.epoch + 1, state.header_hash, root, total, num_receipts=state.num_receipts + 1)
        return replace(header, **changes)

    def earn(self, amount: int, payer: str = "payer") -> None:
        """Put fees into the settlement contract the way they come: deposit, voucher, claim."""
        config = self.config(payer, salt=keccak(text=f"{payer} {amount} {self.rpc.call('eth_blockNumber')}"))
        self.client(payer).deposit(config, amount)
        self.client("operator").claim_vouchers([self.voucher(config, amount, payer)])


NAMES = ("payer", "operator", "aggregator", "anybody", "other")


def memory_world(names: tuple[str, ...] = NAMES) -> tuple[World, MemoryChain]:
    """A fresh chain in this process."""
    balances = dict.fromkeys([address("deployer"), *map(address, names)], FUND_WEI)
    chain = MemoryChain(CHAIN_ID, placed_code(), balances)
    rpc = MemoryRpc(chain)
    world = World(rpc, deploy_for_development(Wallet(rpc, secret("deployer"), CHAIN_ID), CHAIN_ID, address("aggregator")))
    for name in names:
        world.client("deployer").mint(address(name), FUND_DOLLARS)
    return world, chain


Leaf = tuple[bytes, int]


def leaf_hash(leaf: Leaf) -> bytes:
    return keccak(b"\0" + leaf[0] + leaf[1].to_bytes(16, "big"))


def node_hash(left: tuple[int, bytes], right: tuple[int, bytes]) -> bytes:
    return keccak(b"\1" + left[0].to_bytes(16, "big") + left[1] + right[0].to_bytes(16, "big") + right[1])


def tree_root(leaves: list[Leaf]) -> tuple[int, bytes]:
    if not leaves:
        return 0, keccak(b"")
    if len(leaves) == 1:
        return leaves[0][1], leaf_hash(leaves[0])
    left, right = (tree_root(half) for half in split(leaves))
    return left[0] + right[0], node_hash(left, right)


def tree_proof(leaves: list[Leaf], index: int) -> list[Sibling]:
    if len(leaves) == 1:
        return []
    left, right = split(leaves)
    if index < len(left):
        return [*tree_proof(left, index), (*tree_root(right), False)]
    return [*tree_proof(right, index - len(left)), (*tree_root(left), True)]


def split(leaves: list[Leaf]) -> tuple[list[Leaf], list[Leaf]]:
    """At the largest power of two below their number, as RFC 9162 does."""
    at = 1 << (len(leaves) - 1).bit_length() - 1
    return leaves[:at], leaves[at:]


def proof_for(payouts: Mapping[bytes, int], account: bytes) -> list[Sibling]:
    leaves = sorted(payouts.items())
    return tree_proof(leaves, [leaf[0] for leaf in leaves].index(account))


__all__ = ["Config", "Header", "MemoryRpc", "World", "address", "header_hash", "memory_world", "proof_for", "secret", "tree_root"]
