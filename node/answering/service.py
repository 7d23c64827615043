"""One request, from its text to its receipt.

The story is `_answer`; how a stream is paid, who is asked and how text is cut stand elsewhere.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from engine import messages as m
from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.host import Host
from p2p.identity import public_key_of
from p2p.peers import PeerAddress

from ..api import CompletionEvent, CompletionRequest, Ended, Started
from ..catalogue.holding import Adapters
from ..engine_host import EngineHost
from ..errors import (
    BadRequest,
    NodeCheated,
    NodeError,
    NodeRefused,
    NodeVanished,
    NoEngine,
    NoProvider,
    PaymentError,
    RemoteError,
)
from ..money.metering import BASE_ADAPTER
from ..telemetry import Telemetry
from ..wire.infer import Done
from .answer import Answer, Writer
from .remote import Caller, Question
from .router import Router
from .sampling import check_request, sampling_of, terms_of
from .tokenizer import BaseTokenizer

TRY_ELSEWHERE = ("busy", "engine_lost", "engine_failed", "no_provider", "internal", "wrong_base")


@dataclass
class Job:
    """One request on its way: what was asked, what it means, and the clock of its parts."""

    request: CompletionRequest
    prompt_ids: list[int]
    cid: Cid | None
    started: float
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def adapter(self) -> bytes:
        """The adapter's digest, zeros for the bare base."""
        return self.cid.digest if self.cid else BASE_ADAPTER

    def note(self, name: str, since: float) -> None:
        """Add the time since `since` to a part."""
        self.timings_ms[name] = (
            self.timings_ms.get(name, 0.0) + (time.perf_counter() - since) * 1000
        )

    def merge(self, timings_ms: dict[str, float]) -> None:
        """Add parts that were measured elsewhere."""
        for name, value in timings_ms.items():
            self.timings_ms[name] = self.timings_ms.get(name, 0.0) + value


