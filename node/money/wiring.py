"""Everything about money in one daemon: its view of the chain, its channels on both sides of the
counter, its receipts. Only wires and reports.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import trio

from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.host import Host
from proofs.aggregator import Pace
from proofs.chain.client import ChainClient, open_client
from proofs.chain.decisions import Decisions
from proofs.chain.errors import ChainError
from proofs.chain.fees import GWEI, FeeLimits
from proofs.chain.origin import Stated
from proofs.chain.stake import Stake
from proofs.chain.views import LATEST
from proofs.codec import encode
from proofs.digest import Network
from proofs.hextext import from_hex, to_hex
from proofs.ledger import Ledger, Outbox, OutboxEntry, OutboxState
from proofs.policies import UNGOVERNED, Policies
from proofs.receipt import BARE_BASE, NO_SIGNATURE, decode_body
from proofs.signing import Signer
from proofs.stake import LORI, StakeTerms

from ..api.governance import GovernanceInfo, SimulationInfo
from ..api.money import ChannelInfo, EarningsInfo, ReceiptInfo, ReceiptState, StuckInfo
from ..api.status import CoinInfo
from ..config import Config
from ..errors import BadRequest, ConfigError, NodeError
from ..keys import Keys
from ..lives import restored
from ..metrics import ChannelSums
from ..telemetry import Telemetry
from ..threads import in_thread
from ..wire.metering import Price
from ..wire.notary import Notary
from ..wire.receipts import PROTOCOL
from ..wire.witness import PROTOCOL as WITNESS_PROTOCOL
from .aggregator import AggregatorRole, ignore_two_receipts
from .backing import Backing
from .belonging import check_one_network
from .book import ChannelBook
from .chasing import Chaser
from .claiming import Claims
from .delivering import Delivery, run_gossip
from .disputing import Disputing
from .exits import Exits
from .facilitating import Facilitator
from .governing import NOTHING_SEEN, Decided, Governing, Look, look
from .heads import Heads
from .house import House
from .mirror import Mirror
from .objecting import Objector
from .origin import Origin, check_same_chain
from .promises import PromiseBook
from .published import Published
from .purse import Purse
from .quorum import Quorum
from .registering import ChainRegistry
from .responding import Respondent
from .selling import Counter
from .simulating import Simulating
from .staking import Staking
from .stuck import list_stuck, read_facts
from .till import Till
from .transfers import Transfers
from .vault import Limits, Vault
from .watching import OnVerdict, Watcher, ignore_verdict
from .witnessing import Witness

CHAIN_DEADLINE_S = 20.0
CONNECT_DEADLINE_S = 60.0
USUAL_GAS = 500_000  # what a claim or a way out takes at most
DEVELOPMENT_CHAINS = (1337, 31337)
"""Chains whose tokens are free and worth no gas: there everything is claimed that is due."""
LAST_CLAIM_DEADLINE_S = 2.0
GIVE_DEADLINE_S = 60.0
GIVEN_TRANSACTIONS = 6  # a few deposits, and the way back
MAX_LISTED_RECEIPTS = 1000
MAX_LISTED_STUCK = 1000
MAX_SHOWN_REJECTIONS = 20
AGGREGATOR_STREAMS_PER_PEER = 8
CHECK_INTERVAL_S = 3600.0


T = TypeVar("T")

_STATE_WORDS: dict[OutboxState, ReceiptState] = {
    OutboxState.QUEUED: "queued",
    OutboxState.PROMISED: "promised",
    OutboxState.INCLUDED: "included",
    OutboxState.FINAL: "final",
}


@dataclass(frozen=True)
class Connection:
    """The chain as the operator's key sees it, and as the key does that pays others; and who
    aggregates on it.
    """

    chain: ChainClient
    payer: ChainClient
    network: Network
    aggregator: bytes
    decisions: Decisions
    coin: CoinInfo
    seen: Look = NOTHING_SEEN
    stake: Stake | None = None


@dataclass
class Books:
    """What the daemon remembers about money: views of one file."""

    ledger: Ledger

    @property
    def outbox(self) -> Outbox:
        """This daemon's receipts."""
        return Outbox(self.ledger)

    @property
    def channels(self) -> ChannelBook:
        """This daemon's channels, on both sides of the counter."""
        return ChannelBook(self.ledger)


