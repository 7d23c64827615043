"""Peers that live in memory, for tests of a request's story: no daemon, no socket, no engine.

Each plays a part that is written down before: what it says first, its tokens, how it ends. They
keep to the contract of `node.answering.peers`, and remember what they were asked.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from engine import messages as m
from node.answering.peers import AnswerEnd, Call, Peer
from node.answering.router import Router
from node.answering.service import Service
from node.answering.tokenizer import BaseTokenizer
from node.api.answers import Chosen, MixedIn, Scored
from node.errors import NodeError, NodeVanished, NoEngine, UnknownModel
from node.telemetry import Telemetry
from node.wire.client_session import Question
from node.wire.metering import Price
from node.wire.quote import AskQuote, FromNode
from p2p.cid import Cid
from p2p.identity import Identity
from p2p.peers import PeerAddress
from proofs.attribution.shares import AdapterTerms
from tests.proofs import scene

LAW = Cid(b"l" * 32)
BASE = b"b" * 32
CONTEXT_TOKENS = 256
MAX_ANSWER_TOKENS = 100


def peer_id(name: str) -> str:
    """A real peer id, the same for the same name."""
    return Identity.from_secret(name.encode().rjust(32, b"\1")).peer_id


@dataclass
class Part:
    """What a peer does when it is asked."""

    tokens: Sequence[Sequence[int]] = ()
    reason: str = "length"
    amount: int = 0
    receipt: bytes | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    unreachable: NodeError | None = None
    refusal: NodeError | None = None
    failure: Exception | None = None
    """Instead of the end, after all tokens."""
    waits: bool = False
    """Neither more tokens nor an end come."""
    pause_s: float = 0.0
    """Before each of them."""
    offer_s: float = 0.0
    """Before the offer."""
    quote: FromNode | None = None
    """None: it speaks no quotes."""
    quote_s: float = 0.0
    """Before the quote."""


@dataclass
class Crowd:
    """How many are asked now, and were at most."""

    now: int = 0
    most: int = 0


@dataclass
class PeerInMemory:
    """One of them."""

    peer_id: str
    part: Part
    crowd: Crowd
    questions: list[Question] = field(default_factory=list)
    stopped: int = 0
    left_early: int = 0
    finished: int = 0
    accepted: int = 0

    @asynccontextmanager
    async def ask(self, question: Question) -> AsyncIterator[Call]:
        self.questions.append(question)
        if self.part.unreachable is not None:
            raise self.part.unreachable
        finished = self.finished
        self.crowd.now += 1
        self.crowd.most = max(self.crowd.most, self.crowd.now)
        try:
            yield _CallInMemory(self, question)
        finally:
            self.left_early += self.finished == finished
            self.crowd.now -= 1


class _CallInMemory:
    def __init__(self, peer: PeerInMemory, question: Question) -> None:
        self._peer = peer
        self._question = question
        self._left = list(peer.part.tokens)

    async def open(self) -> Mapping[str, float]:
        if self._peer.part.refusal is not None:
            raise self._peer.part.refusal
        await trio.sleep(self._peer.part.offer_s)
        return self._peer.part.timings_ms

    async def accept(self) -> None:
        self._peer.accepted += 1

    @property
    def seed(self) -> bytes:
        if self._question.resumed is not None:
            return self._question.resumed.seed
        return hashlib.sha256(self._peer.peer_id.encode()).digest()

    async def next_tokens(self) -> m.Tokens | None:
        await trio.sleep(self._peer.part.pause_s)
        if self._left:
            return m.Tokens(1, list(self._left.pop(0)), step=1)
        if self._peer.part.waits:
            await trio.sleep_forever()
        if self._peer.part.failure is not None:
            raise self._peer.part.failure
        return None

    async def stop(self) -> None:
        self._peer.stopped += 1
        self._left.clear()

    async def finish(self) -> AnswerEnd:
        self._peer.finished += 1
        part = self._peer.part
        return AnswerEnd(part.reason, part.amount, part.receipt, 1, {"queue": 1.0})


@dataclass
class PeersInMemory:
    """This node and all others; `parts` by name."""

    parts: dict[str, Part]
    own: Part | None = None
    connected: set[str] = field(default_factory=set)
    made: dict[str, PeerInMemory] = field(default_factory=dict)
    crowd: Crowd = field(default_factory=Crowd)
    serving_names: Sequence[str] = ()
    quoted: list[tuple[str, AskQuote]] = field(default_factory=list)
    """Who was asked for a quote, and about what."""
    bound: dict[str, Price | None] = field(default_factory=dict)
    """The prices by which each must stand, when it was last asked for an answer."""

    def here(self) -> Peer:
        if self.own is None:
            raise NoEngine("this daemon runs no engine; name another node")
        return self._peer(peer_id("self"), self.own)

    async def context_tokens(self) -> int:
        return CONTEXT_TOKENS

    async def score(
        self, token_ids: Sequence[int], adapter: bytes, logprobs: int
    ) -> Sequence[m.TokenLogprobs]:
        """Each token's own id is its log-probability, and the likeliest others are the first."""
        likely = [(other, -1.0) for other in range(logprobs)]
        return [m.TokenLogprobs(-float(token), likely) for token in token_ids[1:]]

    @property
    def serving(self) -> Sequence[PeerAddress]:
        return [PeerAddress(peer_id(name)) for name in self.serving_names]

    @property
    def most(self) -> Price:
        return Price(100, 500)

    def paid(self, addresses: Sequence[PeerAddress]) -> Collection[str]:
        return {one.peer_id for one in addresses}

    async def quote(self, address: PeerAddress, wanted: AskQuote) -> tuple[FromNode, float]:
        part = self._part(address)
        self.quoted.append((address.peer_id, wanted))
        await trio.sleep(part.quote_s)
        if part.quote is None:
            raise NodeVanished("it quotes nothing")
        return part.quote, part.quote_s

    def at(self, address: PeerAddress, quoted: Price | None = None) -> Peer:
        self.bound[address.peer_id] = quoted
        return self._peer(address.peer_id, self._part(address))

    def _part(self, address: PeerAddress) -> Part:
        names = {peer_id(name): name for name in self.parts}
        return self.parts[names[address.peer_id]]

    def asked(self, name: str) -> PeerInMemory:
        """The peer of that name, if it was ever asked."""
        return self.made[peer_id(name)]

    @property
    def all_asked(self) -> list[str]:
        """The ids of those who were asked anything."""
        return [peer.peer_id for peer in self.made.values() if peer.questions]

    def _peer(self, its_id: str, part: Part) -> PeerInMemory:
        return self.made.setdefault(its_id, PeerInMemory(its_id, part, self.crowd))


