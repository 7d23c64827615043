"""A small world to try contracts in: chains, keys, configs, vouchers, and headers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from web3.providers import BaseProvider

from proofs.chain.client import ChainClient
from proofs.chain.contract import DeployedContract
from proofs.chain.deploy import Deployment, deploy_for_development, placed_code
from proofs.chain.devchain import CHAIN_ID, FUND_DOLLARS, FUND_WEI, mint
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import LocalRpc
from proofs.chain.rpc import Rpc
from proofs.chain.structs import VoucherClaim
from proofs.chain.wallet import TransactionReceipt, Wallet
from proofs.digest import keccak
from proofs.epoch import EpochHeader
from proofs.signing import Signer
from proofs.sumtree import PayoutTree
from proofs.voucher import ChannelConfig, channel_id, sign_voucher


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def address(name: str) -> bytes:
    return Signer(secret(name)).address


class MemoryProvider(BaseProvider):
    """The same answers without HTTP between us."""

    def __init__(self, chain: MemoryChain) -> None:
        super().__init__()
        self._local = LocalRpc(chain)

    def make_request(self, method, params):
        return self._local.answer({"id": 1, "method": method, "params": params})


def memory_rpc(chain: MemoryChain) -> Rpc:
    return Rpc("memory", provider=MemoryProvider(chain))


class World:
    """Clients for named keys on one chain."""

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        self.rpc = rpc
        self.deployment = deployment

    def client(self, name: str, **settings) -> ChainClient:
        return ChainClient(self.rpc, self.deployment, secret(name), deadline_s=20, **settings)

    def channels(self, by: str) -> DeployedContract:
        """The channels contract, also for what no client of ours ever calls."""
        wallet = self.client(by).wallet
        return DeployedContract("Channels", self.deployment.channels, self.rpc, wallet, 20)

    def config(self, by: str = "payer", to: str = "operator", **changes) -> ChannelConfig:
        token = self.deployment.token
        receiver = self.deployment.settlement
        config = ChannelConfig(
            address(by), address(by), receiver, address(to), token, 900, bytes(32)
        )
        return msgspec.structs.replace(config, **changes)

    def voucher(
        self, config: ChannelConfig, amount: int, signer: str = "payer", total: int | None = None
    ) -> VoucherClaim:
        network = self.client(signer).network
        voucher = sign_voucher(Signer(secret(signer)), channel_id(config, network), amount, network)
        return VoucherClaim(config, voucher, amount if total is None else total)

    def next_header(self, payouts: Mapping[bytes, int], **changes) -> EpochHeader:
        state = self.client("anybody").settlement.read()
        root = PayoutTree(payouts).root
        header = EpochHeader(
            state.epoch + 1,
            state.header_hash,
            b"\x11" * 32,
            state.num_receipts + 1,
            payout_root=root.hash,
            payout_total=root.sum,
            batch_digest=b"\x22" * 32,
        )
        return replace(header, **changes)

    def post(self, header: EpochHeader, by: str = "aggregator") -> TransactionReceipt:
        """Once, and without the poster's care."""
        client = self.client(by)
        return client.wallet.send(*client.settlement.encode_post(header))

    def earn(self, amount: int, payer: str = "payer") -> None:
        """Put fees into the settlement contract the way they come: deposit, voucher, claim."""
        config = self.config(
            payer, salt=keccak(f"{payer} {amount} {self.rpc.call('eth_blockNumber')}".encode())
        )
        self.client(payer).channels.deposit(config, amount)
        self.client("operator").channels.claim([self.voucher(config, amount, payer)])


NAMES = ("payer", "operator", "aggregator", "anybody", "other")


def memory_world(names: tuple[str, ...] = NAMES) -> tuple[World, MemoryChain]:
    """A fresh chain in this process."""
    balances = dict.fromkeys([address("deployer"), *map(address, names)], FUND_WEI)
    chain = MemoryChain(CHAIN_ID, placed_code(), balances)
    rpc = memory_rpc(chain)
    world = World(
        rpc,
        deploy_for_development(
            Wallet(rpc, secret("deployer"), CHAIN_ID), CHAIN_ID, address("aggregator")
        ),
    )
    for name in names:
        mint(world.client("deployer"), address(name), FUND_DOLLARS)
    return world, chain
