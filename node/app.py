"""Builds a daemon from its configuration and runs its tasks.

The only place that constructs the parts, and the owner of the nursery in which they all run. Knows
no protocol and handles no request.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from engine.messages import Vocabulary
from p2p.blocks.rate import Rate
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import HostFailed, InvalidInput, sole_error
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity, public_key_of
from p2p.lookup.server import Lookups
from p2p.reach.reservations import relay_limits
from p2p.streams import FrameStream
from proofs.attestation.record import parse_attestation
from proofs.hextext import from_hex, to_hex
from proofs.signing import Signer

from .answering.embedding import Embedder
from .answering.inbound import Inbound
from .answering.peers import NetworkPeers
from .answering.places import Places, usual_answers
from .answering.quoting import STREAMS_PER_PEER as QUOTE_STREAMS_PER_PEER
from .answering.quoting import Quoting
from .answering.remote import Caller
from .answering.reselling import Resale
from .answering.router import Router
from .answering.selling import Stall
from .answering.service import Service
from .api.answers import CompletionRequest, Ended
from .attributing.answers import OwnAnswers
from .attributing.attributor import Attributor
from .attributing.indexes import Indexes
from .attributing.source import TokenFiles
from .attributing.why import Why
from .audits import open_client, run_audits
from .bases.cards import KIND as CARD_KIND
from .bases.keeping import BaseKeeper
from .bases.loading import Base
from .catalogue.announcements import (
    Announcer,
    Kept,
    keep_saved,
    load_saved,
    run_announcements,
)
from .catalogue.book import NameBook, write_whole
from .catalogue.catalogue import Catalogue, names_of
from .catalogue.cocktails import Cocktails
from .catalogue.demand import Demand
from .catalogue.fetching import Fetcher
from .catalogue.folders import AdapterFolders
from .catalogue.holding import Holdings
from .catalogue.known import Known
from .catalogue.names import Names
from .catalogue.owning import Ownership
from .catalogue.popularity import Popularity
from .catalogue.publishing import Publisher
from .catalogue.replicating import GentleRate, Replicator
from .catalogue.vetting import Vetting
from .config import CONFIG_FILE, Config
from .daemon import NodeDaemon
from .datanets.service import DatanetService
from .datanets.wiring import open_datanets
from .engine_host import EngineHost
from .engine_process import EngineSettings, ProcessSettings, VllmSettings
from .engine_supervisor import MAX_BACKOFF_S
from .errors import BadRequest, ConfigError, EngineLost, NoBase, NodeCheated, NodeError
from .keys import Keys, hold_key, load_keys
from .lives import SERVES_NOBODY, check_not_moved, restored
from .money.addresses import address_of_peer
from .money.watching import OnVerdict, ignore_verdict
from .money.wiring import Money, open_money
from .reloading import Reloading
from .telemetry import Telemetry
from .training.desk import TrainingDesk
from .verifying.asking import SecondNode
from .verifying.auditing import Auditor
from .verifying.background import Background, Replays, Supply
from .verifying.clientele import Clientele
from .verifying.consequences import Consequences, Surroundings
from .verifying.heard import Heard
from .verifying.lending import Lender
from .verifying.noting import Noting
from .verifying.replaying import Verifier
from .verifying.spreading import Spreading
from .verifying.trust import Trust
from .web_address import web_addresses
from .wire import infer as wire
from .wire import quote as quote_wire
from .wire import replay as replay_wire
from .wire.metering import Price

INFER_STREAMS_PER_PEER = 64
ADAPTERS = "adapters"
MOST_JUDGED_CHARS = 4096  # of a document whose loss a council hears of
MOST_JUDGED_TOKENS = 128
BASE_TEXTS = ("base", "")
"""What may stand for the base model, whatever its name is."""


@dataclass(frozen=True)
class Ground:
    """What every part of one daemon stands on."""

    config: Config
    identity: Identity
    host: Host
    store: BlockStore
    telemetry: Telemetry
    download: Rate
    """What may come here each second, of adapters and bases together."""
    reloading: Reloading


@asynccontextmanager
async def open_daemon(
    config: Config,
    *,
    engine_command: tuple[str, ...] | None = None,
    on_verdict: OnVerdict = ignore_verdict,
) -> AsyncIterator[NodeDaemon]:
    """Run a whole daemon in the role that the configuration names.

    When the block ends it stops cleanly, within 5 s. `engine_command` replaces the engine's
    program; `on_verdict` hears what the watcher finds. Raises ConfigError for what the operator has
    to change.
    """
    config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_not_moved(config.home)
    keys = await trio.to_thread.run_sync(load_keys, config.key_files)
    with hold_key(keys.operator.peer_id):
        async with _open_held(config, keys, engine_command, on_verdict) as daemon:
            yield daemon


@asynccontextmanager
async def _open_held(
    config: Config,
    keys: Keys,
    engine_command: tuple[str, ...] | None,
    on_verdict: OnVerdict,
) -> AsyncIterator[NodeDaemon]:
    identity = keys.operator
    telemetry = Telemetry(config.home / "log")
    try:
        async with (
            _open_network(config, identity) as host,
            open_money(config, keys, host, telemetry, on_verdict=on_verdict) as money,
            trio.open_nursery() as nursery,
        ):
            ground = Ground(
                config,
                identity,
                host,
                BlockStore(config.home / "blocks"),
                telemetry,
                download=Rate(config.max_download_bytes_s),
                reloading=Reloading(config),
            )
            daemon = await _build(ground, money, nursery, engine_command)
            telemetry.log(
                f"daemon: {config.role} {identity.peer_id} at {', '.join(host.addresses)}"
            )
            yield daemon
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # nurseries wrap; callers catch the one error by its name
        raise sole_error(group) from None
    finally:
        telemetry.log("daemon: stopped")
        telemetry.close()


@asynccontextmanager
async def _open_network(config: Config, identity: Identity) -> AsyncIterator[Host]:
    network = NetworkConfig(
        listen=config.listen,
        bootstrap=config.bootstrap,
        network=config.network,
        psk=bytes.fromhex(config.network_key) if config.network_key else None,
        mdns=config.mdns,
        announce=config.announce,
        beside=web_addresses(config),
        relay=relay_limits(config.relay_bytes_per_s, config.relay_circuit_bytes),
        port_mapping=config.port_mapping,
        known_peers=config.home / "peers.json",
        banned_peers=config.home / "banned.json",
    )
    async with AsyncExitStack() as stack:
        try:
            host = await stack.enter_async_context(open_host(identity, network))
        except (HostFailed, InvalidInput) as error:
            raise ConfigError(f"{error} (settings stand in {config.home / CONFIG_FILE})") from error
        yield host


async def _build(
    ground: Ground,
    money: Money,
    nursery: trio.Nursery,
    engine_command: tuple[str, ...] | None,
) -> NodeDaemon:
    """Construct the parts of this role and start their tasks; what needs the base, as soon as that
    is here.
    """
    config = ground.config
    upload = Rate(config.max_upload_bytes_s)
    on = ground.reloading.on
    on(("max_upload_bytes_s",), lambda fresh: upload.limit(fresh.max_upload_bytes_s))
    on(
        ("max_download_bytes_s",),
        lambda fresh: ground.download.limit(fresh.max_download_bytes_s),
    )
    serve_blocks(ground.host, ground.store, upload)
    keeper = BaseKeeper(
        config,
        Signer(ground.identity.secret),
        ground.host,
        ground.store,
        ground.telemetry,
        rate=ground.download,
    )
    Lookups(ground.host).add(CARD_KIND, keeper.kind())
    money.build(ground.store)
    has_base = config.role in ("volunteer", "gateway")
    known = Known() if has_base else None
    if known is not None:
        lost = "what it held is heard of again in time"
        load_saved(known.load, _known_file(config), ground.telemetry.log, lost)
    spreading = Spreading(ground.host.gossip, money.network, ground.telemetry)
    datanets = await _open_datanets(ground, known, nursery)
    daemon = NodeDaemon(
        config,
        _address(ground),
        ground.host,
        ground.store,
        telemetry=ground.telemetry,
        keeper=keeper if has_base else None,
        money=money,
        nursery=nursery,
        reloading=ground.reloading,
        datanets=datanets,
        training=TrainingDesk(
            config.home / "runs", datanets, partial(_base_of, keeper if has_base else None, config)
        ),
    )
    if known is not None:
        start = partial(
            _start_on_base,
            ground,
            money,
            nursery,
            daemon,
            keeper=keeper,
            known=known,
            spreading=spreading,
            engine_command=engine_command,
        )
        base = await keeper.find()
        if base is not None:
            start(base)
        else:
            nursery.start_soon(_bring_base, keeper, start)
        nursery.start_soon(keep_saved, known, _known_file(config), ground.telemetry.log)
    host = ground.host
    await nursery.start(run_announcements, host.gossip, known, host.dht, ground.telemetry)
    await nursery.start(spreading.run)
    await money.run_in(nursery)
    return daemon


async def _open_datanets(
    ground: Ground, known: Known | None, nursery: trio.Nursery
) -> DatanetService:
    return await open_datanets(
        ground.identity,
        from_hex(ground.config.owner) or _address(ground),
        ground.host,
        ground.store,
        ground.telemetry,
        folder=ground.config.home / "datanets",
        download=ground.download,
        adapters=lambda: [] if known is None else known.current(),
        nursery=nursery,
    )


def _base_of(keeper: BaseKeeper | None, config: Config) -> Base:
    """Return the base that is here. Raises NodeError."""
    if keeper is None:
        raise BadRequest(f"this daemon is a {config.role} and has no base; ask a volunteer")
    if keeper.base is None:
        raise NoBase(keeper.waits_for())
    return keeper.base


async def _bring_base(keeper: BaseKeeper, start: Callable[[Base], None]) -> None:
    start(await keeper.bring())


def _start_on_base(
    ground: Ground,
    money: Money,
    nursery: trio.Nursery,
    daemon: NodeDaemon,
    base: Base,
    *,
    keeper: BaseKeeper,
    known: Known,
    spreading: Spreading,
    engine_command: tuple[str, ...] | None,
) -> None:
    """Construct what needs the base, and start its tasks."""
    config = ground.config
    engine = None
    if config.has_engine:
        engine = _new_engine(ground, base, engine_command)
    ownership = Ownership(ground.telemetry.log, money.registry())
    catalogue = _new_catalogue(ground, base, engine, known, keeper, ownership=ownership)
    indexes = Indexes(
        config.home / "attribution",
        TokenFiles(catalogue.holdings, catalogue.fetcher),
        ground.telemetry,
        config.attribution_tokens,
    )
    attributor = Attributor(indexes, catalogue.find_adapter)
    answers = OwnAnswers(config.home / "answers", config.remember_answers, ground.telemetry.log)
    nursery.start_soon(indexes.run)
    verifier = Verifier(
        engine, catalogue, answers, Signer(ground.identity.secret), network=money.network
    )
    consequences = _new_consequences(ground, money, spreading)
    spreading.consequences = consequences
    nursery.start_soon(
        _keep_to_the_end, consequences.heard, _heard_file(config), ground.telemetry.log
    )
    replays: Replays | None = verifier if engine is not None else None
    if engine is None and config.verify_elsewhere and money.network is not None:
        replays = SecondNode(
            Meeting(daemon, ground.host),
            answers,
            money.network,
            named=frozenset(map(_key_of_auditor, config.auditors)),
            dice=random.SystemRandom(),
        )
    checks = None
    if replays is not None:
        checks = _new_checks(ground, money, engine, replays, consequences)
        nursery.start_soon(checks.run)
    service = _new_service(
        ground,
        money,
        base,
        catalogue,
        engine,
        attributor=attributor,
        answers=answers,
        consequences=consequences,
        checks=checks,
    )
    kept = config.home / "clientele"
    clientele = Clientele()
    load_saved(clientele.load, kept, ground.telemetry.log, "how clients ask is learnt anew")
    if engine is not None:
        if money.is_paid:
            nursery.start_soon(_keep_to_the_end, clientele, kept, ground.telemetry.log)
        nursery.start_soon(engine.run)
        nursery.start_soon(_come_up, engine, catalogue, ground.telemetry)
        demand = Demand()
        if money.is_paid and restored(config.home) is not None:
            ground.telemetry.log(f"daemon: {SERVES_NOBODY}")
        else:
            inbound = _serve_strangers(
                ground,
                money,
                catalogue,
                engine,
                demand,
                attributor=attributor,
                noting=Noting(clientele, base.tokenizer, time.time),
            )
            if config.sell:
                daemon.take_shop(_new_stall(ground, money, service, inbound, nursery))
        if money.is_paid:
            own = _address(ground)
            lender = Lender(
                verifier, lambda digest: money.receipt(digest.hex()), own, ground.telemetry
            )
            ground.host.serve(replay_wire.PROTOCOL, lender.serve, streams_per_peer=2)
        if config.fetch_ahead_s:
            nursery.start_soon(_new_replicator(ground, catalogue, engine, demand).run)
    elif config.sell:
        daemon.take_shop(_new_resale(ground, money, service, nursery))
    nursery.start_soon(catalogue.publisher.run_republish, config.republish_interval_s)
    nursery.start_soon(catalogue.names.run)
    if catalogue.vetting is not None:
        nursery.start_soon(catalogue.vetting.run)
    embedder = Embedder(base.tokenizer, catalogue, engine, ground.host.peer_id)
    why = Why(attributor, answers, base.tokenizer.decode, money.every_policy)
    lose = None if engine is None else partial(_lose, engine, base)
    daemon.datanets.take_base(base.identity.base, base.tokenizer.control_tokens, lose)
    auditor = None
    if engine is not None and money.is_paid:
        auditor = Auditor(
            verifier,
            consequences,
            partial(
                open_client,
                config,
                ground.host,
                money,
                open_daemon=open_daemon,
                log=ground.telemetry.log,
            ),
            Signer(ground.identity.secret),
            folder=config.home / "audits",
            telemetry=ground.telemetry,
            tell_pledge=spreading.tell_pledge,
            most=(config.max_prompt_price, config.max_completion_price),
            most_tokens=config.max_answer_tokens,
            dice=random.SystemRandom(),
            text_of=base.tokenizer.decode,
            clientele=clientele,
        )
        if config.audits_per_day:
            nursery.start_soon(run_audits, daemon, config.audits_per_day, ground.telemetry.log)
    daemon.take_base(
        engine,
        catalogue,
        service,
        embedder,
        why,
        verifier=verifier,
        replays=replays,
        consequences=consequences,
        auditor=auditor,
    )


async def _lose(engine: EngineHost, base: Base, text: str) -> float:
    """Return what the base loses of a text's beginning, in nats a token. Raises EngineError."""
    ids = base.tokenizer.encode_text(text[:MOST_JUDGED_CHARS])[:MOST_JUDGED_TOKENS]
    await engine.wait_up()
    scored = await engine.score(ids, None, 0)
    return -sum(one.logprob for one in scored) / len(scored) if scored else 0.0


