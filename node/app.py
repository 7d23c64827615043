"""Builds a daemon from its configuration and runs its tasks.

The only place that constructs; every task is in its nursery.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from engine.messages import Vocabulary
from p2p.blocks.server import serve_blocks
from p2p.blocks.store import BlockStore
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from proofs.signing import Signer

from .answering.bases import load_base
from .answering.inbound import Inbound
from .answering.peers import NetworkPeers
from .answering.remote import Caller
from .answering.router import Router
from .answering.service import Service
from .answering.tokenizer import BaseTokenizer
from .catalogue.holding import Adapters, run_announcements
from .config import Config
from .daemon import NodeDaemon
from .engine_host import EngineHost
from .engine_process import EngineSettings
from .errors import ConfigError, EngineLost
from .money.metering import Price
from .money.wiring import Money, open_money
from .telemetry import Telemetry
from .wire import infer as wire

INFER_STREAMS_PER_PEER = 64


@asynccontextmanager
async def open_daemon(
    config: Config, *, engine_command: tuple[str, ...] | None = None
) -> AsyncIterator[NodeDaemon]:
    """A whole daemon, in the role that the configuration names; it stops, cleanly and within 5 s,
    when the block ends.
    """
    config.home.mkdir(parents=True, exist_ok=True)
    telemetry = Telemetry(config.home / "log")
    identity = Identity.load_or_create(config.key_path)
    network = NetworkConfig(
        listen=config.listen, bootstrap=config.bootstrap, network=config.network
    )
    try:
        async with (
            open_host(identity, network) as host,
            open_money(config, identity, host, telemetry) as money,
            trio.open_nursery() as nursery,
        ):
            daemon = await _build(config, identity, host, money, telemetry, nursery, engine_command)
            telemetry.log(
                f"daemon: {config.role} {identity.peer_id} at {', '.join(host.addresses)}"
            )
            yield daemon
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _sole_error(group) from None
    finally:
        telemetry.log("daemon: stopped")
        telemetry.close()


def _sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error inside nested groups of one, so that callers can catch it by its name."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _build(
    config: Config,
    identity: Identity,
    host: Host,
    money: Money,
    telemetry: Telemetry,
    nursery: trio.Nursery,
    engine_command: tuple[str, ...] | None,
) -> NodeDaemon:
    """Construct the parts of this role and start their tasks."""
    store = BlockStore(config.home / "blocks")
    serve_blocks(host, store)
    money.build(store)
    own = Signer(identity.secret).address
    owner = bytes.fromhex(config.owner.removeprefix("0x")) or own
    engine: EngineHost | None = None
    adapters: Adapters | None = None
    service: Service | None = None
    if config.role in ("volunteer", "gateway"):
        base = await trio.to_thread.run_sync(load_base, config.weights_path())
        engine = (
            _new_engine(config, telemetry, base.tokenizer, engine_command)
            if config.has_engine
            else None
        )
        adapters = Adapters(
            config.home,
            host,
            store,
            engine,
            identity,
            config.publishers,
            base.identity,
            base.tokenizer.name,
            telemetry,
        )
        caller = Caller(
            host, money.purse, Price(config.max_prompt_price, config.max_completion_price), own
        )
        service = Service(
            base.tokenizer,
            adapters,
            Router(host.peer_id, config.has_engine),
            NetworkPeers(host, engine, adapters, caller),
            telemetry,
        )
        if engine is not None:
            price = Price(config.prompt_price, config.completion_price)
            inbound = Inbound(
                engine,
                adapters,
                money.till,
                price,
                owner=owner,
                telemetry=telemetry,
                unpaid_deadline_s=config.unpaid_deadline_s,
            )
            nursery.start_soon(engine.run)
            nursery.start_soon(_come_up, engine, base.identity.base, adapters, telemetry)
            host.serve(wire.PROTOCOL, inbound.serve, streams_per_peer=INFER_STREAMS_PER_PEER)
        nursery.start_soon(adapters.run_republish, config.republish_interval_s)
    await nursery.start(run_announcements, host, adapters, telemetry)
    await money.run_in(nursery)
    return NodeDaemon(
        config,
        own,
        host,
        telemetry,
        engine=engine,
        adapters=adapters,
        service=service,
        money=money,
        nursery=nursery,
    )


def _new_engine(
    config: Config, telemetry: Telemetry, tokenizer: BaseTokenizer, command: tuple[str, ...] | None
) -> EngineHost:
    described = config.home / "tokenizer.json"
    tokenizer.save(described)
    settings = EngineSettings(
        config.weights_path(),
        config.engine_dtype,
        config.engine_threads,
        config.kv_tokens,
        max_adapters=config.max_adapters,
        draft_tokens=config.engine_draft_tokens,
        vocabulary=Vocabulary(str(described.resolve()), list(tokenizer.stop_ids)),
    )
    if command is not None:
        settings = dataclasses.replace(settings, command=command)
    return EngineHost(settings, telemetry.log, stderr=config.home / "engine.log")


async def _come_up(
    engine: EngineHost, base: bytes, adapters: Adapters, telemetry: Telemetry
) -> None:
    """Once the engine is ready: serve what was held before, then tell the network."""
    while True:
        try:
            ready = await engine.wait_up()
            break
        except EngineLost as error:
            telemetry.log(f"daemon: {error}")
    if ready.base != base:
        raise ConfigError(
            f"the engine loaded base {ready.base.hex()[:16]}…, the configuration names"
            f" {base.hex()[:16]}…; check base_path"
        )
    await adapters.restore()
    await adapters.offer_base()
