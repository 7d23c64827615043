"""Has a daemon audit others now and then, and opens the client that asks in an audit: a gateway
with a key, a home and a place in the network of its own.

Decides whom and with what; what an audit is, verifying/auditing.py knows.
"""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

import trio

from p2p.host import Host
from proofs.attestation.pledge import MAX_CANARIES
from proofs.receipt import SignedReceipt, decode_receipt

from .api.answers import CompletionEvent, CompletionRequest
from .api.verifying import AuditSaid
from .attributing.answers import OwnAnswer, OwnAnswers
from .config import CONFIG_FILE, Config, dump_config
from .daemon import NodeDaemon
from .errors import NodeError
from .money.wiring import Money
from .verifying.auditing import MAX_WITHIN_S, Visit

CLIENT_UP_S = 60.0
MEET_POLL_S = 0.1
RETURN_DEADLINE_S = 90.0
DAY_S = 86_400.0
MAX_AUDITS = 32  # going on in the background at once
BASE = ("base",)

OpenDaemon = Callable[[Config], AbstractAsyncContextManager[NodeDaemon]]


async def run_audits(daemon: NodeDaemon, per_day: float, log: Callable[[str], None]) -> None:
    """Audit a node drawn by lot now and then, with an adapter held here, until cancelled. Each
    audit lasts as long as a client stays, so several go on at once.
    """
    dice = random.SystemRandom()
    at_once = trio.CapacityLimiter(MAX_AUDITS)
    async with trio.open_nursery() as nursery:
        while True:
            await trio.sleep(dice.expovariate(per_day / DAY_S))
            serving = [one.peer_id for one in daemon.peers() if "volunteer" in one.roles]
            if not serving or not at_once.available_tokens:
                continue
            models = [one.cid for one in daemon.held()] or list(BASE)
            said = AuditSaid(dice.choice(serving), dice.choice(models), None, MAX_WITHIN_S)
            nursery.start_soon(_audit, daemon, said, at_once, log)


async def _audit(
    daemon: NodeDaemon, said: AuditSaid, at_once: trio.CapacityLimiter, log: Callable[[str], None]
) -> None:
    async with at_once:
        try:
            found = await daemon.audit(said)
        except NodeError as error:
            log(f"auditing: {said.node}: {error}")
        else:
            log(f"auditing: {said.node}: {found.verdict}, report {found.report}")


@dataclass(frozen=True)
class _Client:
    """A client with a key of its own, for one audit (auditing.py's Client)."""

    daemon: NodeDaemon
    answers: OwnAnswers

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer a request."""
        return self.daemon.complete(request)

    def find(self, receipt: bytes) -> tuple[SignedReceipt, OwnAnswer] | None:
        """Return what is kept of an answer."""
        money = self.daemon.money
        signed = money.receipt(receipt.hex()) if money else None
        own = self.answers.find(receipt)
        return None if signed is None or own is None else (decode_receipt(signed), own)


@asynccontextmanager
async def open_client(
    config: Config,
    host: Host,
    money: Money,
    visit: Visit,
    *,
    open_daemon: OpenDaemon,
    log: Callable[[str], None],
) -> AsyncIterator[_Client]:
    """Run a gateway with a key and a home of its own: fresh ones with money at an audit's first
    visit, the same later; `open_daemon` runs it. Takes back what is left after the last; what lies
    in its channel can be asked back after the channel's delay, by its home.
    """
    node = visit.node
    home = config.home / "audits" / f"client-{visit.client}"
    near = [
        peer.address if peer.address.endswith(node) else f"{peer.address}/p2p/{node}"
        for peer in host.peers()
        if peer.peer_id == node
    ]
    own = replace(
        config,
        home=home,
        role="gateway",
        listen=_somewhere(config.listen),
        bootstrap=(*config.bootstrap, *near) or host.addresses,
        announce=(),
        engine="own",
        engine_url="",
        owner="",
        password_file="",
        sell="",
        verify_one_in=0,
        attest=False,
        audits_per_day=0.0,
        remember_answers=MAX_CANARIES,
        first_deposit=_deposit_like(visit.deposit, config),
    )
    home.mkdir(parents=True, mode=0o700, exist_ok=not visit.is_first)
    (home / CONFIG_FILE).write_text(dump_config(own))
    async with open_daemon(own) as daemon:
        assert daemon.money is not None
        if money.is_paid and visit.is_first:
            await money.give(daemon.money.payer, own.first_deposit + visit.most)
        try:
            await _meet_others(daemon)
            yield _Client(daemon, OwnAnswers(home / "answers", 0, log))
        finally:
            if visit.is_last:
                deadline = trio.current_time() + RETURN_DEADLINE_S
                with trio.CancelScope(shield=True, deadline=deadline):
                    await _take_back(daemon.money, money, log)


def _deposit_like(deposit: int | None, config: Config) -> int:
    """Return how much an audit's client puts into its channel first: as much as a client like it,
    as far as we would lock so much up ourselves.
    """
    if deposit is None:
        return config.first_deposit
    return min(max(deposit, config.first_deposit // 10, 1), config.channel_deposit)


async def _meet_others(daemon: NodeDaemon) -> None:
    with trio.move_on_after(CLIENT_UP_S):
        while daemon.waits_for() or not daemon.host.peers():  # noqa: ASYNC110  # nobody tells
            await trio.sleep(MEET_POLL_S)
        return
    raise NodeError(f"the audit's client met nobody within {CLIENT_UP_S:.0f} s")


async def _take_back(client: Money, own: Money, log: Callable[[str], None]) -> None:
    if not own.is_paid:
        return
    try:
        await client.withdraw(None)
        await client.return_to(own.payer)
    except NodeError as error:
        log(f"auditing: {error}; what the client has left is its home's")


def _somewhere(listen: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same interfaces, any free port."""
    return tuple(re.sub(r"/tcp/[0-9]+", "/tcp/0", address) for address in listen)