@dataclass(frozen=True)
class Gas:
    """What one of this daemon's keys has of the chain's own money, what its next transaction may
    take, both in wei, and what it has of the fee token.
    """

    what: str
    address: str
    wei: int
    needed_wei: int
    tokens: int


@dataclass(frozen=True)
class Purses:
    """This daemon's keys on the chain, and when its newest block was made (Unix seconds)."""

    block_at: int
    accounts: tuple[Gas, ...]


@dataclass(frozen=True)
class Tally:
    """The books, added up: receipts by this node's part and state, channels by its part."""

    receipts: Mapping[tuple[str, str], int]
    channels: Mapping[str, ChannelSums]


class Money:
    """What the rest of the daemon asks about money.

    Without a chain, `till` and `purse` are None and nothing is paid.
    """

    def __init__(
        self,
        config: Config,
        keys: Keys,
        host: Host,
        telemetry: Telemetry,
        connection: Connection | None,
        books: Books,
        on_verdict: OnVerdict = ignore_verdict,
    ) -> None:
        self._on_verdict = on_verdict
        self._config = config
        self._keys = keys
        self._host = host
        self._telemetry = telemetry
        self._connection = connection
        self._books = books
        self._signer = Signer(keys.operator.secret)
        self._outbox = books.outbox
        self.till: Till | None = None
        self.counter: Counter | None = None
        self.transfers: Transfers | None = None
        self.house: House | None = None
        self.purse: Purse | None = None
        self.mirror: Mirror | None = None
        self.claims: Claims | None = None
        self.delivery: Delivery | None = None
        self.exits: Exits | None = None
        self.watcher: Watcher | None = None
        self.chaser: Chaser | None = None
        self.respondent: Respondent | None = None
        self.objector: Objector | None = None
        self.witness: Witness | None = None
        self._heads = None if connection is None else Heads(connection.chain.rpc)
        self._governing: Governing | None = None
        self._simulating: Simulating | None = None
        self.staking: Staking | None = None
        self.backing: Backing | None = None
        self.announces: Callable[[], int] = lambda: 0
        self.disputing: Disputing | None = None
        self._promises = PromiseBook()
        self.aggregator: AggregatorRole | None = None

    def build(self, store: BlockStore) -> None:
        """Construct this role's parts."""
        connection = self._connection
        config = self._config
        if connection is None or config.role == "bootstrap":
            return
        published = Published(
            self._host,
            store,
            connection.chain.deployment.settlement,
            [config.aggregator, *config.witnesses],
            telemetry=self._telemetry,
        )
        self._build_governing(connection)
        self._build_staking(connection)
        self._build_disputing(connection)
        mirror = self._build_watch(connection, published)
        if connection.decisions.governance is not None:
            self._simulating = Simulating(
                connection.chain, connection.decisions, mirror, published, self.accounts
            )
        if config.role == "watcher":  # earns nothing and pays nobody
            return
        claims = self._build_receipts(connection, published, mirror)
        self._build_counter(connection, claims)
        if config.role == "aggregator":
            self._build_aggregator(connection, published, mirror)

    def _build_governing(self, connection: Connection) -> None:
        """Construct what reads the network's decisions, where there is a governor."""
        governance = connection.decisions.governance
        if governance is None:
            return
        assert self._heads is not None
        self._governing = Governing(
            connection.chain,
            governance,
            self._heads,
            self._telemetry,
            on_change=self._note_decided,
            seen=connection.seen,
        )

    def _build_staking(self, connection: Connection) -> None:
        """Construct what shows offences to the stake contract, and what reads there what stands
        behind others, where there is one.
        """
        if connection.stake is None:
            return
        assert self._heads is not None
        own = connection.stake.terms

        def terms() -> StakeTerms:
            return self.decided().stake_terms(own)

        self.staking = Staking(
            connection.chain,
            connection.stake,
            self._heads,
            self._telemetry,
            folder=self._config.evidence_path,
            least_bounty=round(self._config.least_bounty * LORI),
            terms=terms,
            announces=lambda: self.announces(),
        )
        if self._config.role in ("volunteer", "gateway"):
            self.backing = Backing(
                connection.stake,
                self._heads,
                self._telemetry,
                terms,
                is_required=self._config.require_stake,
            )

    def _build_disputing(self, connection: Connection) -> None:
        """Construct what sees that our registrations are disputed, where there is a registry."""
        if not self._config.registry:
            return
        assert self._heads is not None
        self.disputing = Disputing(
            connection.chain,
            connection.chain.open_registry(from_hex(self._config.registry)),
            self._heads,
            self._telemetry,
            self.accounts,
        )

    def _note_decided(self, decided: Decided) -> None:
        if self.aggregator is not None:
            self.aggregator.promise_within(decided.promise_s(round(self._config.promise_s)))
            self.aggregator.divide_by(self._taken())

    def decided(self) -> Decided:
        """Return what the network's people decided, as it is in force."""
        return Decided() if self._governing is None else self._governing.decided

    async def governance(self) -> GovernanceInfo:
        """Tell what was decided and is proposed. Raises NodeError."""
        if self._governing is None:
            raise BadRequest("no governor is set here (governor in lorikeet.toml), so nobody votes")
        return await self._governing.show()

    async def simulate(self, number: str) -> SimulationInfo:
        """Tell what a proposal would have made of all past epochs. Raises NodeError."""
        if self._simulating is None:
            raise BadRequest("no governor is set here (governor in lorikeet.toml), so nobody votes")
        return await self._simulating.show(number)

    def agreeable(self) -> Policies:
        """Return those by which another node may divide a fee now."""
        return UNGOVERNED if self._governing is None else self._governing.agreeable

    def every_policy(self) -> Policies:
        """Return those of all versions of the parameters that were written."""
        return UNGOVERNED if self._governing is None else self._governing.every

    def _taken(self) -> Policies:
        return UNGOVERNED if self._governing is None else self._governing.taken

    def is_paused(self) -> bool:
        """Return whether the guardian asks that no header be posted."""
        return self._governing is not None and self._governing.is_paused()

    def _build_watch(self, connection: Connection, published: Published) -> Mirror:
        """Construct what recomputes every epoch, and holds the aggregator to its word."""
        config = self._config
        chain = connection.chain
        for entry in self._outbox.promised():
            if entry.promise is not None and entry.envelope is not None:
                self._promises.add(entry.promise, entry.envelope)
        self.watcher = Watcher(
            chain,
            self._promises,
            self._telemetry,
            config.watch_interval_s,
            accounts=self.accounts,
            own_channels=self._own_channels,
            on_verdict=self._on_verdict,
        )
        self.mirror = mirror = Mirror(
            published,
            chain,
            self._outbox,
            self._telemetry,
            signer=self._signer,
            accounts=self.accounts,
            checkpoint=config.home / "epochs",
            decisions=connection.decisions,
            judge=self.watcher,
        )
        self.chaser = Chaser(
            chain,
            self._promises,
            mirror,
            published,
            self._telemetry,
            on_verdict=self._on_verdict,
        )
        self.objector = Objector(chain, mirror.state_at, mirror, self._telemetry)
        return mirror

    def _build_receipts(
        self, connection: Connection, published: Published, mirror: Mirror
    ) -> Claims:
        """Construct what becomes of receipts: claimed, delivered, or settled without anybody."""
        config = self._config
        chain = connection.chain
        self.claims = claims = Claims(
            chain,
            self._books.channels,
            mirror,
            self._telemetry,
            operator=self._signer.address,
            accounts=self.accounts,
            unit_wei=0 if chain.deployment.chain_id in DEVELOPMENT_CHAINS else config.unit_wei,
            on_claimed=self._send_soon,
        )
        self.delivery = Delivery(
            self._host,
            self._outbox,
            self._telemetry,
            connection.network,
            aggregator=config.aggregator,
            address=self._aggregator_now,
            is_claimed=claims.is_claimed,
            on_promise=self._promises.add,
        )
        self.exits = Exits(
            chain,
            self._books.channels,
            self._outbox,
            mirror,
            self._telemetry,
            claims=claims,
            published=published,
            operator=self._signer.address,
            on_aggregator=self._note_aggregator,
            policies=self.every_policy,
        )
        self.witness = Witness(
            self._signer, mirror, published, self._telemetry, is_paused=self.is_paused
        )
        return claims

    def _build_counter(self, connection: Connection, claims: Claims) -> None:
        """Construct both sides of the counter: what is paid here, and what this daemon pays."""
        assert self.delivery is not None
        assert self.exits is not None
        config = self._config
        notary = Notary(self._signer, connection.network)
        self.till = Till(
            notary,
            self._books.channels,
            connection.chain.channels,
            on_receipt=self.delivery.earned,
            telemetry=self._telemetry,
            on_withdrawal=claims.claim_soon,
            has_left=self.exits.has_left,
            grace_s=config.grace_s,
            shallow=config.shallow_deposit,
            clock=time.time,
        )
        self.counter = Counter(
            self.till,
            connection.chain.channels,
            connection.network,
            self._telemetry,
            signing_domain=connection.chain.token.signing_domain,
            shallow=config.shallow_deposit,
            payee=connection.payer.address,
        )
        facilitator = None
        if config.facilitator:
            terms = partial(self.counter.terms, Price(0, 0), 0)
            facilitator = Facilitator(config.facilitator, terms)
        self.transfers = Transfers(
            connection.chain.token,
            connection.payer.token,
            connection.payer.address,
            self._telemetry,
            clock=time.time,
            facilitator=facilitator,
        )
        self.house = House(
            self.till,
            notary,
            connection.payer.channels,
            connection.payer.token.balance_of,
            payer=connection.payer.address,
            step=config.first_deposit,
        )
        limits = Limits(
            first=config.first_deposit,
            step=config.channel_deposit,
            most=config.max_channel_deposit,
            locked=config.max_locked,
        )
        self.purse = Purse(
            notary,
            self._books.channels,
            Vault(connection.payer.channels, limits),
            on_receipt=self.delivery.paid,
            telemetry=self._telemetry,
            idle_s=config.idle_withdraw_s,
            clock=time.time,
            payer=connection.payer.address,
        )

    def _build_aggregator(
        self, connection: Connection, published: Published, mirror: Mirror
    ) -> None:
        """Construct the aggregator's office. Raises ConfigError where this key does not hold it."""
        config = self._config
        if restored(config.home) is not None:
            raise ConfigError(
                f"{config.home} came from a backup, and aggregated after that was made: promises"
                " that it gave since are not in it, and one that is broken costs the bond. Have the"
                " owner of the settlement contract name another key: lorikeet aggregator propose"
            )
        signer = Signer(self._keys.aggregator)
        self._check_office(connection.aggregator, signer.address)
        own = connection.chain.for_key(self._keys.aggregator)
        self.aggregator = AggregatorRole(
            published,
            own,
            signer,
            self._books.ledger,
            self._telemetry,
            quorum=Quorum(self._host, own, config.witnesses, self._telemetry),
            pace=Pace(round(config.grace_s), self.decided().promise_s(round(config.promise_s))),
            decisions=connection.decisions,
            policies=self._taken(),
            is_paused=self.is_paused,
            on_two_receipts=self.staking.note if self.staking else ignore_two_receipts,
        )
        self.respondent = Respondent(own, self.aggregator.state_at, mirror, self._telemetry)

    def _check_office(self, holder: bytes, own: bytes) -> None:
        if not any(holder):
            raise ConfigError(
                "the aggregator's office is vacant: whoever held it was convicted, or silent for"
                " too long. The owner of the settlement contract gives it:"
                f" lorikeet aggregator propose --aggregator {to_hex(own)}"
            )
        if holder != own:
            raise ConfigError(
                f"the settlement contract takes headers from {to_hex(holder)}, not from this"
                f" daemon's key {to_hex(own)} ({self._config.key_files.aggregator.name}, or key"
                " where there is none)"
            )

    def _own_channels(self) -> list[bytes]:
        """List the channels that this daemon is paid from, then those that it pays from; newest
        first.
        """
        rows = reversed(self._books.channels.all())
        own = self._signer.address
        return [row.channel_id for row in sorted(rows, key=lambda row: row.operator != own)]

    def _aggregator_now(self) -> bytes:
        assert self._connection is not None, "only with a chain is anything promised"
        return self._connection.aggregator

    def _note_aggregator(self, aggregator: bytes) -> None:
        """The office may have changed hands: from now on promises are those of who holds it."""
        assert self._connection is not None, "only with a chain is there an office"
        if aggregator != self._connection.aggregator:
            self._telemetry.log(f"money: the aggregator is {to_hex(aggregator)} now")
            self._connection = replace(self._connection, aggregator=aggregator)

    def _send_soon(self) -> None:
        if self.delivery is not None:
            self.delivery.send_soon()

    async def run_in(self, nursery: trio.Nursery) -> None:
        """Start this role's tasks."""
        network = self._connection.network if self._connection else None
        gossip = partial(run_gossip, self._host, network, self._aggregator_now)
        await nursery.start(gossip, self._promises.add, self._telemetry)
        config = self._config
        if self._governing is not None:
            nursery.start_soon(self._governing.run, config.watch_interval_s)
        if self.staking is not None:
            nursery.start_soon(self.staking.run, config.watch_interval_s)
        if self.backing is not None:
            nursery.start_soon(self.backing.run, config.watch_interval_s)
        if self.disputing is not None:
            nursery.start_soon(self.disputing.run, config.watch_interval_s)
        if self.aggregator is not None:
            self._host.serve(
                PROTOCOL, self.aggregator.serve, streams_per_peer=AGGREGATOR_STREAMS_PER_PEER
            )
            nursery.start_soon(self.aggregator.run, config.epoch_s)
            assert self.respondent is not None
            assert self._heads is not None
            nursery.start_soon(self.respondent.run, self._heads, config.watch_interval_s)
        if self.mirror is not None and self.watcher is not None and self.chaser is not None:
            assert self._heads is not None
            assert self.objector is not None
            interval_s = min(config.watch_interval_s, config.epoch_s / 2)
            nursery.start_soon(self.mirror.run, self._heads, interval_s)
            nursery.start_soon(self.objector.run, self._heads, config.watch_interval_s)
            nursery.start_soon(self.watcher.run)
            nursery.start_soon(self.chaser.run, config.watch_interval_s)
        if self.delivery is not None and self.claims is not None:
            assert self.witness is not None
            assert self.exits is not None
            assert self._heads is not None
            nursery.start_soon(self.exits.run, self._heads, config.watch_interval_s)
            self._host.serve(WITNESS_PROTOCOL, self.witness.serve, streams_per_peer=2)
            nursery.start_soon(self.delivery.run)
            nursery.start_soon(self.claims.run, config.claim_interval_s)
        if self.till is not None and self.purse is not None:
            nursery.start_soon(self.till.run)
            nursery.start_soon(self.purse.run)
            nursery.start_soon(run_checks, (self.till.check, self.purse.check), self._telemetry)

    async def close(self) -> None:
        """Claim at the end what is due; bounded, because the machine may be going down."""
        if self.claims is not None:
            with trio.CancelScope(
                shield=True, deadline=trio.current_time() + LAST_CLAIM_DEADLINE_S
            ):
                await self.claims.claim_vouchers()

    # --- reports ---

    @property
    def accounts(self) -> tuple[bytes, ...]:
        """Who is paid by this daemon's work: the owner, and the key itself as an adapter's
        creator.
        """
        owner = from_hex(self._config.owner)
        return tuple(dict.fromkeys((owner or self._signer.address, self._signer.address)))

    @property
    def coin(self) -> CoinInfo:
        """In what is paid here."""
        return self._connection.coin if self._connection else CoinInfo()

    def describe(self) -> dict[str, object]:
        """Where settlement stands, as plain values."""
        rejections = [
            {"what": item.what, "peer": item.peer_id, "reason": item.reason}
            for item in self._telemetry.rejections
        ]
        about: dict[str, object] = {
            "paid": self._connection is not None,
            "troubles": dict(self._telemetry.troubles),
            "rejections": rejections[-MAX_SHOWN_REJECTIONS:],
        }
        if self._connection is None:
            return about | {
                "note": (
                    "no chain is configured (chain_rpc): requests between nodes are unpaid and"
                    " leave no receipt"
                )
            }
        deployment = self._connection.chain.deployment
        about |= {
            "chain_id": deployment.chain_id,
            "settlement": to_hex(deployment.settlement),
            "token": to_hex(deployment.token),
            "payer": to_hex(self._connection.payer.address),
            "nodes": [
                {"node": one.name, "trouble": one.trouble}
                for one in self._connection.chain.rpc.health()
            ],
        }
        if self.mirror is not None:
            header = self.mirror.header
            about |= {
                "epoch": header.epoch if header else 0,
                "payout_total": header.payout_total if header else 0,
            }
        if self._governing is not None:
            about["parameters"] = self._governing.describe()
        if self.staking is not None:
            about["stake"] = self.staking.describe()
        if self.backing is not None:
            about["others_stake"] = self.backing.describe()
        if self.disputing is not None:
            about["disputes"] = self.disputing.describe()
        if self.aggregator is not None:
            about["aggregator"] = self.aggregator.describe()
        return about

    @property
    def is_paid(self) -> bool:
        """Whether there is a chain."""
        return self._connection is not None

    def chain_health(self) -> list[tuple[str, str]]:
        """Return the nodes of the chain, and what is wrong with each; empty where nothing is."""
        if self._connection is None:
            return []
        return [(one.name, one.trouble) for one in self._connection.chain.rpc.health()]

    async def purses(self) -> Purses:
        """Return what this daemon's keys have. Raises ChainError, trio.TooSlowError."""
        assert self._connection is not None, "only with a chain are there purses"
        keys = {"the operator's key": self._signer.address}
        payer = self._connection.payer.address
        if payer != self._signer.address:
            keys["the payer's key"] = payer
        chain, limits = self._connection.chain, _fee_limits(self._config)
        return await in_thread(_read_purses, chain, keys, limits, deadline_s=CHAIN_DEADLINE_S)

    async def give(self, account: bytes, amount: int) -> None:
        """Give a key of our own that has nothing so much of the fee token, and gas for a few
        transactions.

        Raises NodeError.
        """
        if self._connection is None:
            raise NodeError("there is no chain (chain_rpc), so there is no money to give")
        await self._ask_chain(_give, self._connection.payer, account, amount)

    async def return_to(self, account: bytes) -> int:
        """Give all that this daemon's paying key has of the fee token, outside channels, to an
        account; return how much that was. Raises NodeError.
        """
        if self._connection is None:
            return 0
        return await self._ask_chain(_return, self._connection.payer, account)

    async def _ask_chain(self, call: Callable[..., T], *values: object) -> T:
        try:
            return await in_thread(call, *values, deadline_s=GIVE_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(
                f"the chain did not move the money: {error}; `lorikeet doctor` says what the keys"
                " have"
            ) from error

    @property
    def payer(self) -> bytes:
        """Return the address of the key that pays others."""
        assert self._connection is not None, "only with a chain is anybody paid"
        return self._connection.payer.address

    def registry(self) -> ChainRegistry | None:
        """Return the registry of weights that is asked here; None where there is none."""
        if self._connection is None or not self._config.registry:
            return None
        return ChainRegistry(self._connection.chain.open_registry(from_hex(self._config.registry)))

    @property
    def network(self) -> Network | None:
        """The chain and contracts that receipts are for; None where nothing is paid."""
        return self._connection.network if self._connection else None

    def tally(self) -> Tally:
        """Add up what the books hold; reads the disk, and asks no chain."""
        receipts: dict[tuple[str, str], int] = {
            ("client" if is_paid else "node", _STATE_WORDS[state]): num
            for (is_paid, state), num in self._outbox.count().items()
        }
        channels = {"node": ChannelSums(), "client": ChannelSums()}
        for row in self._books.channels.all():
            part = "node" if row.operator == self._signer.address else "client"
            before = channels[part]
            channels[part] = ChannelSums(
                before.channels + 1,
                before.spent + row.cumulative,
                before.vouched + row.voucher,
                before.locked + row.locked,
            )
        return Tally(receipts, channels)

    def epoch(self) -> int | None:
        """The newest epoch that was recomputed, 0 before the first; None where there is none."""
        if self.mirror is None:
            return None
        return self.mirror.header.epoch if self.mirror.header else 0

    def credited(self) -> int:
        """What this daemon's accounts were awarded in epochs."""
        mirror = self.mirror
        return sum(mirror.credited(account) for account in self.accounts) if mirror else 0

    def receipts(self) -> list[ReceiptInfo]:
        """The latest receipts, newest first."""
        return [self._describe(entry) for entry in self._outbox.newest(MAX_LISTED_RECEIPTS)]

    def receipt(self, digest: str) -> bytes | None:
        """A signed receipt's bytes."""
        try:
            entry = self._outbox.find(bytes.fromhex(digest))
        except ValueError:
            return None
        return encode(entry.signed) if entry else None

    def _describe(self, entry: OutboxEntry) -> ReceiptInfo:
        receipt = decode_body(entry.signed.body)
        is_node = receipt.operator == self._signer.address
        return ReceiptInfo(
            digest=entry.digest.hex(),
            state=_STATE_WORDS[entry.state],
            role="node" if is_node else "client",
            adapter="base" if receipt.adapter == BARE_BASE else str(Cid(receipt.adapter)),
            channel=receipt.channel_id.hex(),
            sequence=receipt.sequence,
            tokens=receipt.prompt_tokens + receipt.completion_tokens,
            amount=receipt.amount,
            counterparty=to_hex(receipt.client if is_node else receipt.operator),
            is_cosigned=entry.signed.client_signature != NO_SIGNATURE,
            epoch=entry.epoch,
            started_at=receipt.started_at,
        )

    async def channels(self) -> list[ChannelInfo]:
        """This daemon's channels: first those that it pays from, then those that pay it."""
        paying = await self.purse.channels() if self.purse else []
        return paying + (await self.till.channels() if self.till else [])

    async def withdraw(self, channel: bytes | None) -> list[ChannelInfo]:
        """Take money back out of one channel, or of all."""
        return await self.purse.withdraw(channel) if self.purse else []

    async def earnings(self) -> list[EarningsInfo]:
        """What this daemon's accounts earned; at an aggregator everybody's."""
        if self.mirror is None or self._connection is None:
            return []
        state = self.mirror.history.state
        accounts = state.all_accounts() if self.aggregator is not None else self.accounts
        credited = {account: state.amount(account) for account in accounts}
        try:
            return await in_thread(
                _read_earnings, self._connection.chain, credited, deadline_s=CHAIN_DEADLINE_S
            )
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(
                f"the chain did not say what was paid: {error}; check chain_rpc"
            ) from error

    async def stuck(self) -> list[StuckInfo]:
        """What this daemon earned and was not paid yet, and what it waits for."""
        if self.mirror is None or self.claims is None or self.delivery is None:
            return []
        assert self._connection is not None, "only with a chain is anything earned"
        chain = self._connection.chain
        rows = self._books.channels.of_operator(self._signer.address)
        entries = self._outbox.unpaid(MAX_LISTED_STUCK)
        channels = [row.channel_id for row in rows]
        awarded = {account: self.mirror.credited(account) for account in self.accounts}
        found = {account: self.mirror.claimable(account) for account in self.accounts}
        claimable = {
            account: one.shown.leaf.amount for account, one in found.items() if one is not None
        }
        try:
            facts = await in_thread(
                read_facts, chain, channels, awarded, claimable, deadline_s=CHAIN_DEADLINE_S
            )
            window_s = await in_thread(_read_window, chain, deadline_s=CHAIN_DEADLINE_S)
        except (ChainError, trio.TooSlowError) as error:
            raise NodeError(
                f"the chain did not say what money waits for: {error}; check chain_rpc"
            ) from error
        known = _Whereabouts(self.claims, self.delivery, self.mirror, window_s)
        return list_stuck(rows, entries, facts, known, grace_s=self._config.grace_s)


@dataclass(frozen=True)
class _Whereabouts:
    """What the parts know of receipts on their way: stuck.py's `Known`."""

    claims: Claims
    delivery: Delivery
    mirror: Mirror
    window_s: int

    def is_claimed(self, channel_id: bytes, cumulative: int) -> bool:
        """Whether a channel's vouchers are claimed so far."""
        return self.claims.is_claimed(channel_id, cumulative)

    def why_held(self, channel_id: bytes) -> str | None:
        """Why a channel's voucher was not claimed last time."""
        return self.claims.why_held(channel_id)

    def is_refused(self, digest: bytes) -> bool:
        """Whether the aggregator refused a receipt for good."""
        return self.delivery.is_refused(digest)

    def last_words(self, digest: bytes) -> str | None:
        """What the aggregator said last."""
        return self.delivery.last_words(digest)

    def final_at(self, epoch: int) -> int | None:
        """When an epoch's challenge window ends."""
        posted = self.mirror.posted(epoch)
        return None if posted is None else posted.posted_at + self.window_s


async def run_checks(
    checks: Sequence[Callable[[], None]],
    telemetry: Telemetry,
    interval_s: float = CHECK_INTERVAL_S,
) -> None:
    """Look every interval whether the channels' invariants hold, until cancelled.

    A broken one is a bug of ours: it is counted and told, and ends nothing.
    """
    while True:
        await trio.sleep(interval_s)
        for check in checks:
            try:
                check()
            except AssertionError as error:
                telemetry.count("invariants_broken")
                telemetry.log(f"money: an invariant is broken, please report it: {error!r}")


@asynccontextmanager
async def open_money(
    config: Config,
    keys: Keys,
    host: Host,
    telemetry: Telemetry,
    *,
    on_verdict: OnVerdict = ignore_verdict,
) -> AsyncIterator[Money]:
    """Connect to the chain that the configuration names, if any, and open the books."""
    connection = await _connect(config, keys) if config.chain_rpc else None
    ledger = Ledger(config.ledger_path)
    money = Money(
        config,
        keys,
        host,
        telemetry,
        connection=connection,
        books=Books(ledger),
        on_verdict=on_verdict,
    )
    try:
        yield money
        await money.close()
    finally:
        if connection is not None:
            connection.chain.close()
        ledger.close()


async def _connect(config: Config, keys: Keys) -> Connection:
    try:
        stated = Stated(
            chain_id=config.chain_id or None,
            channels=from_hex(config.channels),
            token=from_hex(config.token),
            first_block=config.first_block or None,
        )
        settlement = from_hex(config.settlement)
        return await in_thread(
            _open_connection, config, settlement, stated, keys, deadline_s=CONNECT_DEADLINE_S
        )
    except (ChainError, trio.TooSlowError, ValueError) as error:
        raise ConfigError(
            f"the chain at {', '.join(config.chain_rpc)} does not answer as configured: {error};"
            " check chain_rpc, settlement, governor, registry and stake"
        ) from error


def _open_connection(config: Config, settlement: bytes, stated: Stated, keys: Keys) -> Connection:
    chain = open_client(
        config.chain_rpc,
        settlement,
        keys.operator.secret,
        stated=stated,
        limits=_fee_limits(config),
        confirmations=config.confirmations,
    )
    try:
        deployment = chain.deployment
        check_same_chain(
            config.origin_path,
            Origin(
                deployment.chain_id,
                to_hex(deployment.settlement),
                deployment.first_block,
                to_hex(chain.read_origin()),
            ),
        )
        aggregator = chain.settlement.aggregator()
        coin = CoinInfo(*chain.token.coin())
        governance = None
        if config.governor:
            governance = chain.open_governance(from_hex(config.governor))
        decisions = Decisions(chain, governance)
        # Where that is no governor, the daemon does not start.
        seen = look(chain, governance, decisions) if governance else NOTHING_SEEN
        stake = None
        if config.stake:
            stake = chain.open_stake(from_hex(config.stake))
        registry = None
        if config.registry:
            registry = chain.open_registry(from_hex(config.registry))
        check_one_network(chain, governance, stake, registry)
    except BaseException:  # whatever it was, the session must not stay open
        chain.close()
        raise
    payer = chain.for_key(keys.payer)
    return Connection(
        chain,
        payer,
        chain.network,
        aggregator,
        decisions=decisions,
        coin=coin,
        seen=seen,
        stake=stake,
    )


def _give(payer: ChainClient, account: bytes, amount: int) -> None:
    fees = payer.wallet.suggest_fees()
    payer.wallet.pay(account, GIVEN_TRANSACTIONS * USUAL_GAS * fees.max_fee_wei)
    payer.token.transfer(account, amount)


def _return(payer: ChainClient, account: bytes) -> int:
    amount = payer.token.balance_of(payer.address)
    if amount:
        payer.token.transfer(account, amount)
    return amount


def _read_window(chain: ChainClient) -> int:
    return chain.settlement.terms.window


def _fee_limits(config: Config) -> FeeLimits:
    return FeeLimits(round(config.max_fee_gwei * GWEI), round(config.max_tip_gwei * GWEI))


def _read_purses(chain: ChainClient, keys: dict[str, bytes], limits: FeeLimits) -> Purses:
    block = chain.rpc.get_block(LATEST)
    price = min((block.base_fee_wei or 0) + chain.rpc.tip(), limits.max_fee_wei)
    accounts = tuple(
        Gas(
            what,
            to_hex(account),
            chain.rpc.balance(account),
            needed_wei=USUAL_GAS * price,
            tokens=chain.token.balance_of(account),
        )
        for what, account in keys.items()
    )
    return Purses(block.timestamp, accounts)


def _read_earnings(chain: ChainClient, credited: dict[bytes, int]) -> list[EarningsInfo]:
    return [
        EarningsInfo(
            to_hex(account),
            amount,
            claimed=chain.settlement.paid_to(account),
            balance=chain.token.balance_of(account),
        )
        for account, amount in credited.items()
    ]
