"""An in-memory daemon for the tests of the faces: answers by rote, remembers what it was asked,
fails on demand.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from node.api.adapters import (
    AdapterInfo,
    AlikeInfo,
    ArrivingInfo,
    FoundInfo,
    HeldInfo,
    PullReport,
    PushTold,
    RegisteredInfo,
    SearchRequest,
    ShownInfo,
    VersionInfo,
)
from node.api.answers import (
    CallDelta,
    Chosen,
    CompletionEvent,
    CompletionRequest,
    Continued,
    Delta,
    EmbeddingAnswer,
    EmbeddingRequest,
    Ended,
    LikelyToken,
    MixedIn,
    Started,
    TokenLogprobs,
    ToolCall,
)
from node.api.doctor import Checked
from node.api.governance import (
    GovernanceInfo,
    SimulationInfo,
    governance_info,
    simulation_info,
)
from node.api.money import (
    AttributedInfo,
    ChannelInfo,
    CreditedInfo,
    EarningsInfo,
    QualityInfo,
    ReceiptInfo,
    SourceInfo,
    SpanInfo,
    SplitInfo,
    StuckInfo,
    WhyInfo,
)
from node.api.status import (
    BannedInfo,
    BaseInfo,
    CoinInfo,
    FilesInfo,
    LogInfo,
    OfferedInfo,
    PeerInfo,
    StatusInfo,
    WebInfo,
)
from node.api.traces import Span, Trace
from node.api.verifying import (
    AttestationInfo,
    AuditInfo,
    AuditSaid,
    RecheckInfo,
    Verdict,
    VerifyInfo,
)
from node.bugreport import Report, write_report
from node.errors import BadRequest, NodeError, NoReceipt, NotHere, UnknownModel
from node.http.server import listen, serve_http, url_of
from proofs.chain.governance import Proposal, Tally
from proofs.hindsight import Hindsight, Line, Simulation
from proofs.parameters import Version, rule_on
from proofs.stake import LORI
from tests.golden.world import BASE_CARD

PEER = "16Uiu2HAmTwin"
OTHER_PEER = "16Uiu2HAmOther"
LAW = AdapterInfo(
    "law",
    "bafkreilaw",
    "16Uiu2HAmCreator",
    "held",
    size_bytes=1_800_000,
    licence="CC0-1.0",
    providers=2,
    version="1",
    description="What a court would say.",
    languages=("en",),
)
SHOWN_LAW = ShownInfo(
    LAW,
    weights="ab" * 32,
    weights_half="cd" * 32,
    has_registry=True,
    registered=RegisteredInfo(
        "0x" + "11" * 20,
        "0x" + "22" * 20,
        block=7,
        at=1_794_000_000,
        royalty_bps=250,
        manifest="0x" + "33" * 32,
        parents=("0x" + "44" * 32,),
        is_theirs=False,
    ),
    alike=(AlikeInfo("lawyer", "bafkreilawyer", "16Uiu2HAmOther", 0.98, 0.9, 210, 1.5),),
)
HELD = HeldInfo("law", LAW.cid, "1", LAW.size_bytes, why="ahead", used_at=1_794_000_000.0)
MIXED = HeldInfo("law:0.7+verse:0.3", "bafkreimixed", "", 9_000_000, why="mixed", used_at=1.0)
FILES = FilesInfo("law", LAW.cid, "ab" * 32, LAW.creator, LAW.licence, files=())
BASE = BaseInfo(
    "smol",
    "cd" * 32,
    "network",
    "/somewhere/smol.gguf",
    card="bafkreismol",
    signer="16Uiu2HAmSigner",
    format="gguf",
    licence="apache-2.0",
    source="",
    size_bytes=98_000_000,
    num_files=1,
    waits_for="",
)
VERSION = VersionInfo("law@1", "bafkreilaw", is_meant=True, signed_at=1_794_000_000)
RECEIPT = ReceiptInfo(
    "ab" * 32,
    "promised",
    "client",
    "law",
    channel="cd" * 32,
    sequence=1,
    tokens=12,
    amount=620,
    counterparty="0x" + "11" * 20,
    is_cosigned=True,
    epoch=3,
)
TRACE = Trace(
    "5a" * 16,
    (
        Span("01" * 8, "", "POST /v1/chat/completions", "server", 10**18, 10**18 + 9 * 10**6),
        Span("02" * 8, "01" * 8, "chat law", "internal", 10**18 + 10**6, 10**18 + 8 * 10**6),
    ),
    ("ab" * 32,),
)
CHANNEL = ChannelInfo(
    "cd" * 32,
    "client",
    "0x" + "11" * 20,
    "open",
    balance=50_000,
    spent=620,
    vouched=1_000,
    claimed=0,
    reserved=0,
    free=49_380,
)
SOURCE = SourceInfo("c0" * 32, "5f" * 32, "Notes on Part III", 4)
WHY = WhyInfo(
    RECEIPT.digest,
    "agrees",
    "recomputed: the shares equal those of the receipt",
    12,
    text="The court finds that all is well.",
    fee=620,
    split=[
        SplitInfo("node", "0x" + "22" * 20, "", 372),
        SplitInfo("data", "0x" + "33" * 20, "Farida", 248),
    ],
    adapters=[
        AttributedInfo(
            "law@1",
            LAW.cid,
            3,
            [
                CreditedInfo("Farida", "0x" + "33" * 20, 118.25, 6_000, weight=2),
                CreditedInfo("Karim", "0x" + "44" * 20, 74.0, 4_000, weight=1),
            ],
            spans=[
                SpanInfo(1, 3, " court finds", "Farida", 0, 3, bits=31.0),
                SpanInfo(6, 8, " is well.", "Karim", 1, 0, bits=9.0, source=SOURCE),
            ],
            known_bits=26.0,
            quality=QualityInfo(0.39, (0.31, 0.46), 0.4, (0.26, 0.53), answers=48),
        )
    ],
)
STUCK = StuckInfo(
    RECEIPT.digest, RECEIPT.channel, 620, "epoch", "the aggregator promised it", 1_800_000_000
)
TOLD = PushTold(licence="mit", name="law", source="org/law@abc")
FOUND = (
    FoundInfo("org/law", "abc", "fits", "/cache/law", "law", 1_800_000, reason="", told=TOLD),
    FoundInfo("org/odd", "abc", "doubtful", "/cache/odd", "odd", 9, reason="other", told=TOLD),
    FoundInfo("org/big", "abc", "refused", "/cache/big", "big", 9, reason="wide", told=TOLD),
    FoundInfo("org/base", "abc", "base", "/cache/base", "", 9, reason="a base", told=PushTold()),
)
VECTOR = (0.5, -0.5, 0.5, 0.25, 0.4330127)
WORDS = ("The", " court", " finds", " that", " è", " all", " is", " well.")

VERIFIED = VerifyInfo(
    RECEIPT.digest,
    "differs",
    "replayed: this adapter and this seed do not give its tokens",
    node="0x" + "77" * 20,
    adapter="bafkreilaw",
    tokens=12,
    missed=11,
    score=0.21,
    limit=0.015,
    is_calibrated=True,
    formats=("bfloat16", "float32"),
    fits_base=True,
)
AUDITED = AuditInfo(
    "16Uiu2HAmNode",
    "bafkreilaw",
    "differs",
    (VERIFIED,),
    ("canary 2: it left no receipt",),
    commitment="ab" * 32,
    report="HOME/audits/abab.audit",
    spent=8_000,
    weight=0.0,
)
RECHECKED = RecheckInfo(
    "02" * 33,
    VERIFIED.node,
    "bafkreilaw",
    "",
    pledged_at=None,
    canaries=2,
    verdict="differs",
    answers=(VERIFIED,),
)
SHOWN = b"\x99" + bytes(9)  # an array of nine, as attestations are
ATTESTED = AttestationInfo(
    RECEIPT.digest,
    "differs",
    VERIFIED.node,
    VERIFIED.adapter,
    tokens=12,
    missed=11,
    score=0.21,
    limit=0.015,
    judged_at=1_800_000_000,
    auditor="02" * 33,
    weighs="stranger",
)


VOTED = Version(1, since=1_793_000_000, values={"prices.completion-floor": 80})
PROPOSAL = Proposal(
    7,
    bytes(20),
    "# Raise the floor\n\nA machine that answers below this pays for its own electricity.",
    changes=(("prices.completion-floor", 120),),
    calls=(),
    votes_from=1_794_000_000,
    votes_until=1_794_600_000,
    due_at=0,
    state="active",
    tally=Tally(against=LORI, in_favour=5 * LORI, abstained=0),
    quorum=4 * LORI,
)
SIMULATED = Simulation(
    Hindsight(
        (
            Line(b"\x22" * 20, earned=7_440, would_earn=11_160),
            Line(b"\x33" * 20, earned=2_480, would_earn=2_300),
        ),
        paid=9_920,
        would_pay=13_460,
        receipts=16,
    ),
    rule_on((VOTED,)),
    rule_on((VOTED, Version(2, 0, {"prices.completion-floor": 120}))),
    epochs=3,
    report=b"{}",
)


@dataclass
class Twin:
    """`Daemon`, in memory. `error` is raised before the answer, or after `error_after` words.

    Another peer goes on after `continued_after` words. With `calls`, a request that has tools is
    answered by two words and these. `stop_text` is said to have ended it.
    """

    error: NodeError | None = None
    error_after: int = 0
    continued_after: int | None = None
    calls: tuple[ToolCall, ...] = ()
    stop_text: str = ""
    word_delay_s: float = 0.0
    verdict: Verdict = "agrees"
    asked: list[CompletionRequest] = field(default_factory=list)
    embedded: list[EmbeddingRequest] = field(default_factory=list)
    pushed: list[Path] = field(default_factory=list)
    imported: list[Path] = field(default_factory=list)
    audited: list[AuditSaid] = field(default_factory=list)
    told: PushTold | None = None
    waiting: str = ""
    bans: tuple[BannedInfo, ...] = ()
    searched: list[SearchRequest] = field(default_factory=list)
    parents: tuple[MixedIn, ...] = ()
    chosen: Chosen | None = None
    cancelled: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def complete(
        self, request: CompletionRequest
    ) -> AsyncIterator[AsyncIterator[CompletionEvent]]:
        self.asked.append(request)
        self._known(request.model)
        if self.error is not None and not self.error_after:
            raise self.error
        try:
            yield self._events(request)
        except trio.Cancelled:
            self.cancelled.set()
            raise

    async def _events(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        yield Started(
            PEER,
            request.model,
            None if request.model == "base" else LAW.cid,
            {"lookup": 1.5},
            7,
            parents=self.parents,
            chosen=self.chosen,
        )
        calls = self.calls if request.tools and request.tool_choice.mode != "none" else ()
        words = WORDS[: 2 if calls else request.max_tokens]
        for index, word in enumerate(words):
            if index == self.continued_after:
                yield Continued(OTHER_PEER, index, "the first went away")
            if self.error is not None and index == self.error_after:
                raise self.error
            await trio.sleep(self.word_delay_s)
            yield Delta(word, (index,), self._logprobs(word, request.logprobs))
        for index, call in enumerate(calls):
            yield CallDelta(index, call.arguments[:5], call.id, call.name)
            yield CallDelta(index, call.arguments[5:])
        reason = "length" if (request.max_tokens or len(WORDS)) < len(WORDS) else "stop"
        yield Ended(
            reason,
            7,
            len(words),
            10 * 7 + 50 * len(words),
            receipt=RECEIPT.digest,
            timings_ms={"first_token": 20.0, "total": 40.0},
            neighbours=2,
            stop_text=self.stop_text,
        )

    @staticmethod
    def _logprobs(word: str, count: int | None) -> tuple[TokenLogprobs, ...]:
        token = LikelyToken(word, word.encode(), -0.5)
        return () if count is None else (TokenLogprobs(token, (token,) * count),)

    async def count_tokens(self, request: CompletionRequest) -> int:
        self.asked.append(request)
        self._known(request.model)
        return 7

    async def embed(self, request: EmbeddingRequest) -> EmbeddingAnswer:
        self.embedded.append(request)
        self._known(request.model)
        if self.error is not None:
            raise self.error
        try:
            await trio.sleep(self.word_delay_s)
        except trio.Cancelled:
            self.cancelled.set()
            raise
        vectors = tuple(array("f", VECTOR[: request.dimensions]).tobytes() for _ in request.inputs)
        cid = None if request.model == "base" else LAW.cid
        return EmbeddingAnswer(PEER, request.model, cid, vectors, 7, {"total": 4.0})

    def waits_for(self) -> str:
        return self.waiting

    def base(self) -> BaseInfo:
        return dataclasses.replace(BASE, waits_for=self.waiting)

    def base_card(self) -> bytes:
        return BASE_CARD

    async def status(self) -> StatusInfo:
        return StatusInfo(
            PEER,
            "0x" + "22" * 20,
            "gateway",
            "test",
            base="b179",
            addresses=("/ip4/127.0.0.1/tcp/1/p2p/" + PEER,),
            num_peers=1,
            uptime_s=2.5,
            engine=None,
            settlement=None,
            counters={"answers": 1},
            waits_for=self.waiting,
            coin=CoinInfo("LORI"),
        )

    async def metrics(self) -> bytes:
        return b"# a scrape\n"

    def log(self) -> LogInfo:
        return LogInfo(7, ("daemon: started", "engine: up"))

    def traces(self) -> list[Trace]:
        return [TRACE]

    def trace(self, which: str) -> Trace:
        if which not in (TRACE.trace, *TRACE.receipts):
            raise NotHere(f"no trace {which!r}")
        return TRACE

    async def checkup(self) -> list[Checked]:
        return [
            Checked("peers", "ok", "1 are connected"),
            Checked("gas", "wrong", "it has 0.000000 ETH", "send some ETH"),
        ]

    async def report(self) -> str:
        metrics = (await self.metrics()).decode()
        log = [f"2026-11-30 10:00:00 {line}" for line in self.log().lines]
        versions = {"python": "3.11"}
        return write_report(Report(versions, {}, await self.checkup(), metrics, log), ())

    async def adapters(self) -> list[AdapterInfo]:
        return [LAW]

    def held(self) -> list[HeldInfo]:
        return [HELD, MIXED]

    def arriving(self) -> list[ArrivingInfo]:
        return [ArrivingInfo("verse", "bafkreiverse", 1_800_000, 900_000)]

    async def web(self) -> WebInfo:
        offered = OfferedInfo("law", LAW.creator, LAW.licence, LAW.description)
        return WebInfo(PEER, "test", BASE.digest, BASE.card, (LAW.creator,), (offered,), None)

    async def take_websocket(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        await below.aclose()

    def peers(self) -> list[PeerInfo]:
        return [PeerInfo("16Uiu2HAmOther", "/ip4/127.0.0.1/tcp/2", ("volunteer",))]

    def banned(self) -> list[BannedInfo]:
        return list(self.bans)

    async def ban(self, peer_id: str, why: str) -> list[BannedInfo]:
        self.bans = (BannedInfo(peer_id, why, 1_794_000_000), *self.bans)
        return self.banned()

    def unban(self, peer_id: str) -> list[BannedInfo]:
        if peer_id not in [one.peer_id for one in self.bans]:
            raise BadRequest(f"{peer_id} is not banned; `lorikeet peers banned` lists who is")
        self.bans = tuple(one for one in self.bans if one.peer_id != peer_id)
        return self.banned()

    async def pull(self, model: str) -> PullReport:
        self._known(model)
        return PullReport(
            model,
            LAW.cid,
            LAW.size_bytes,
            3.0,
            fetch_ms=20.0,
            verify_ms=1.0,
            load_ms=8.0,
            blocks_by_peer={"16Uiu2HAmOther": 8},
            rejected=(("16Uiu2HAmLiar", "bafkreiblock", "wrong bytes"),),
        )

    async def unpin(self, model: str) -> AdapterInfo:
        self._known(model)
        return LAW

    async def show(self, model: str) -> ShownInfo:
        self._known(model)
        return SHOWN_LAW

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        if model != "law":
            raise UnknownModel(model, ["law"])
        return FILES

    async def push(
        self,
        folder: Path,
        key: Path | None = None,
        told: PushTold | None = None,
        *,
        in_place: bool = False,
    ) -> AdapterInfo:
        if self.error is not None:
            raise self.error
        (self.imported if in_place else self.pushed).append(folder)
        self.told = told
        return LAW

    async def find_on_disk(self, path: Path) -> list[FoundInfo]:
        return list(FOUND)

    async def search(self, wanted: SearchRequest) -> list[AdapterInfo]:
        self.searched.append(wanted)
        return [LAW]

    async def versions(self, name: str) -> list[VersionInfo]:
        if name != "law":
            raise UnknownModel(name)
        return [VERSION]

    async def roll_back(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        return [dataclasses.replace(VERSION, name=version)]

    async def retract(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        return [dataclasses.replace(VERSION, name=version, cid=None, is_meant=False)]

    async def receipts(self) -> list[ReceiptInfo]:
        return [RECEIPT]

    async def receipt(self, digest: str) -> bytes:
        if digest != RECEIPT.digest:
            raise NoReceipt(digest)
        return b"\x93signed"

    async def why(self, digest: str) -> WhyInfo:
        if digest != RECEIPT.digest:
            raise NoReceipt(digest)
        return dataclasses.replace(WHY, verdict=self.verdict)

    async def verify_answer(self, digest: str, *, opened: bool = False) -> VerifyInfo:
        if digest != RECEIPT.digest:
            raise NoReceipt(digest)
        attestation = SHOWN.hex() if opened else ""
        return dataclasses.replace(VERIFIED, verdict=self.verdict, attestation=attestation)

    async def recompute(self, attestation: bytes) -> VerifyInfo:
        assert attestation == SHOWN
        return dataclasses.replace(
            VERIFIED, verdict=self.verdict, auditor=ATTESTED.auditor, attested="agrees"
        )

    async def audit(self, said: AuditSaid) -> AuditInfo:
        self.audited.append(said)
        return dataclasses.replace(AUDITED, verdict=self.verdict)

    async def recheck(self, report: Path) -> RecheckInfo:
        return dataclasses.replace(RECHECKED, verdict=self.verdict, commitment=report.name)

    def attestations(self) -> list[AttestationInfo]:
        return [ATTESTED]

    async def channels(self) -> list[ChannelInfo]:
        return [CHANNEL]

    async def withdraw(self, channel: str | None) -> list[ChannelInfo]:
        if channel not in (None, CHANNEL.channel):
            raise BadRequest(f"no channel {channel}")
        return [dataclasses.replace(CHANNEL, state="withdrawing", available_at=1_800_000_000)]

    async def governance(self) -> GovernanceInfo:
        return governance_info((VOTED,), 1_794_000_000, (PROPOSAL,))

    async def simulate(self, number: str) -> SimulationInfo:
        if number != str(PROPOSAL.id):
            raise BadRequest(f"no proposal has the number {number}")
        return simulation_info(PROPOSAL, SIMULATED, [b"\x22" * 20])

    async def earnings(self) -> list[EarningsInfo]:
        return [EarningsInfo("0x" + "22" * 20, 620, 300, 1_000)]

    async def stuck(self) -> list[StuckInfo]:
        return [STUCK]

    def _known(self, model: str) -> None:
        if model not in ("law", "base"):
            raise UnknownModel(model, ["law"])


@asynccontextmanager
async def serve_twin(twin: Twin, allowed_hosts: tuple[str, ...] = ()) -> AsyncIterator[str]:
    """The twin behind the real HTTP server; yields its URL."""
    sock = listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_http, allowed_hosts=allowed_hosts), twin, sock)
        yield url_of(sock)
        nursery.cancel_scope.cancel()