def _new_engine(ground: Ground, base: Base, command: tuple[str, ...] | None) -> EngineHost:
    config = ground.config
    tokenizer = base.tokenizer
    assert base.weights is not None, "a volunteer's base is here whole"
    described = config.home / "tokenizer.json"
    tokenizer.save(described)
    vocabulary = Vocabulary(str(described.resolve()), list(tokenizer.stop_ids))
    settings: ProcessSettings
    if config.engine == "vllm":
        settings = VllmSettings(
            base.weights,
            base.identity.base,
            config.engine_url,
            config.home / ADAPTERS,
            adapters_there=config.engine_adapters,
            key=config.engine_key,
            vocabulary=vocabulary,
        )
    else:
        settings = EngineSettings(
            base.weights,
            config.engine_dtype,
            config.engine_threads,
            config.kv_tokens,
            max_adapters=config.max_adapters,
            draft_tokens=config.engine_draft_tokens,
            vocabulary=vocabulary,
        )
    if command is not None:
        settings = replace(settings, command=command)
    return EngineHost(settings, ground.telemetry.log, stderr=config.home / "engine.log")


def _new_catalogue(
    ground: Ground,
    base: Base,
    engine: EngineHost | None,
    known: Known,
    keeper: BaseKeeper,
    *,
    ownership: Ownership,
) -> Catalogue:
    host = ground.host
    log = ground.telemetry.log

    def note_held(cid: Cid) -> None:
        host.dht.provide_soon(cid)
        ground.telemetry.count("adapters_pulled")

    book = NameBook(ground.config.home / "names", log)
    cocktails = Cocktails(ground.store)

    def announced(cid: Cid) -> tuple[bytes, str] | None:
        parent = cocktails.parent(cid)
        return known.announced(cid) or (None if parent is None else (parent, ""))

    fetcher = Fetcher(host, ground.store, ground.telemetry, ground.download, announced)
    folders = AdapterFolders(ground.config.home / ADAPTERS, ground.store)
    holdings = Holdings(
        base.identity.base,
        fetcher,
        folders,
        engine,
        note_held,
        guest_bytes=ground.config.max_guest_bytes,
        admit=ownership.admit,
    )
    vetting = None
    if ownership.has_registry:
        vetting = Vetting(ownership, fetcher, holdings, ground.config.home / "vetting", log)
    names = Names(
        host.dht,
        ground.identity.peer_id,
        ground.config.publishers,
        (*BASE_TEXTS, *base.texts(), str(Cid(base.identity.base))),
        partial(names_of, known, holdings),
        book=book,
        known=known,
        log=log,
    )
    publisher = Publisher(
        ground.identity,
        base.identity,
        ground.store,
        holdings,
        names,
        book=book,
        known=known,
        announcer=Announcer(host.dht, host.gossip, log),
        log=log,
        base_blocks=keeper.offered,
    )
    return Catalogue(
        base.name,
        names,
        holdings,
        known,
        fetcher,
        publisher=publisher,
        popularity=Popularity(fetcher.find_providers),
        cocktails=cocktails,
        ownership=ownership,
        vetting=vetting,
        ahead_fetcher=_new_ahead_fetcher(ground, known, engine) if engine else fetcher,
    )


