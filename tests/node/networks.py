"""Whole daemons over loopback TCP for tests: real libp2p, real engines on a tiny base (forks,
forked.py), a real chain when asked for.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from node.api.answers import CompletionRequest, Delta, Ended, Prompt, Started, TokenLogprobs
from node.app import open_daemon
from node.config import Config
from node.daemon import NodeDaemon
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.chain.deploy import deploy_settlement
from proofs.chain.devchain import DevChain, open_chain
from proofs.chain.rpc import Rpc
from proofs.chain.structs import Board, FeeToken, Terms
from proofs.hextext import to_hex
from proofs.signing import Signer

from .forked import forked_python
from .tiny import make_base

PASSING_S = 0.25


@dataclass
class Answered:
    """What a request brought."""

    started: Started
    text: str
    token_ids: list[int]
    ended: Ended
    logprobs: list[TokenLogprobs]


@dataclass
class Lab:
    """A folder with a base and the homes of daemons, and perhaps a chain."""

    folder: Path
    chain: DevChain | None = None
    bootstrap: tuple[str, ...] = ()
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def identity(self, name: str) -> Identity:
        return Identity.load_or_create(self.folder / name / "key")

    def address(self, name: str) -> bytes:
        return Signer(self.identity(name).secret).address

    def config(self, name: str, **changes: Any) -> Config:
        values: dict[str, Any] = {
            "home": self.folder / name,
            "listen": ("/ip4/127.0.0.1/tcp/0",),
            "bootstrap": self.bootstrap,
            "base_path": str(self.folder / "base"),
            "engine_dtype": "float32",
            "engine_threads": 1,
            "epoch_s": 1.0,
            "claim_interval_s": 1.0,
        }
        if self.chain is not None:
            values |= {
                "chain_rpc": (self.chain.rpc,),
                "settlement": self.chain.settlement,
                "channels": self.chain.channels,
                "token": self.chain.token,
            }
        return Config(**(values | changes))

    @asynccontextmanager
    async def daemon(self, name: str, **changes: Any) -> AsyncIterator[NodeDaemon]:
        """One running daemon; the first becomes everybody's bootstrap."""
        config = self.config(name, **changes)
        async with open_daemon(
            config, engine_command=(forked_python(), "-m", "engine", "serve")
        ) as daemon:
            self.bootstrap = self.bootstrap or daemon.host.addresses
            if daemon.engine is not None:
                await daemon.engine.wait_up(60)
            yield daemon


@contextmanager
def open_lab(
    folder: Path,
    *,
    chain_for: tuple[str, ...] = (),
    aggregator: str = "aggregator",
    witnesses: tuple[str, ...] = (),
    terms: Terms | None = None,
    fees: FeeToken = "dollars",
    anvil: str | None = None,
) -> Iterator[Lab]:
    """A lab; with names in `chain_for`, on a development chain that funds their addresses, and
    whose headers all the `witnesses` must sign; with other `terms` than a development chain's, if
    given, and paid in `fees`; an `anvil`'s where its binary is given.
    """
    forked_python()  # here, before anything has a deadline
    make_base(folder / "base")
    lab = Lab(folder)
    if not chain_for:
        yield lab
        return
    with open_chain(
        aggregator=lab.address(aggregator),
        fund=[lab.address(name) for name in chain_for],
        anvil=anvil,
        witnesses=[lab.address(name) for name in witnesses],
        quorum=len(witnesses),
        fees=fees,
        command=(forked_python(), "-m", "proofs.chain.devchain"),
    ) as chain:
        lab.chain = chain
        if terms is not None:
            board = Board(
                owner=lab.address(aggregator),
                aggregator=lab.address(aggregator),
                witnesses=tuple(lab.address(name) for name in witnesses),
                quorum=len(witnesses),
            )
            lab.chain = deploy_again(chain, board, terms)
        yield lab


def deploy_again(chain: DevChain, board: Board, terms: Terms) -> DevChain:
    """Another settlement contract on a development chain, on other terms, with its bond."""
    client = chain.client(chain.secrets()[0])
    try:
        token = client.deployment.token
        made = deploy_settlement(client.wallet, board, client.deployment.channels, token, terms)
        own = replace(chain, settlement=to_hex(made.contract), first_block=made.block)
        client = own.client(chain.secrets()[0])
        client.settlement.fund_bond(terms.bond)
        return own
    finally:
        client.close()


async def ask(
    daemon: NodeDaemon,
    prompt: Prompt = "hello",
    *,
    model: str = "base",
    max_tokens: int = 8,
    **settings: Any,
) -> Answered:
    """One whole answer."""
    request = CompletionRequest(model, prompt, max_tokens=max_tokens, **settings)
    started = None
    text = ""
    token_ids = list[int]()
    ended = None
    logprobs = list[TokenLogprobs]()
    with trio.fail_after(60):
        async with daemon.complete(request) as events:
            async for event in events:
                match event:
                    case Started():
                        started = event
                    case Delta():
                        text += event.text
                        token_ids += event.token_ids
                        logprobs += event.logprobs
                    case Ended():
                        ended = event
    assert started is not None
    assert ended is not None
    return Answered(started, text, token_ids, ended, logprobs=logprobs)


def passing(rpc: Rpc) -> Callable[[], None]:
    """What a condition calls so that time passes on a chain that nobody else writes to: a block,
    which is a second there, four times a second at most. However slow a machine's daemons are, no
    aggregator among them has been silent for too long then.
    """
    last_s = -math.inf

    def pass_on() -> None:
        nonlocal last_s
        if trio.current_time() - last_s >= PASSING_S:
            last_s = trio.current_time()
            rpc.call("evm_mine")

    return pass_on


async def until(condition: Any, deadline_s: float = 60.0) -> None:
    """Wait until something is so; its truth may come from an async function."""
    with trio.fail_after(deadline_s):
        while True:
            answer = condition()
            if answer if not hasattr(answer, "__await__") else await answer:
                return
            await trio.sleep(0.05)


async def serves(daemon: NodeDaemon, peer_id: str) -> bool:
    """Whether the network names a node to a daemon as one that has the base."""
    base = bytes.fromhex((await daemon.status()).base.split()[-1])
    return peer_id in {peer.peer_id for peer in await daemon.host.dht.find_providers(Cid(base))}
