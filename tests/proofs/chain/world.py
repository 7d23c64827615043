"""A small world to try contracts in: chains, keys, configs, vouchers, and headers."""

from __future__ import annotations

import hashlib
import itertools

import msgspec

from proofs.chain.client import ChainClient
from proofs.chain.contract import DeployedContract
from proofs.chain.deploy import Deployment, deploy_for_development, placed_code
from proofs.chain.devchain import CHAIN_ID, FUND_DOLLARS, FUND_WEI, mint
from proofs.chain.evm import MemoryChain
from proofs.chain.local_rpc import memory_rpc
from proofs.chain.rpc import Rpc
from proofs.chain.structs import Board, PostedHeader, Terms, VoucherClaim
from proofs.chain.wallet import TransactionReceipt, Wallet
from proofs.epoch import EpochHeader
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, channel_id, operator_salt, sign_voucher
from tests.proofs.chain.books import Books


def secret(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def address(name: str) -> bytes:
    return Signer(secret(name)).address


class World:
    """Clients for named keys on one chain."""

    def __init__(self, rpc: Rpc, deployment: Deployment) -> None:
        self.rpc = rpc
        self.deployment = deployment
        self._salts = itertools.count(1)

    def client(self, name: str, **settings) -> ChainClient:
        return ChainClient(self.rpc, self.deployment, secret(name), deadline_s=60, **settings)

    def channels(self, by: str) -> DeployedContract:
        """The channels contract, also for what no client of ours ever calls."""
        wallet = self.client(by).wallet
        return DeployedContract("Channels", self.deployment.channels, self.rpc, wallet, 60)

    def config(
        self, by: str = "payer", to: str = "operator", number: int = 0, **changes
    ) -> ChannelConfig:
        token = self.deployment.token
        receiver = self.deployment.settlement
        config = ChannelConfig(
            address(by),
            address(by),
            receiver,
            address(to),
            token,
            900,
            operator_salt(address(to), number.to_bytes(12, "big")),
        )
        return msgspec.structs.replace(config, **changes)

    def voucher(
        self, config: ChannelConfig, amount: int, signer: str = "payer", total: int | None = None
    ) -> VoucherClaim:
        network = self.client(signer).network
        voucher = sign_voucher(Signer(secret(signer)), channel_id(config, network), amount, network)
        return VoucherClaim(config, voucher, amount if total is None else total)

    def books(self) -> Books:
        """An aggregator's empty books, for the channels between payer and operator."""
        network = self.client("anybody").network
        return Books(network, Signer(secret("operator")), Signer(secret("payer")))

    def next_header(self, **changes: object) -> EpochHeader:
        """One more header, of one more receipt that cost a unit; `earn` before."""
        settlement = self.client("anybody").settlement
        last = settlement.read()
        books = self.books()
        books.num_receipts = last.num_receipts + 1
        before = settlement.find_header(last.epoch)
        return books.header(before, **({"payout_total": last.payout_total + 1} | changes))

    def post(self, header: EpochHeader, by: str = "aggregator") -> PostedHeader:
        """Once, and without the poster's care."""
        self.send_post(header, by)
        found = self.client(by).settlement.find_header(header.epoch)
        assert found is not None
        return found

    def send_post(self, header: EpochHeader, by: str = "aggregator") -> TransactionReceipt:
        client = self.client(by)
        return client.wallet.send(*client.settlement.encode_post(header))

    def wait(self, seconds: int) -> None:
        """Let time pass on the chain."""
        self.rpc.call("evm_increaseTime", seconds)
        self.rpc.call("evm_mine")

    def deposit(
        self, config: ChannelConfig, amount: int, payer: str = "payer"
    ) -> TransactionReceipt:
        """A deposit whose every byte is fixed: what call data costs depends on its zeros."""
        channels = self.client(payer).channels
        signed = channels.sign_deposit(config, amount, FAR_OFF, next(self._salts))
        return channels.relay_deposit(config, signed)

    def fund(self, config: ChannelConfig, amount: int, total: int | None = None) -> None:
        """Deposit into a channel of the payer's, and have the operator claim all, or a total."""
        self.deposit(config, amount)
        self.client("operator").channels.claim([self.voucher(config, total or amount)])

    def earn(self, amount: int, payer: str = "payer") -> None:
        """Put fees into the settlement contract the way they come: deposit, voucher, claim."""
        config = self.config(payer, number=int(self.rpc.call("eth_blockNumber"), 16))
        self.deposit(config, amount, payer)
        self.client("operator").channels.claim([self.voucher(config, amount, payer)])


FAR_OFF = 4_000_000_000  # a deposit is valid until then, in seconds on the chain's clock
START = 1_800_000_000  # the chain's clock stands still but for its blocks, and for `wait`
TERMS = Terms(
    window=1_000, answer_time=200, silence=10_000, timelock=2_000, bond=1_000_000, demand_fee=500
)
NAMES = ("payer", "operator", "aggregator", "anybody", "other")


def memory_world(
    names: tuple[str, ...] = NAMES,
    witnesses: tuple[bytes, ...] = (),
    quorum: int = 0,
    terms: Terms = TERMS,
    seed: str | None = None,
) -> tuple[World, MemoryChain]:
    """A fresh chain in this process; of one seed, the same to the last hash."""
    balances = dict.fromkeys([address("deployer"), *map(address, names)], FUND_WEI)
    chain = MemoryChain(CHAIN_ID, placed_code(), balances, clock=lambda: START)
    if seed is not None:
        numbers = itertools.count()
        chain.randomness = lambda: secret(f"{seed} {next(numbers)}")
    board = Board(address("deployer"), address("aggregator"), witnesses, quorum)
    return deploy_world(memory_rpc(chain), names, board, terms), chain


def deploy_world(
    rpc: Rpc,
    names: tuple[str, ...] = NAMES,
    board: Board | None = None,
    terms: Terms = TERMS,
) -> World:
    """Everything deployed on a chain that has x402's contracts, and dollars for everybody."""
    world = World(
        rpc,
        deploy_for_development(
            rpc,
            Wallet(rpc, secret("deployer"), CHAIN_ID),
            board or Board(address("deployer"), address("aggregator")),
            terms,
        ),
    )
    for name in names:
        mint(world.client("deployer"), address(name), FUND_DOLLARS)
    return world