def _new_ahead_fetcher(ground: Ground, known: Known, engine: EngineHost) -> Fetcher:
    rate = GentleRate(ground.config.max_download_bytes_s, lambda: engine.load_now.idle_s)
    ground.reloading.on(
        ("max_download_bytes_s",), lambda fresh: rate.limit(fresh.max_download_bytes_s)
    )
    return Fetcher(ground.host, ground.store, ground.telemetry, rate, known.announced)


def _known_file(config: Config) -> Path:
    return config.home / "catalogue" / "known"


def _new_service(
    ground: Ground,
    money: Money,
    base: Base,
    catalogue: Catalogue,
    engine: EngineHost | None,
    *,
    attributor: Attributor,
    answers: OwnAnswers,
    consequences: Consequences,
    checks: Background | None,
) -> Service:
    config = ground.config
    trust = consequences.trust

    async def blame(peer_id: str, adapter: bytes, lie: NodeCheated) -> None:
        await consequences.blame(address_of_peer(peer_id), adapter, str(lie))

    caller = Caller(
        ground.host,
        money.purse,
        Price(config.max_prompt_price, config.max_completion_price),
        _address(ground),
        attributor=attributor,
        answers=answers,
        on_kept=(lambda receipt: None) if checks is None else checks.note,
        on_cheated=blame,
        policies=money.agreeable,
    )

    def pay_at_most(fresh: Config) -> None:
        caller.most = Price(fresh.max_prompt_price, fresh.max_completion_price)

    ground.reloading.on(("max_prompt_price", "max_completion_price"), pay_at_most)

    def weigh(peer_id: str) -> float:
        return trust.weight(address_of_peer(peer_id), time.time())

    def backed(peer_id: str, answers: int | None) -> float:
        return 1.0 if backing is None else backing.part(address_of_peer(peer_id), answers)

    async def learn_stake(peer_ids: Sequence[str]) -> None:
        if backing is not None:
            await backing.learn([address_of_peer(one) for one in peer_ids])

    backing = money.backing
    router = Router(
        ground.host.peer_id,
        config.has_engine and not config.ask_others,
        weigh,
        backed,
        requires_stake=config.require_stake,
    )
    return Service(
        base.tokenizer,
        catalogue,
        router,
        NetworkPeers(ground.host, engine, catalogue, caller),
        ground.telemetry,
        max_answer_tokens=lambda: money.decided().answer_tokens(config.max_answer_tokens),
        attributor=attributor,
        learn_stake=learn_stake,
    )


