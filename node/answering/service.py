"""Answers one request, from its text to its receipt.

The story is `_answer`: text → question → who is asked → tokens → text → how it ended. Decides who
is asked next when a node fails, also in the middle of its answer; does not know how a stream is
paid (wire/) or where text is cut (stream.py).
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from p2p.cid import Cid
from p2p.errors import InvalidInput
from p2p.identity import public_key_of
from p2p.peers import PeerAddress
from proofs.attribution.shares import AdapterTerms
from proofs.receipt import BARE_BASE

from ..api.answers import (
    AUTO,
    Chosen,
    CompletionEvent,
    CompletionRequest,
    Continued,
    Delta,
    Ended,
    MixedIn,
    Started,
)
from ..api.traces import RECEIPT, Attribute
from ..attributing.attributor import Attributor
from ..distributions import Answered
from ..errors import (
    BY_CODE,
    BadRequest,
    EngineLost,
    NodeAtOdds,
    NodeCheated,
    NodeError,
    NodeRefused,
    NodeVanished,
    NoProvider,
)
from ..telemetry import Telemetry
from ..wire.client_session import Question
from ..wire.infer import MAX_PROMPT_TOKENS, MAX_TOKENS
from ..wire.quote import AskQuote
from .checks import check_request
from .choosing import Chooser, Learn, learn_nothing
from .peers import AnswerEnd, Call, Peer, Peers, Tokens
from .race import Entry, Race
from .reading import (
    call_reader_of,
    choosing_of,
    client_seed,
    prompt_ids_of,
    with_followable_schema,
    words_of,
)
from .rest import Rest
from .router import Router
from .stream import AnswerSender, Writer, open_answer, spell
from .times import Times, code_of
from .tokenizer import BaseTokenizer

STALL_S = 3.0  # a node that answers, and says nothing for so long, is lost if there is another one
RECEIPT_S = 15.0  # the same of one whose tokens say that it ended: no other node has its receipt
BEGIN_DEADLINE_S = 60.0  # so long after a question comes some other node must have made an offer
MAX_LOST = 3  # so many nodes may be lost in the middle of one answer
RESUME_DEADLINE_S = 20.0  # so long after the last token somebody must go on
RESUME_PAUSE_S = 0.25
OPERATION = "chat"
MEASURED = ("connect", "fetch", "verify", "load", "queue", "prefill", "first_token")
"""Parts of an answer that its trace tells; another node may name any."""


class Catalogue(Protocol):
    """What the service asks about adapters."""

    @property
    def base(self) -> bytes:
        """Return the digest of the base that this daemon knows."""

    async def resolve(self, model: str, are_wanted: Callable[[Cid], bool]) -> Cid | None:
        """Return the adapter that a text names; None is the bare base. Raises UnknownModel.

        Its providers may be looked up meanwhile if they `are_wanted`.
        """

    async def providers(self, cid: Cid) -> Sequence[PeerAddress]:
        """Find the peers that provide it."""

    async def terms(self, cid: Cid) -> AdapterTerms:
        """Return who shares a fee for it."""

    async def vet(self, cid: Cid) -> None:
        """Raise AdapterError for an adapter that is not to be paid for, since its weights are
        somebody else's.
        """

    def cocktail(self, cid: Cid | None) -> bytes:
        """Return the bytes of a cocktail, empty for what is none."""

    def choose(self, prompt: str) -> Chosen:
        """Choose an adapter for a prompt."""

    def parents(self, cid: Cid | None) -> tuple[MixedIn, ...]:
        """Return what a cocktail is mixed of; nothing for what is none."""


@dataclass(frozen=True)
class Meant:
    """A model: the text that resolves to it, what it is called, and how `auto` came to it."""

    text: str
    model: str
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Weighed:
    """What decides an answer's price: its lengths in tokens, and who shares its fee (None: the bare
    base).
    """

    prompt_tokens: int
    max_tokens: int
    terms: AdapterTerms | None


class Service:
    """Answers requests from this daemon's own faces, here or on the network."""

    def __init__(
        self,
        tokenizer: BaseTokenizer,
        catalogue: Catalogue,
        router: Router,
        peers: Peers,
        telemetry: Telemetry,
        max_answer_tokens: Callable[[], int],
        attributor: Attributor | None = None,
        learn_stake: Learn = learn_nothing,
    ) -> None:
        self._attributor = attributor
        self._tokenizer = tokenizer
        self._max_answer_tokens = max_answer_tokens
        self._catalogue = catalogue
        self._router = router
        self._peers = peers
        self._telemetry = telemetry
        self._chooser = Chooser(catalogue, router, peers, telemetry, learn_stake)

    @asynccontextmanager
    async def complete(
        self, request: CompletionRequest, nursery: trio.Nursery, seller: Peer | None = None
    ) -> AsyncIterator[AsyncIterator[CompletionEvent]]:
        """Answer one request in `nursery`; leaving the block early cancels it everywhere.

        A `seller` alone may answer it, where there is one.
        """
        sender, receiver = open_answer()
        scope = trio.CancelScope()
        run = partial(self._run, request, sender, scope, nursery, seller=seller)
        nursery.start_soon(run)
        try:
            yield receiver
        finally:
            scope.cancel()

    async def weigh(self, request: CompletionRequest, usual_tokens: int) -> Weighed:
        """Return what decides the price of an answer; nothing is computed or fetched for it but the
        manifest of its adapter. Raises BadRequest, UnknownModel, NoProvider.
        """
        checked, _ = with_followable_schema(check_request(request))
        num_prompt = len(prompt_ids_of(self._tokenizer, checked))
        cid = await self._catalogue.resolve(self._choose(checked).text, lambda _: False)
        terms = await self._catalogue.terms(cid) if cid else None
        return Weighed(num_prompt, min(request.max_tokens or usual_tokens, MAX_TOKENS), terms)

    def count_tokens(self, request: CompletionRequest) -> int:
        """Count the tokens of a request's prompt. Raises BadRequest."""
        return len(prompt_ids_of(self._tokenizer, check_request(request)))

    async def _run(
        self,
        request: CompletionRequest,
        answer: AnswerSender,
        scope: trio.CancelScope,
        nursery: trio.Nursery,
        *,
        seller: Peer | None,
    ) -> None:
        """Answer until the answer ends, fails or is cancelled; report any failure to whoever
        asked.
        """
        times = Times(request.trace)
        error_code = "left"
        try:
            with scope, self._begun_in_time(request, answer, seller):
                await self._answer(request, answer, nursery, times, seller=seller)
                error_code = ""
        except NodeError as error:
            error_code = code_of(error)
            self._telemetry.count("requests_failed")
            answer.fail(error)
        except Exception as error:  # our own bug, or a full disk: it costs this answer alone
            error_code = code_of(error)
            self._telemetry.count("requests_failed")
            self._telemetry.log(f"answer: {''.join(traceback.format_exception(error))}")
            answer.fail(
                NodeError(
                    f"this daemon failed while it answered: {error!r}; its log has the whole story"
                )
            )
        finally:
            answer.close()
            if error_code:
                about = {"gen_ai.operation.name": OPERATION, "error.type": error_code}
                self._note(times, OPERATION, about, error=error_code)

    @contextmanager
    def _begun_in_time(
        self, request: CompletionRequest, answer: AnswerSender, seller: Peer | None
    ) -> Iterator[None]:
        """Raise NoProvider where nobody begins in time, however many nodes are looked for, asked
        and waited for; the own engine may have to load a base or an adapter first.
        """
        is_here = seller is not None or self._router.serves_here(request.node)
        try:
            with answer.begun_within(math.inf if is_here else BEGIN_DEADLINE_S):
                yield
        except trio.TooSlowError:
            raise NoProvider(
                f"no node made an offer for {request.model!r} within {BEGIN_DEADLINE_S:.0f} s: who"
                " serves it, or this machine, has too much to do; ask again later"
            ) from None

    def _note(
        self,
        times: Times,
        name: str,
        about: Mapping[str, Attribute],
        *,
        error: str = "",
        receipt: bytes | None = None,
    ) -> None:
        """Keep an answer's trace."""
        paid = {RECEIPT: receipt.hex()} if receipt else {}
        spans = times.trace(name, {**about, **paid}, error)
        self._telemetry.traces.note(times.context.trace, spans, paid.get(RECEIPT))

    async def _answer(
        self,
        request: CompletionRequest,
        answer: AnswerSender,
        nursery: trio.Nursery,
        times: Times,
        *,
        seller: Peer | None,
    ) -> None:
        """Turn text into a question, ask the best peer first, turn tokens into text, and say how it
        ended. What is asked for later requests goes on in `nursery`.
        """
        request, not_enforced = with_followable_schema(check_request(request))
        _check_node(request.node)
        prompt_ids = prompt_ids_of(self._tokenizer, request)
        max_tokens = await self._room(request, len(prompt_ids))
        meant = self._choose(request)
        with times.measure("lookup"):
            are_wanted = partial(self._chooser.lacks_providers, request.node)
            cid = await self._catalogue.resolve(meant.text, are_wanted)
        wanted = self._wanted(prompt_ids, max_tokens, cid)
        find = partial(self._find, request, wanted, nursery, times, seller=seller)
        peers = await find()
        with self._under_way(peers):
            with times.measure("lookup"):
                question = await self._question(request, prompt_ids, max_tokens, cid)
            rest = Rest(question)
            echo = await self._echo(request, question) if request.echo else None
            calls = call_reader_of(self._tokenizer, request)
            writer = Writer(answer, self._tokenizer, request.stop, calls, echo)
            if request.max_tokens == 0:
                self._tell(self._peers.here(), rest, meant, writer=writer, times=times)
                nothing = AnswerEnd("length", 0, None, neighbours=1)
                self._end(
                    request, question, nothing, meant, not_enforced=(), writer=writer, times=times
                )
                return
            outcome = await self._ask_until_whole(
                request, find, peers, rest, meant, writer=writer, times=times
            )
        self._end(
            request, question, outcome, meant, not_enforced=not_enforced, writer=writer, times=times
        )

    def _choose(self, request: CompletionRequest) -> Meant:
        """Return which model is meant; `auto` is the one that fits the prompt."""
        if request.model != AUTO:
            return Meant(request.model, request.model)
        chosen = self._catalogue.choose(words_of(request.prompt))
        return Meant(chosen.model.cid or chosen.model.model, chosen.model.model, chosen)

    async def _echo(self, request: CompletionRequest, question: Question) -> Delta:
        """Return the prompt as the beginning of its answer."""
        ids = question.prompt_ids
        given = request.prompt
        text = given if isinstance(given, str) else self._tokenizer.decode(ids)
        if request.logprobs is None:
            return Delta(text, ())
        if not self._router.serves_here(request.node):
            raise BadRequest(
                "the log-probabilities of a prompt (echo with logprobs) are computed by a daemon's"
                " own engine alone, since the protocol between nodes does not carry them; ask a"
                " daemon with an engine, or leave out one of the two"
            )
        reports = await self._peers.score(ids, question.adapter, request.logprobs)
        spelled = [
            spell(self._tokenizer, token, report)
            for token, report in zip(ids, (None, *reports), strict=True)
        ]
        return Delta(text, (), tuple(spelled))

    async def _room(self, request: CompletionRequest, num_prompt: int) -> int:
        """Return how many tokens the answer may have: what is asked for, as far as it fits."""
        if self._router.serves_here(request.node):
            most = await self._peers.context_tokens() - num_prompt
        elif num_prompt > MAX_PROMPT_TOKENS:
            raise BadRequest(
                f"the prompt has {num_prompt} tokens; other nodes take {MAX_PROMPT_TOKENS}"
            )
        elif request.max_tokens is None:
            most = min(self._max_answer_tokens(), MAX_TOKENS)
        else:
            most = MAX_TOKENS
        # With no room at all, whoever would answer says so.
        return max(min(request.max_tokens or most, most), 1)

    async def _ask_until_whole(
        self,
        request: CompletionRequest,
        find: Callable[[], Awaitable[list[Peer]]],
        peers: Sequence[Peer],
        rest: Rest,
        meant: Meant,
        *,
        writer: Writer,
        times: Times,
    ) -> AnswerEnd:
        """Have the answer made: whoever makes the first offer begins, and where one is lost another
        goes on.
        """
        failure: NodeError = NoProvider(
            f"no node serves {request.model!r} now; is one running and connected?"
        )

        def on_failure(peer: Peer, error: NodeError) -> None:
            nonlocal failure
            failure = self._failed(peer, error, rest)

        left = list(peers)
        while True:
            while left:
                race = Race(left, self._patience, on_failure)
                attempt = partial(self._ask, rest=rest, meant=meant, writer=writer, times=times)
                outcome = await race.run(attempt)
                if outcome is not None:
                    return outcome
                if writer.stopped or rest.ended:
                    return AnswerEnd(rest.ended or "stop", 0, None, neighbours=1)
                rest.lose(str(failure))
            if not 0 < rest.num_lost <= MAX_LOST or rest.silent_s > RESUME_DEADLINE_S:
                raise failure
            # In the middle of an answer a node that starts again, or a new one, is waited for.
            await trio.sleep(RESUME_PAUSE_S)
            left = await find()

    async def _question(
        self,
        request: CompletionRequest,
        prompt_ids: Sequence[int],
        max_tokens: int,
        cid: Cid | None,
    ) -> Question:
        """Put the request in the engine's terms.

        Who shares the fee is looked up only where there is a fee: nobody pays himself, so an answer
        by one's own engine does not wait for the manifest here.
        """
        is_paid = not self._router.serves_here(request.node)
        if cid and is_paid:
            await self._catalogue.vet(cid)
        terms = await self._catalogue.terms(cid) if cid and is_paid else None
        adapter = cid.digest if cid else BARE_BASE
        return Question(
            base=self._catalogue.base,
            adapter=adapter,
            prompt_ids=tuple(prompt_ids),
            max_tokens=max_tokens,
            terms=choosing_of(self._tokenizer, request),
            logprobs=request.logprobs,
            stop_ids=self._tokenizer.stop_ids,
            client_seed=client_seed(request.seed),
            attribution=terms,
            cocktail=self._catalogue.cocktail(cid),
            is_attributed=not request.private and self._can_draw(adapter, terms),
            is_private=request.private,
        )

    def _can_draw(self, adapter: bytes, terms: AdapterTerms | None) -> bool:
        """Return whether what an answer draws on can be recomputed here; what it takes is fetched
        for the next one.
        """
        is_attributed = terms is not None and any(one is not None for one in terms.num_attributed)
        if self._attributor is None or not is_attributed:
            return False
        if self._attributor.can_draw(adapter):
            return True
        self._attributor.want(adapter)
        self._telemetry.log(
            f"service: the index of {Cid(adapter)} is not here yet: this answer pays by standing"
            " weights"
        )
        return False

    async def _find(
        self,
        request: CompletionRequest,
        wanted: AskQuote,
        nursery: trio.Nursery,
        times: Times,
        *,
        seller: Peer | None,
    ) -> list[Peer]:
        """List who may answer, best first: who sells it, this node, or else other nodes."""
        if seller is not None:
            return [seller]
        if self._router.serves_here(request.node):
            return [self._peers.here()]
        if request.node is not None:
            return [await self._chooser.find_named(request.node, wanted)]
        with times.measure("lookup"):
            providers = await self._chooser.find_providers(wanted)
        with times.measure("quote"):
            return await self._chooser.choose(providers, wanted, nursery)

    @contextmanager
    def _under_way(self, peers: Sequence[Peer]) -> Iterator[None]:
        """Count a request at the first choice until the block ends, so that others spread."""
        with ExitStack() as stack:
            if peers:
                first = peers[0].peer_id
                stack.enter_context(self._router.beliefs.under_way(first, trio.current_time()))
            yield

    def _wanted(self, prompt_ids: Sequence[int], max_tokens: int, cid: Cid | None) -> AskQuote:
        most = self._peers.most
        return AskQuote(
            base=self._catalogue.base,
            adapter=cid.digest if cid else BARE_BASE,
            parents=[Cid.parse(one.cid).digest for one in self._catalogue.parents(cid)],
            prompt_tokens=len(prompt_ids),
            max_tokens=min(max_tokens, MAX_TOKENS),
            prompt_price=most.prompt,
            completion_price=most.completion,
        )

    def _failed(self, peer: Peer, error: NodeError, rest: Rest) -> NodeError:
        """Record a peer's failure; re-raise it where no other peer can do better: the peer was not
        to blame, or tokens came from one that cheats.
        """
        self._router.failed(peer.peer_id, trio.current_time())
        if isinstance(error, NodeCheated | NodeAtOdds):
            self._telemetry.reject("answer", peer.peer_id, str(error))
        if not _may_go_on(error, rest):
            raise error
        self._telemetry.log(f"service: {error}; trying another node")
        return error

    # --- one peer's whole answer ---

    async def _ask(
        self, entry: Entry, *, rest: Rest, meant: Meant, writer: Writer, times: Times
    ) -> AnswerEnd:
        """Have one peer make the rest of the answer, if its offer is the first.

        One that says nothing for STALL_S while it should answer counts as lost.
        """
        peer = entry.peer
        began = trio.current_time()
        with (
            times.step("ask", kind="client", peer=peer.peer_id, after=rest.num_tokens) as asking,
            self._noting_late(entry, began),
        ):
            opening = time.perf_counter()
            async with peer.ask(rest.question) as call:
                opened_ms = await call.open()
                await entry.win()
                now = trio.current_time()
                connect_s = opened_ms.get("connect", 0.0) / 1000  # once, it is no habit
                self._router.offered(peer.peer_id, now - began - connect_s, now)
                times.note("offer", opening, asking)
                times.add(opened_ms)
                rest.begin(call.seed)
                self._tell(peer, rest, meant, writer=writer, times=times)
                with times.step("channel and voucher", asking):
                    await call.accept()
                await self._hear(call, entry, rest, asking, writer=writer, times=times)
                with times.step("receipt", asking):
                    return await call.finish()

    @contextmanager
    def _noting_late(self, entry: Entry, began_s: float) -> Iterator[None]:
        """Note of a peer that is left for another one how long it made no offer, in whichever step
        it was waited for: one that is frozen opens no stream.
        """
        try:
            yield
        except trio.Cancelled:
            if entry.was_left:
                now = trio.current_time()
                self._router.late(entry.peer.peer_id, now - began_s, now)
            raise

    async def _hear(
        self, call: Call, entry: Entry, rest: Rest, asking: str, *, writer: Writer, times: Times
    ) -> None:
        """Take the tokens of an answer that is paid, to its end. `asking`: of which step this is
        part.
        """
        began = time.perf_counter()
        before = rest.num_tokens
        paid_at: float | None = trio.current_time()
        while (tokens := await _within(call, entry, rest)) is not None:
            if not tokens.token_ids:
                continue
            times.mark("first_token")
            if paid_at is not None:
                now = trio.current_time()
                took_s = now - paid_at
                self._router.beliefs.learn(
                    entry.peer.peer_id, rest.question.adapter, took_s, now_s=now
                )
                times.note("first token", began, asking)
                began = time.perf_counter()
                paid_at = None
            if (gap_s := rest.take(tokens.token_ids)) is not None:
                times.longest("resume", gap_s * 1000)
            if writer.put(tokens.token_ids, tokens.logprobs):
                await call.stop()
        times.note("answer", began, asking, attributes={"tokens": rest.num_tokens - before})

    def _tell(self, peer: Peer, rest: Rest, meant: Meant, *, writer: Writer, times: Times) -> None:
        """Say who answers from here on."""
        if rest.num_tokens:
            writer.write(Continued(peer.peer_id, rest.num_tokens, rest.why_lost))
            return
        adapter = rest.question.adapter
        cid = None if adapter == BARE_BASE else str(Cid(adapter))
        num_prompt = len(rest.question.prompt_ids)
        parents = self._catalogue.parents(Cid(adapter)) if rest.question.cocktail else ()
        writer.write(
            Started(
                peer.peer_id,
                meant.model,
                cid,
                times.as_dict(),
                num_prompt,
                parents=parents,
                chosen=meant.chosen,
            )
        )

    def _patience(self, peer: Peer) -> float:
        """How long (s) to wait for a peer's offer before another one is asked as well."""
        return self._router.patience(peer.peer_id, trio.current_time())

    def _end(
        self,
        request: CompletionRequest,
        question: Question,
        outcome: AnswerEnd,
        meant: Meant,
        *,
        not_enforced: tuple[str, ...],
        writer: Writer,
        times: Times,
    ) -> None:
        times.add(outcome.timings_ms)
        times.mark("total")
        writer.flush()
        reason = "stop" if writer.stopped else outcome.reason
        # Where the other node's context was full, the answer could have no more than it has.
        most = writer.num_tokens if reason == "length" else question.max_tokens
        writer.write(
            Ended(
                reason=reason,
                prompt_tokens=len(question.prompt_ids),
                completion_tokens=writer.num_tokens,
                amount=outcome.amount,
                receipt=outcome.receipt.hex() if outcome.receipt else None,
                timings_ms=times.as_dict(),
                neighbours=outcome.neighbours,
                max_tokens=None if most == request.max_tokens else most,
                stop_text=writer.stop_text,
                not_enforced=not_enforced,
            )
        )
        self._telemetry.count("requests_answered")
        self._telemetry.answered(
            _answered(times.as_dict(), len(question.prompt_ids), writer.num_tokens)
        )
        about = _about(request, question, reason, writer.num_tokens, times=times)
        self._note(times, f"{OPERATION} {meant.model}", about, receipt=outcome.receipt)