class Service:
    """Answers requests of this daemon's own faces, here or on the network.

    `engine` None asks the network only.
    """

    def __init__(
        self,
        host: Host,
        tokenizer: BaseTokenizer,
        adapters: Adapters,
        router: Router,
        engine: EngineHost | None,
        caller: Caller,
        telemetry: Telemetry,
    ) -> None:
        self._host = host
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._router = router
        self._engine = engine
        self._caller = caller
        self._telemetry = telemetry

    @asynccontextmanager
    async def complete(
        self, request: CompletionRequest, nursery: trio.Nursery
    ) -> AsyncIterator[AsyncIterator[CompletionEvent]]:
        """Answer one request in `nursery`; leaving the block early cancels it everywhere."""
        answer = Answer(request.max_tokens, self._telemetry.log)
        nursery.start_soon(answer.run, self._answer, request)
        try:
            yield answer
        finally:
            answer.cancel()

    async def _answer(self, request: CompletionRequest, answer: Answer) -> None:
        """Text → ids → which adapter → who serves it → tokens → text → how it ended."""
        check_request(request)
        _check_node(request.node)
        started = time.perf_counter()
        job = Job(
            request,
            self._tokenizer.encode_prompt(request.prompt),
            await self._adapters.resolve(request.model),
            started,
        )
        job.note("lookup", started)
        writer = Writer(answer, self._tokenizer, request.stop)
        if self._router.serves_here(request.node):
            await self._answer_here(job, writer)
        else:
            await self._answer_there(job, writer)
        self._telemetry.count("requests_answered")

    # --- by this node's own engine: nobody pays himself ---

    async def _answer_here(self, job: Job, writer: Writer) -> None:
        if self._engine is None:
            raise NoEngine("this daemon runs no engine; name another node")
        request = job.request
        engine = self._engine
        await engine.wait_up()
        if job.cid is not None:
            job.merge((await self._adapters.hold(job.cid)).timings_ms)
        writer.write(
            Started(
                self._host.peer_id,
                request.model,
                str(job.cid) if job.cid else None,
                dict(job.timings_ms),
            )
        )
        sampling = sampling_of(terms_of(request), _client_seed(request.seed))
        adapter = job.cid.digest if job.cid else None
        limits = (request.max_tokens, request.max_tokens)
        async with engine.generate(
            job.prompt_ids, adapter, sampling, *limits, self._tokenizer.stop_ids, request.logprobs
        ) as run:
            async for event in run:
                if isinstance(event, m.Finished):
                    job.merge(
                        {
                            "queue": event.queue_ms,
                            "load": event.load_ms,
                            "prefill": event.prefill_ms,
                            "decode": event.decode_ms,
                        }
                    )
                    self._end(job, writer, event.reason, 0, None, event.neighbours)
                    return
                self._note_first(job)
                if writer.put(event.token_ids, event.logprobs):
                    run.cancel()

    # --- by another node: a receipt for every answer ---

    async def _answer_there(self, job: Job, writer: Writer) -> None:
        """Try the nodes that serve this, best first; once a token came there is no other."""
        failure: NodeError = NoProvider(
            f"no node serves {job.request.model!r} now; is one running and connected?"
        )
        for peer in await self._places(job):
            try:
                await self._ask(peer, job, writer)
                return
            except (RemoteError, PaymentError) as error:
                self._router.failed(peer.peer_id, time.monotonic())
                if isinstance(error, NodeCheated):
                    self._telemetry.reject("answer", peer.peer_id, str(error))
                if writer.num_tokens or not _may_try_elsewhere(error):
                    raise
                failure = error
                self._telemetry.log(f"service: {error}; trying another node")
        raise failure

    async def _places(self, job: Job) -> tuple[PeerAddress, ...]:
        """Who may answer: the named node, else providers of the adapter, else those of the base
        (they can fetch the adapter).
        """
        named = job.request.node
        connected = {peer.peer_id for peer in self._host.peers()}
        if named in connected:
            return (PeerAddress(named),)
        began = time.perf_counter()
        base = Cid(self._adapters.base)
        providers = await self._providers(job.cid or base)
        if job.cid is not None and (not providers or named):
            providers = (*providers, *await self._providers(base))
        job.note("lookup", began)
        if named:
            return (
                next((peer for peer in providers if peer.peer_id == named), PeerAddress(named)),
            )
        return self._router.rank(providers, connected, time.monotonic()).peers

    async def _providers(self, cid: Cid) -> tuple[PeerAddress, ...]:
        known = self._router.recall(cid, time.monotonic())
        if known:
            return known
        found = await self._adapters.providers(cid)
        self._router.remember(cid, found, time.monotonic())
        return tuple(found)

    async def _ask(self, peer: PeerAddress, job: Job, writer: Writer) -> None:
        """One node's whole answer."""
        began = time.perf_counter()
        async with self._caller.call(peer, await self._question(job)) as call:
            job.note("connect", began)
            deal = await call.open()
            writer.write(
                Started(
                    peer.peer_id,
                    job.request.model,
                    str(job.cid) if job.cid else None,
                    job.timings_ms | dict(deal.offer.timings),
                )
            )
            try:
                while not isinstance(message := await call.next_tokens(deal), Done):
                    self._note_first(job)
                    if writer.put(message.token_ids, message.logprobs):
                        await call.stop_soon()
            except trio.Cancelled:
                await call.settle_early(deal)
                raise
            outcome = await call.finish(deal, message)
        job.merge(outcome.timings_ms)
        self._end(job, writer, outcome.reason, outcome.amount, outcome.receipt, outcome.neighbours)

    async def _question(self, job: Job) -> Question:
        request = job.request
        manifest = await self._adapters.manifest(job.cid) if job.cid else None
        return Question(
            base=self._adapters.base,
            adapter=job.adapter,
            prompt_ids=tuple(job.prompt_ids),
            max_tokens=request.max_tokens,
            terms=terms_of(request),
            logprobs=request.logprobs,
            stop_ids=self._tokenizer.stop_ids,
            client_seed=_client_seed(request.seed),
            shares=lambda owner: self._adapters.shares(owner, manifest),
        )

    # --- both ---

    def _note_first(self, job: Job) -> None:
        if "first_token" not in job.timings_ms:
            job.note("first_token", job.started)

    def _end(
        self,
        job: Job,
        writer: Writer,
        reason: str,
        amount: int,
        receipt: bytes | None,
        neighbours: int,
    ) -> None:
        job.note("total", job.started)
        reason = "stop" if writer.stopped else reason
        writer.flush()
        writer.write(
            Ended(
                reason,
                len(job.prompt_ids),
                writer.num_tokens,
                amount,
                receipt=receipt.hex() if receipt else None,
                timings_ms=dict(job.timings_ms),
                neighbours=neighbours,
            )
        )


def _check_node(node: str | None) -> None:
    if node is not None:
        try:
            public_key_of(node)
        except InvalidInput as error:
            raise BadRequest(f"node {node!r} is not a peer id: {error}") from error


def _may_try_elsewhere(error: NodeError) -> bool:
    """Whether another node could do what this one did not."""
    if isinstance(error, NodeRefused):
        return error.code in TRY_ELSEWHERE
    return isinstance(error, NodeVanished | NodeCheated | NoProvider)


def _client_seed(seed: int | None) -> bytes:
    """The client's half of the sampling seed: random, or fixed by the request."""
    return (
        secrets.token_bytes(32)
        if seed is None
        else hashlib.sha256(b"lorikeet client seed %d" % seed).digest()
    )