def _trust_file(config: Config) -> Path:
    return config.home / "trust"


def _new_consequences(ground: Ground, money: Money, spreading: Spreading) -> Consequences:
    config = ground.config
    own = Signer(ground.identity.secret).public_key
    named = frozenset(map(_key_of_auditor, config.auditors))

    def name_of(operator: bytes) -> str:
        peers = (peer.peer_id for peer in ground.host.peers())
        named = (peer_id for peer_id in peers if address_of_peer(peer_id) == operator)
        return next(named, to_hex(operator))

    heard = Heard(lambda auditor: auditor == own or auditor in named)
    if money.network is not None:
        parse = partial(parse_attestation, network=money.network)
        lost = "the attestations in it are forgotten"
        load_saved(
            partial(heard.load, parse=parse), _heard_file(config), ground.telemetry.log, lost
        )
    around = Surroundings(
        money.network,
        name_of,
        _trust_file(config),
        spreading.tell if config.attest else lambda data: None,
        own=own,
        named=named,
        replays_here=config.has_engine and config.verify_one_in > 0,
    )
    trust = Trust()
    load_saved(trust.load, _trust_file(config), ground.telemetry.log, "all nodes count alike again")
    return Consequences(trust, heard, around, ground.telemetry)


@dataclass(frozen=True)
class Meeting:
    """Whom a daemon meets, and how it buys of them (verifying/asking.py's Market)."""

    daemon: NodeDaemon
    host: Host

    def replaying(self) -> list[str]:
        """List the connected peers that replay for others."""
        return [one.peer_id for one in self.host.peers() if replay_wire.PROTOCOL in one.protocols]

    async def buy(self, request: CompletionRequest) -> bytes:
        """Buy an answer; return its receipt's digest."""
        receipt = None
        async with self.daemon.complete(request) as events:
            async for event in events:
                if isinstance(event, Ended):
                    receipt = event.receipt
        if receipt is None:
            raise NodeError("it left no receipt, so it was not paid")
        return bytes.fromhex(receipt)

    def open_stream(
        self, peer_id: str, protocol: str, deadline_s: float
    ) -> AbstractAsyncContextManager[FrameStream]:
        """Open a stream."""
        return self.host.open_stream(peer_id, protocol, deadline_s)