def _about(
    request: CompletionRequest, question: Question, reason: str, num_tokens: int, *, times: Times
) -> dict[str, Attribute]:
    """Say of an answer what OpenTelemetry's conventions for generative AI have names for, and how
    long the parts took that the engine measured.
    """
    adapter = question.adapter
    parts_ms = times.as_dict()
    return {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": "lorikeet",
        "gen_ai.response.model": "base" if adapter == BARE_BASE else str(Cid(adapter)),
        "gen_ai.usage.input_tokens": len(question.prompt_ids),
        "gen_ai.usage.output_tokens": num_tokens,
        "gen_ai.response.finish_reasons": reason,
        **{f"lorikeet.{part}_ms": parts_ms[part] for part in MEASURED if part in parts_ms},
    }


def _answered(parts_ms: Mapping[str, float], num_prompt: int, num_answer: int) -> Answered:
    first_ms = parts_ms.get("first_token")
    return Answered(
        "face",
        num_prompt,
        num_answer,
        whole_s=parts_ms["total"] / 1000,
        first_token_s=None if first_ms is None or not num_answer else first_ms / 1000,
    )


def _check_node(node: str | None) -> None:
    if node is not None:
        try:
            public_key_of(node)
        except InvalidInput as error:
            raise BadRequest(f"node {node!r} is not a peer id: {error}") from error


def _may_try_elsewhere(error: NodeError) -> bool:
    """Return whether another node could succeed where this one did not."""
    if isinstance(error, NodeRefused):
        return BY_CODE[error.code].elsewhere
    return isinstance(error, NodeVanished | NodeCheated | NodeAtOdds | NoProvider)


def _may_go_on(error: NodeError, rest: Rest) -> bool:
    """Return whether a peer may make the rest of the answer: another one, or this node's engine
    when it is up again.
    """
    if isinstance(error, EngineLost):
        return rest.num_tokens > 0
    if isinstance(error, NodeCheated) and rest.num_tokens:
        return False  # what came may be junk as well
    return _may_try_elsewhere(error)


async def _within(call: Call, entry: Entry, rest: Rest) -> Tokens | None:
    """Wait for the next tokens, or a sign that the peer is at work; without limit where there is
    nobody else.
    """
    stall_s = RECEIPT_S if rest.ended else STALL_S
    with trio.move_on_after(stall_s if entry.has_rivals else math.inf):
        return await call.next_tokens()
    raise NodeVanished(
        f"node {entry.peer.peer_id} said nothing for {stall_s:.0f} s after {rest.num_tokens} tokens"
    )