@dataclass
class CatalogueInMemory:
    """Knows one adapter, `law`, and who provides what."""

    providers_of: dict[Cid, list[str]]
    base: bytes = BASE
    lookups: list[Cid] = field(default_factory=list)
    unvetted: NodeError | None = None
    """Why nobody is paid for the adapter."""

    async def resolve(self, model: str, are_wanted: Callable[[Cid], bool]) -> Cid | None:
        if model not in ("base", "law"):
            raise UnknownModel(model)
        return LAW if model == "law" else None

    async def providers(self, cid: Cid) -> Sequence[PeerAddress]:
        self.lookups.append(cid)
        return [PeerAddress(peer_id(name)) for name in self.providers_of.get(cid, [])]

    async def vet(self, cid: Cid) -> None:
        if self.unvetted is not None:
            raise self.unvetted

    async def terms(self, cid: Cid) -> AdapterTerms:
        return scene.TERMS

    def choose(self, prompt: str) -> Chosen:
        if "law" in prompt:
            return Chosen(Scored("law", "law", 0.5), Scored("verse", "verse", 0.25))
        return Chosen(Scored("base", None, 0.0), None)

    def cocktail(self, cid: Cid | None) -> bytes:
        return b""

    def parents(self, cid: Cid | None) -> tuple[MixedIn, ...]:
        return ()


@dataclass
class World:
    """A service among peers in memory."""

    service: Service
    peers: PeersInMemory
    catalogue: CatalogueInMemory
    telemetry: Telemetry
    told: io.StringIO


def make_world(
    tokenizer: BaseTokenizer,
    parts: dict[str, Part],
    *,
    own: Part | None = None,
    law: Sequence[str] | None = None,
    base: Sequence[str] | None = None,
    connected: Sequence[str] = (),
) -> World:
    """All peers provide the base and nobody the adapter, unless it says otherwise."""
    told = io.StringIO()
    telemetry = Telemetry(stream=told)
    catalogue = CatalogueInMemory(
        {LAW: list(law or ()), Cid(BASE): list(parts if base is None else base)}
    )
    peers = PeersInMemory(parts, own, {peer_id(name) for name in connected})
    router = Router(peer_id("self"), has_engine=own is not None)
    service = Service(
        tokenizer, catalogue, router, peers, telemetry, max_answer_tokens=lambda: MAX_ANSWER_TOKENS
    )
    return World(service, peers, catalogue, telemetry, told)