def _key_of_auditor(peer_id: str) -> bytes:
    try:
        return public_key_of(peer_id)
    except InvalidInput as error:
        raise ConfigError(f"auditors has {peer_id!r}, which is no peer id: {error}") from error


def _heard_file(config: Config) -> Path:
    return config.home / "attestations"


async def _keep_to_the_end(kept: Kept, path: Path, log: Callable[[str], None]) -> None:
    """Write it to a file now and then, and when the daemon ends."""
    try:
        await keep_saved(kept, path, log)
    finally:
        if kept.is_dirty:
            with suppress(OSError):
                write_whole(path, kept.encode())


def _new_checks(
    ground: Ground,
    money: Money,
    engine: EngineHost | None,
    replays: Replays,
    consequences: Consequences,
) -> Background:
    supply = Supply(
        find=lambda digest: money.receipt(digest.hex()),
        idle_s=lambda: math.inf if engine is None else engine.load_now.idle_s,
        one_in=lambda: money.decided().one_in(ground.config.verify_one_in),
        dice=random.SystemRandom(),
    )
    return Background(replays, consequences, supply, ground.telemetry)


def _serve_strangers(
    ground: Ground,
    money: Money,
    catalogue: Catalogue,
    engine: EngineHost,
    demand: Demand,
    *,
    attributor: Attributor,
    noting: Noting,
) -> Inbound:
    config = ground.config
    till = money.till

    def note_wanted(peer_id: str, cid: Cid) -> None:
        """Where nothing is paid, all count alike."""
        pays = till is None or till.has_paid(address_of_peer(peer_id))
        demand.note(cid, peer_id, pays=pays)

    own = Price(config.prompt_price, config.completion_price)

    def price() -> Price:
        return money.decided().price(own)

    max_answers = config.max_answers
    places = Places(lambda: max_answers or usual_answers(engine.ready))
    money.announces = lambda: places.announced
    inbound = Inbound(
        engine,
        catalogue,
        money.till,
        price,
        owner=from_hex(config.owner) or _address(ground),
        telemetry=ground.telemetry,
        attributor=attributor,
        places=places,
        policy=lambda: money.decided().policy,
        unpaid_deadline_s=config.unpaid_deadline_s,
        note_paid=noting.note,
    )
    ground.host.serve(wire.PROTOCOL, inbound.serve, streams_per_peer=INFER_STREAMS_PER_PEER)
    quoting = Quoting(
        engine,
        catalogue,
        price if money.till else lambda: Price(0, 0),
        note_wanted,
        telemetry=ground.telemetry,
        places=places,
    )
    ground.host.serve(quote_wire.PROTOCOL, quoting.serve, streams_per_peer=QUOTE_STREAMS_PER_PEER)

    def charge(fresh: Config) -> None:
        nonlocal own
        own = Price(fresh.prompt_price, fresh.completion_price)

    def announce(fresh: Config) -> None:
        nonlocal max_answers
        max_answers = fresh.max_answers

    ground.reloading.on(("prompt_price", "completion_price"), charge)
    ground.reloading.on(("max_answers",), announce)
    return inbound


