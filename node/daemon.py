"""Presents the daemon to its faces: hands every call of node/api/ to the part that does it.

Decides nothing.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import trio

from engine import messages as m
from engine.errors import ModelError
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import BanRefused, InvalidIdentity, InvalidInput
from p2p.host import ConnectedPeer, Host
from p2p.identity import Identity
from proofs.hextext import from_hex, to_hex
from proofs.receipt import BARE_BASE, SignedReceipt, decode_receipt

from .answering.embedding import Embedder
from .answering.service import Service
from .api.adapters import (
    AdapterInfo,
    ArrivingInfo,
    FoundInfo,
    HeldInfo,
    PullReport,
    PushTold,
    SearchRequest,
    ShownInfo,
    VersionInfo,
)
from .api.answers import CompletionEvent, CompletionRequest, EmbeddingAnswer, EmbeddingRequest
from .api.doctor import Checked
from .api.governance import GovernanceInfo, SimulationInfo
from .api.money import (
    ChannelInfo,
    EarningsInfo,
    PaidInInfo,
    PolicyInfo,
    ReceiptInfo,
    StuckInfo,
    WhyInfo,
)
from .api.sales import Bank, Shop
from .api.status import (
    BannedInfo,
    BaseInfo,
    CoinInfo,
    FilesInfo,
    LogInfo,
    PeerInfo,
    StatusInfo,
    WebInfo,
)
from .api.traces import Trace
from .api.verifying import AttestationInfo, AuditInfo, AuditSaid, RecheckInfo, VerifyInfo
from .attributing.why import Why
from .bases.keeping import BaseKeeper
from .catalogue.announcements import NAMES_TOPIC
from .catalogue.announcements import TOPIC as ADAPTERS_TOPIC
from .catalogue.catalogue import Catalogue
from .catalogue.converting import plain_folder
from .catalogue.fitting import load_base_shape
from .catalogue.importing import find_all
from .catalogue.leaving_out import folder_without
from .config import Config
from .datanets.service import DatanetService
from .doctor.machine import examine_machine
from .doctor.reporting import report_on
from .doctor.running import Patient, examine_running
from .engine_host import EngineHost
from .errors import (
    BadRequest,
    EngineError,
    NoBase,
    NodeError,
    NoReceipt,
    NotHere,
)
from .metrics import Figures, render
from .money.addresses import address_of_peer
from .money.selling import MIN_DEPOSIT
from .money.wiring import Money, Tally
from .reloading import Reloaded, Reloading
from .telemetry import Telemetry
from .training.desk import TrainingDesk
from .verifying.auditing import Auditor, read_pool, read_report
from .verifying.background import Replays
from .verifying.consequences import Consequences
from .verifying.replaying import Replayed, Verifier
from .verifying.trust import Trust
from .wire.infer import PROTOCOL as INFER_PROTOCOL
from .wire.receipts import PROTOCOL as RECEIPTS_PROTOCOL

MAX_TRACES_TOLD = 50


class NodeDaemon:
    """A running node, as node/api/ promises it.

    What needs the base is not there before `take_base`; `keeper` is None where the role needs no
    base.
    """

    def __init__(
        self,
        config: Config,
        address: bytes,
        host: Host,
        store: BlockStore,
        telemetry: Telemetry,
        *,
        keeper: BaseKeeper | None,
        money: Money | None,
        nursery: trio.Nursery,
        reloading: Reloading,
        datanets: DatanetService,
        training: TrainingDesk,
    ) -> None:
        self.config = config
        self.host = host
        self._store = store
        self.telemetry = telemetry
        self.engine: EngineHost | None = None
        self.money = money
        self._address = address
        self._keeper = keeper
        self._catalogue: Catalogue | None = None
        self._service: Service | None = None
        self._embedder: Embedder | None = None
        self._why: Why | None = None
        self._verifier: Verifier | None = None
        self._replays: Replays | None = None
        self._consequences: Consequences | None = None
        self._auditor: Auditor | None = None
        self._shop: Shop | None = None
        self._nursery = nursery
        self._reloading = reloading
        self.datanets = datanets
        self.training = training
        self._started = time.monotonic()

    def take_base(
        self,
        engine: EngineHost | None,
        catalogue: Catalogue,
        service: Service,
        embedder: Embedder,
        why: Why,
        verifier: Verifier,
        replays: Replays | None,
        consequences: Consequences,
        auditor: Auditor | None,
    ) -> None:
        """The base is here: what it makes possible can be asked for."""
        self._verifier = verifier
        self._replays = replays
        self._consequences = consequences
        self._auditor = auditor
        self._why = why
        self._embedder = embedder
        self.engine = engine
        self._catalogue = catalogue
        self._service = service
        self.training.take_network(self)

    def take_shop(self, shop: Shop) -> None:
        """Strangers may buy here from now on."""
        self._shop = shop

    def shop(self) -> Shop:
        """Return what is sold to strangers. Raises NodeError where nothing is, or not yet."""
        if self._shop is None:
            raise (
                self._answers_nothing()
                if self._service is None
                else BadRequest(
                    "nothing is sold here now; `lorikeet doctor` on that machine says why"
                )
            )
        return self._shop

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer one request; leaving the block early cancels it everywhere."""
        if self._service is None:
            raise self._answers_nothing()
        return self._service.complete(request, self._nursery)

    async def count_tokens(self, request: CompletionRequest) -> int:
        """Count the tokens of a request's prompt."""
        if self._service is None:
            raise self._answers_nothing()
        return self._service.count_tokens(request)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingAnswer:
        """Embed texts, on this node's own engine alone."""
        if self._embedder is None:
            raise self._answers_nothing()
        return await self._embedder.embed(request)

    def _answers_nothing(self) -> NodeError:
        if self._keeper is not None:
            return NoBase(self._keeper.waits_for())
        return BadRequest(
            f"this daemon is a {self.config.role} and answers nothing; ask a volunteer or a gateway"
        )

    async def status(self) -> StatusInfo:
        """Describe this node now."""
        base = self._keeper.describe() if self._keeper else None
        return StatusInfo(
            peer_id=self.host.peer_id,
            address=to_hex(self._address),
            role=self.config.role,
            network=self.config.network,
            base=f"{base.name or '-'} {base.digest}" if base else "",
            addresses=self.host.addresses,
            num_peers=len(self.host.peers()),
            uptime_s=time.monotonic() - self._started,
            engine=await self._engine_figures(),
            settlement=self.money.describe() if self.money else None,
            counters=self.telemetry.counters,
            reach=asdict(self.host.reachability()),
            hub_origin=self.config.hub_origin,
            sells_at=self.config.sell,
            page_at=self.config.web_address,
            base_card=base.card if base else "",
            base_from=base.origin if base else "",
            waits_for=base.waits_for if base else "",
            coin=self.money.coin if self.money else CoinInfo(),
            rejections=tuple(
                (one.what, one.peer_id, one.reason) for one in self.telemetry.rejections
            ),
        )

    def reload(self, fresh: Config) -> Reloaded:
        """Take over what may change while this daemon runs, and say what waits for a restart."""
        reloaded = self._reloading.take(fresh)
        self.telemetry.log(f"daemon: settings were read again: {reloaded}")
        return reloaded

    async def metrics(self) -> bytes:
        """What this node measures of itself, in Prometheus' text format."""
        reach = self.host.reachability()
        roles = Counter(role for peer in self.host.peers() for role in _roles(peer) or ("other",))
        money = self.money
        chain = money.chain_health() if money else []
        tally = await trio.to_thread.run_sync(money.tally) if money else Tally({}, {})
        figures = Figures(
            self.config.role,
            time.monotonic() - self._started,
            await self._engine_stats(),
            self.engine.restarts if self.engine else 0,
            adapters=len(self.held()),
            reach=reach.state,
            relays=len(reach.relays),
            peers={role: roles[role] for role in ("volunteer", "aggregator", "visitor", "other")},
            counters=self.telemetry.counters,
            spreads=self.telemetry.spreads,
            troubles=len(self.telemetry.troubles),
            home_free_bytes=shutil.disk_usage(self.config.home).free,
            receipts=tally.receipts,
            channels=tally.channels,
            chain_nodes=Counter("troubled" if trouble else "ok" for _, trouble in chain),
            credited=money.credited() if money else 0,
            epoch=money.epoch() if money else None,
        )
        return render(figures)

    def log(self) -> LogInfo:
        """Return the latest lines of the log."""
        return LogInfo(*self.telemetry.latest())

    def traces(self) -> list[Trace]:
        """Return what became of the latest requests, the newest first."""
        return self.telemetry.traces.latest(MAX_TRACES_TOLD)

    def trace(self, which: str) -> Trace:
        """Return the trace with that id, or of the receipt with that digest."""
        found = self.telemetry.traces.find(which)
        if found is None:
            raise NotHere(
                f"no trace {which[:80]!r} is kept here; `lorikeet trace` lists the latest, and a"
                " receipt's is at the nodes that signed it"
            )
        return found

    async def checkup(self) -> list[Checked]:
        """Look whether every part works."""
        patient = Patient(
            self.config,
            self.host,
            self.telemetry,
            engine=self.engine,
            money=self.money,
            held=self.held,
            waits_for=(self._keeper.describe().waits_for if self._keeper else ""),
            topics=(ADAPTERS_TOPIC, NAMES_TOPIC),
        )
        return [found async for found in examine_running(patient)]

    async def report(self) -> str:
        """Write what is safe to show in public: what `lorikeet bugreport` prints."""
        home = self.config.home
        found = await trio.to_thread.run_sync(lambda: [*examine_machine(home)])
        found += await self.checkup()
        metrics = (await self.metrics()).decode()
        return await trio.to_thread.run_sync(report_on, home, found, metrics)

    async def _engine_figures(self) -> dict[str, object] | None:
        if self.engine is None:
            return None
        return to_plain_stats(self.engine.ready, await self._engine_stats(), self.engine.restarts)

    async def _engine_stats(self) -> m.Stats | None:
        try:
            return await self.engine.stats() if self.engine and self.engine.is_up else None
        except EngineError:
            return None

    async def adapters(self) -> list[AdapterInfo]:
        """List every adapter that is held here or has been heard of."""
        return await self._catalogue.listing() if self._catalogue else []

    def held(self) -> list[HeldInfo]:
        """List the adapters that are held here, and why each is."""
        return self._catalogue.held() if self._catalogue else []

    def arriving(self) -> list[ArrivingInfo]:
        """List the adapters that are being fetched, and how far each is."""
        return self._catalogue.arriving() if self._catalogue else []

    def peers(self) -> list[PeerInfo]:
        """List the connected peers."""
        now = time.time()
        trust = Trust() if self._consequences is None else self._consequences.trust
        return [
            PeerInfo(
                peer.peer_id,
                peer.address,
                _roles(peer),
                trust.weight(address_of_peer(peer.peer_id), now),
                received_bytes=peer.received_bytes,
                sent_bytes=peer.sent_bytes,
                heard_at=peer.heard_at,
                against=trust.reason(address_of_peer(peer.peer_id), now),
            )
            for peer in self.host.peers()
        ]

    def banned(self) -> list[BannedInfo]:
        """List the peers that the operator banned."""
        return [BannedInfo(one.peer_id, one.reason, one.since) for one in self.host.banned()]

    async def ban(self, peer_id: str, why: str) -> list[BannedInfo]:
        """Hang up on a peer and refuse it from now on."""
        try:
            await self.host.ban(peer_id, why)
        except (BanRefused, InvalidInput) as error:
            raise BadRequest(str(error)) from error
        self.telemetry.log(f"peers: {peer_id} is banned")
        return self.banned()

    def unban(self, peer_id: str) -> list[BannedInfo]:
        """Let a banned peer come back."""
        try:
            self.host.unban(peer_id)
        except BanRefused as error:
            raise BadRequest(str(error)) from error
        self.telemetry.log(f"peers: {peer_id} is banned no longer")
        return self.banned()

    @property
    def bank(self) -> Bank | None:
        """Return what is done on the chain for strangers; None where nothing is paid."""
        return self.money.counter if self.money else None

    async def web(self) -> WebInfo:
        """Say what a browser needs to ask this network by itself."""
        base = self._keeper.describe() if self._keeper else None
        return WebInfo(
            self.host.peer_id,
            self.config.network,
            base.digest if base else "",
            base.card if base else "",
            publishers=(*self.config.publishers, self.host.peer_id),
            adapters=self._catalogue.offered() if self._catalogue else (),
            paid_in=await _paid_in(self.money) if self.money else None,
            coin=self.money.coin if self.money else CoinInfo(),
        )

    async def take_websocket(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        """Serve a connection that asks for a WebSocket as a peer's."""
        await self.host.take_websocket(below, remote)

    async def pull(self, model: str) -> PullReport:
        """Fetch, verify, load and advertise an adapter."""
        return await self._need_catalogue().pull(model)

    async def unpin(self, model: str) -> AdapterInfo:
        """Let an adapter that was pulled make room for others."""
        return await self._need_catalogue().unpin(model)

    async def show(self, model: str) -> ShownInfo:
        """Look at an adapter closely."""
        return await self._need_catalogue().show(model)

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        """Have an adapter, or the base, here and say where its files lie."""
        if self._keeper is not None and self._keeper.names(model):
            return await self._keeper.files()
        return await self._need_catalogue().files(model, commit)

    def waits_for(self) -> str:
        """Say what this daemon waits for before it can answer."""
        return self._keeper.waits_for() if self._keeper else ""

    def base(self) -> BaseInfo:
        """Describe the base, as far as it is here."""
        return self._need_keeper().describe()

    def base_card(self) -> bytes:
        """Return the base's signed card."""
        return self._need_keeper().card_bytes()

    async def push(
        self,
        folder: Path,
        key: Path | None = None,
        told: PushTold | None = None,
        *,
        in_place: bool = False,
    ) -> AdapterInfo:
        """Publish a PEFT folder, as the creator whose key is in that file (None: this node
        itself); one that began by changing the base is converted to plain LoRA first.
        """
        creator = None if key is None else await _load_key(Identity.load_or_create, key)
        catalogue = self._need_catalogue()
        base = self._keeper.base if self._keeper else None
        weights = base.weights if base else None
        withdrawn = told.without if told else ()
        home = self.config.home
        async with (
            plain_folder(folder, weights, home) as plain,
            folder_without(plain.folder, withdrawn, home) as kept,
        ):
            as_it_lies = in_place and kept.folder == folder
            info = await catalogue.publish(kept.folder, creator, told, in_place=as_it_lies)
        if withdrawn:
            await catalogue.publisher.retract_others(Cid.parse(info.cid), info.name, creator)
        return replace(info, note="; ".join(filter(None, (plain.note, kept.note, info.note))))

    async def find_on_disk(self, path: Path) -> list[FoundInfo]:
        """List the adapters and bases in a hub's cache, or the adapter in a PEFT folder."""
        keeper = self._need_keeper()
        if keeper.base is None:
            raise NoBase(keeper.waits_for())
        weights = keeper.base.weights
        try:
            base = await trio.to_thread.run_sync(load_base_shape, keeper.base.name, weights)
            return await trio.to_thread.run_sync(find_all, path, base)
        except (ModelError, OSError) as error:
            raise BadRequest(f"{path} cannot be looked through: {error}") from error

    async def search(self, wanted: SearchRequest) -> list[AdapterInfo]:
        """List the adapters heard of that match, the best first."""
        return await self._need_catalogue().search(wanted)

    async def versions(self, name: str) -> list[VersionInfo]:
        """List the versions of a name, the oldest first."""
        return await self._need_catalogue().versions(name)

    async def roll_back(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        """Have NAME mean NAME@VERSION again."""
        catalogue = self._need_catalogue()
        creator = None if key is None else await _load_key(Identity.load, key)
        record = await catalogue.publisher.roll_back(version, creator)
        return await catalogue.versions(f"{record.owner}/{version.rpartition('@')[0]}")

    async def retract(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        """Withdraw NAME@VERSION."""
        catalogue = self._need_catalogue()
        creator = None if key is None else await _load_key(Identity.load, key)
        record = await catalogue.publisher.retract(version, creator)
        return await catalogue.versions(f"{record.owner}/{version.rpartition('@')[0]}")

    async def receipts(self) -> list[ReceiptInfo]:
        """List this daemon's receipts, newest first."""
        return self.money.receipts() if self.money else []

    async def receipt(self, digest: str) -> bytes:
        """Return the signed receipt with that body digest (hex)."""
        found = self.money.receipt(digest) if self.money else None
        if found is None:
            raise NoReceipt(digest)
        return found

    async def why(self, digest: str) -> WhyInfo:
        """Explain on whose text the answer of a receipt drew, and how its fee was split."""
        if self._why is None:
            raise self._answers_nothing()
        return await self._why.explain((await self._signed(digest)).body)

    async def verify_answer(self, digest: str, *, opened: bool = False) -> VerifyInfo:
        """Replay the answer of a receipt, which this daemon bought: did its adapter make it?"""
        if self._verifier is None:
            raise self._answers_nothing()
        signed = await self._signed(digest)
        found = await (
            self._verifier.verify(signed.body, signed.node_signature, opened=opened)
            if opened or self._replays is None
            else self._replays.verify(signed.body, signed.node_signature)
        )
        return found.told if isinstance(found, Replayed) else found

    async def recompute(self, attestation: bytes) -> VerifyInfo:
        """Replay the answer that an opened attestation shows, and weigh what comes out."""
        if self._verifier is None or self._consequences is None:
            raise self._answers_nothing()
        shown, found = await self._verifier.recompute(attestation)
        if not isinstance(found, Replayed):
            return found
        await self._consequences.recompute(shown, found)
        return found.told

    async def audit(self, said: AuditSaid) -> AuditInfo:
        """Buy answers of a node as any client would, replay them, and weigh what comes out."""
        auditor = self._need_auditor()
        operator = address_of_peer(said.node)
        if said.node == self.host.peer_id:
            raise BadRequest("a node does not audit itself; name another (`lorikeet peers`)")
        path = Path(said.prompts) if said.prompts else self.config.home / "prompts"
        pool = await trio.to_thread.run_sync(read_pool, path)
        adapter = BARE_BASE
        if not (self._keeper is not None and self._keeper.names(said.model)):
            adapter = Cid.parse((await self._need_catalogue().pull(said.model)).cid).digest
        return await auditor.audit(said, operator, adapter, pool)

    async def recheck(self, report: Path) -> RecheckInfo:
        """Replay the answers that the report of somebody's audit shows, a file on this machine."""
        auditor = self._need_auditor()
        assert self.money is not None
        assert self.money.network is not None, "an auditor has a chain"
        data = await trio.to_thread.run_sync(read_report, report)
        return await auditor.recheck(data, self.money.network)

    def _need_auditor(self) -> Auditor:
        if self._auditor is None:
            raise BadRequest(
                "an audit takes an engine, which replays, and a chain, on which it pays: ask a"
                " volunteer with chain_rpc"
            )
        return self._auditor

    def attestations(self) -> list[AttestationInfo]:
        """List the attestations that were made or heard here, the newest first."""
        return self._consequences.listing() if self._consequences else []

    async def _signed(self, digest: str) -> SignedReceipt:
        """Return a receipt of this daemon's ledger, or one that it kept as evidence."""
        found = self.money.receipt(digest) if self.money else None
        if found is not None:
            return decode_receipt(found)
        try:
            disputed = self._why.find_disputed(from_hex(digest)) if self._why else None
        except ValueError:
            disputed = None
        if disputed is None:
            await self.receipt(digest)  # says that there is none
            raise AssertionError("a receipt came after it was looked for")
        return disputed

    async def channels(self) -> list[ChannelInfo]:
        """The payment channels that this daemon pays from, and those that pay it."""
        return await self.money.channels() if self.money else []

    async def withdraw(self, channel: str | None) -> list[ChannelInfo]:
        """Take back what is free in a channel (its id in hex), or in all."""
        try:
            named = None if channel is None else bytes.fromhex(channel.removeprefix("0x"))
        except ValueError:
            raise BadRequest(
                f"channel {channel!r} is not hex; `lorikeet channels` lists them"
            ) from None
        return await self.money.withdraw(named) if self.money else []

    async def block(self, digest: str) -> bytes:
        """Give a block that is here, by the hex sha-256 of its bytes."""
        try:
            cid = Cid(bytes.fromhex(digest))
        except (ValueError, InvalidInput):
            raise BadRequest(f"{digest!r} is no digest; it has 64 hex digits") from None
        found = await trio.to_thread.run_sync(self._store.get, cid)
        if found is None:
            raise NotHere(f"block {digest} is not here; ask another node")
        return found

    async def governance(self) -> GovernanceInfo:
        """Tell what the network's people decided and decide."""
        if self.money is None:
            raise BadRequest("no chain is set here (chain_rpc in lorikeet.toml), so nobody votes")
        return await self.money.governance()

    async def simulate(self, number: str) -> SimulationInfo:
        """Tell what a proposal would have made of all past epochs, by its number in decimals."""
        if self.money is None:
            raise BadRequest("no chain is set here (chain_rpc in lorikeet.toml), so nobody votes")
        return await self.money.simulate(number)

    async def earnings(self) -> list[EarningsInfo]:
        """List what this node's owner (and, at an aggregator, everybody) has earned."""
        return await self.money.earnings() if self.money else []

    async def stuck(self) -> list[StuckInfo]:
        """List what was earned here and is not paid yet, each with what it waits for."""
        return await self.money.stuck() if self.money else []

    def _need_keeper(self) -> BaseKeeper:
        if self._keeper is None:
            raise BadRequest(
                f"this daemon is a {self.config.role} and needs no base; ask a volunteer or a"
                " gateway"
            )
        return self._keeper

    def _need_catalogue(self) -> Catalogue:
        if self._catalogue is None:
            if self._keeper is not None:
                raise NoBase(self._keeper.waits_for())
            raise BadRequest(
                f"this daemon is a {self.config.role} and holds no adapters; use a volunteer or a"
                " gateway"
            )
        return self._catalogue


async def _load_key(load: Callable[[Path], Identity], path: Path) -> Identity:
    try:
        return await trio.to_thread.run_sync(load, path)
    except (InvalidIdentity, OSError) as error:
        raise BadRequest(f"the creator's key {path}: {error}") from error


async def _paid_in(money: Money) -> PaidInInfo | None:
    """Say in what answers are paid; None where nothing is."""
    network = money.network
    if network is None or money.counter is None:
        return None
    token_name, token_version = await money.counter.domain()
    agreeable = money.agreeable()
    return PaidInInfo(
        network.chain_id,
        to_hex(network.settlement),
        to_hex(network.token),
        to_hex(network.channels),
        token_name=token_name,
        token_version=token_version,
        min_deposit=MIN_DEPOSIT,
        policies=tuple(
            PolicyInfo(
                one.version,
                one.node_bps,
                one.creator_bps,
                least_fee=one.least_fee,
                most_lambda=one.most_lambda,
            )
            for one in agreeable.by_version[agreeable.first : agreeable.last + 1]
        ),
    )


def _roles(peer: ConnectedPeer) -> tuple[str, ...]:
    """Infer a peer's roles from the protocols it serves; who serves nothing is a visitor."""
    known = {INFER_PROTOCOL: "volunteer", RECEIPTS_PROTOCOL: "aggregator"}
    roles = tuple(known[protocol] for protocol in peer.protocols if protocol in known)
    return ("visitor", *roles) if peer.is_visitor else roles


def to_plain_stats(
    ready: m.Ready | None, stats: m.Stats | None, restarts: int
) -> dict[str, object]:
    """Convert the engine's figures to plain values, for people and JSON."""
    plain: dict[str, object] = {"restarts": restarts, "up": ready is not None and stats is not None}
    if ready is not None:
        plain |= {
            "dtype": ready.dtype,
            "threads": ready.threads,
            "max_context_tokens": ready.max_context_tokens,
            "load_ms": ready.load_ms,
        }
    if stats is not None:
        plain |= msgspec.to_builtins(msgspec.structs.asdict(stats))
        plain["adapters_held"] = [adapter.hex() for adapter in stats.adapters_held]
        plain["adapters_ready"] = [adapter.hex() for adapter in stats.adapters_ready]
        if stats.memory is not None:
            plain["memory"] = msgspec.structs.asdict(stats.memory)
        plain["steps"] = [_plain_step(record) for record in stats.steps]
    return plain


def _plain_step(record: m.StepRecord) -> dict[str, object]:
    return {
        "step": record.step,
        "adapters": ["base" if adapter is None else adapter.hex() for adapter in record.adapters],
        "prefill_tokens": record.prefill_tokens,
        "decode_tokens": record.decode_tokens,
        "step_ms": record.step_ms if math.isfinite(record.step_ms) else 0.0,
    }