def _new_stall(
    ground: Ground, money: Money, service: Service, inbound: Inbound, nursery: trio.Nursery
) -> Stall:
    assert money.counter is not None, "who sells has a chain"
    assert money.transfers is not None
    assert money.house is not None
    return Stall(
        service,
        inbound,
        money.counter,
        nursery,
        peer_id=ground.identity.peer_id,
        transfers=money.transfers,
        house=money.house,
    )


def _new_resale(ground: Ground, money: Money, service: Service, nursery: trio.Nursery) -> Resale:
    assert money.counter is not None, "who sells has a chain"
    assert money.transfers is not None
    config = ground.config
    return Resale(
        service,
        money.counter,
        money.transfers,
        nursery,
        price=Price(config.prompt_price, config.completion_price),
        policy=lambda: money.decided().policy,
        most_tokens=config.max_answer_tokens,
    )


def _new_replicator(
    ground: Ground, catalogue: Catalogue, engine: EngineHost, demand: Demand
) -> Replicator:
    return Replicator(
        demand,
        catalogue.fetcher,
        catalogue,
        lambda: engine.load_now.idle_s,
        ground.telemetry,
        interval_s=ground.config.fetch_ahead_s,
        guest_bytes=ground.config.max_guest_bytes,
        random=random.Random(),
    )


def _address(ground: Ground) -> bytes:
    """Return the chain address of the node's own key."""
    return Signer(ground.identity.secret).address


async def _come_up(engine: EngineHost, catalogue: Catalogue, telemetry: Telemetry) -> None:
    """Wait for the engine, serve what was held before, then tell the network."""
    while True:
        try:
            ready = await engine.wait_up()
            break
        except EngineLost as error:
            telemetry.log(f"daemon: {error}")
            await trio.sleep(MAX_BACKOFF_S)  # there may have been nothing to wait for
    if ready.base != catalogue.base:
        raise ConfigError(
            f"the engine loaded base {ready.base.hex()[:16]}…, the configuration names"
            f" {catalogue.base.hex()[:16]}…; check base_path"
        )
    await catalogue.publisher.restore()
    await catalogue.publisher.offer_base()
