"""One engine: requests in, steps, messages out.

Synchronous and single-threaded; server.py gives it a socket and a clock.

    step():  schedule → begin → read → settle                     where steps are computed by this
             thread
    step():  read (the step before) → settle → schedule → begin   where a device computes beside it

On a device a step is *in flight* between two calls: messages go out and come in meanwhile. Where
the next step is certain but for its tokens, it is laid out before the one in flight is over and
begun before that one is settled, so that the device hardly waits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .batch import Batch
from .config import EngineConfig
from .errors import BadRequest, Busy, DeviceLost, EngineError, UnknownAdapter
from .grammar import GrammarDone, GrammarJob, Grammars, Matcher, check_grammar
from .kv.prefix import PrefixCache
from .lora.adapters import Adapters, CopyDone, LoadDone
from .messages import (
    MAX_STOP_IDS,
    Cancel,
    Failed,
    FailureCode,
    Finished,
    FinishReason,
    FromEngine,
    GetStats,
    Grant,
    HoldAdapter,
    ReleaseAdapter,
    Replay,
    Replayed,
    Stats,
    StepRecord,
    Submit,
    ToEngine,
    Tokens,
    Vocabulary,
)
from .runner import ChunkResult, Flight, Runner
from .sampler import MAX_LOGPROBS, Chooser, check_sampling
from .scheduler import Schedule, Scheduler
from .sequence import Sequence

MAX_STEP_RECORDS = 256
MAX_PRIORITY = 100


@dataclass(frozen=True)
class Limits:
    """What a request may be: ids below `vocab_size`, prompt and answer together at most
    `context_tokens`.
    """

    vocab_size: int
    context_tokens: int
    max_waiting: int
    max_waiting_tokens: int
    waiting_deadline_s: float
    parked_deadline_s: float

    @classmethod
    def of(cls, config: EngineConfig, vocab_size: int, context_tokens: int) -> Limits:
        """The limits of a configuration over a base."""
        waiting = (
            config.max_waiting,
            config.max_waiting_tokens,
            config.waiting_deadline_s,
            config.parked_deadline_s,
        )
        return cls(vocab_size, context_tokens, *waiting)


@dataclass(frozen=True)
class _InFlight:
    """A step that the device computes, and the requests of it that were cancelled since it
    began.
    """

    flight: Flight
    started_s: float
    cancelled: list[int] = field(default_factory=list)

    def holds(self, request_id: int) -> bool:
        """Whether the request takes part in it."""
        return any(chunk.sequence.request_id == request_id for chunk in self.flight.batch.chunks)


class Engine:
    """Feed it with `handle`, call `step` while it returns True, send what `take_messages` gives."""

    def __init__(
        self,
        limits: Limits,
        scheduler: Scheduler,
        runner: Runner,
        adapters: Adapters,
        pages: PrefixCache,
        grammars: Grammars,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._scheduler = scheduler
        self._runner = runner
        self._adapters = adapters
        self._pages = pages
        self._clock = clock
        self._grammars = grammars
        self._compiling: dict[int, Submit | Replay] = {}
        self._sequences: dict[int, Sequence] = {}
        self._in_flight: _InFlight | None = None
        self._outbox: list[FromEngine] = []
        self._records: deque[StepRecord] = deque(maxlen=MAX_STEP_RECORDS)
        self._arrivals = self._steps = self._tokens_generated = self._most_adapters = (
            self._tokens_drafted
        ) = self._tokens_accepted = 0

    def step(self) -> bool:
        """One forward pass, or the end of one and the beginning of the next, if anything can run.

        False: nothing changes until a message, a load or a deadline.
        """
        now = self._clock()
        before = self._in_flight
        self._in_flight = None
        if before is None:
            return self._begin(now)
        ahead = self._foresee(before, now)
        results = self._runner.read(before.flight)
        now = self._clock()
        if ahead is not None and all(_goes_on(result) for result in results):
            self._follow(*ahead, results, now)
            self._settle(results, before.started_s, now)
        else:
            self._settle(results, before.started_s, now)
            for request_id in before.cancelled:
                self._cancel(request_id)
            self._begin(now)
        return True

    def _begin(self, now_s: float) -> bool:
        """Begin a step, if anything can run; where this thread computes, it is over then."""
        self._expire(now_s)
        schedule = self._scheduler.schedule(now_s)
        self._adapters.renew_recalls()
        if not schedule.chunks:
            return False
        flight = self._runner.begin(schedule)
        if self._runner.runs_beside:
            self._in_flight = _InFlight(flight, now_s)
        else:
            self._settle(self._runner.read(flight), now_s, self._clock())
        return True

    def _foresee(self, before: _InFlight, now_s: float) -> tuple[Schedule, Batch] | None:
        """The step after the one in flight, laid out, where only the tokens are not known yet."""
        if before.cancelled or self._overdue(now_s):
            return None
        schedule = self._scheduler.foresee(before.flight.batch.chunks)
        return (
            None if schedule is None else (schedule, self._runner.prepare(before.flight, schedule))
        )

    def _follow(
        self, schedule: Schedule, batch: Batch, results: list[ChunkResult], now_s: float
    ) -> None:
        """Begin the step that was foreseen."""
        self._scheduler.follow(schedule)
        self._in_flight = _InFlight(self._runner.begin_prepared(schedule, batch, results), now_s)

    def handle(self, message: ToEngine) -> None:
        """Take one message from the daemon. Errors of a request become its `Failed`."""
        match message:
            case Submit() | Replay():
                self._accept(message)
            case Grant(request_id, credit):
                self._grant(request_id, credit)
            case Cancel(request_id):
                self._cancel(request_id)
            case HoldAdapter(adapter, config_path, weights_path):
                held = self._adapters.hold(adapter, Path(config_path), Path(weights_path))
                self._outbox += [held] if held else []
            case ReleaseAdapter(adapter):
                self._adapters.release(adapter)
            case Vocabulary():
                self._grammars.submit(message)
            case GetStats():
                self._outbox.append(self._stats())

    def receive(self, done: LoadDone | CopyDone | GrammarDone | DeviceLost) -> None:
        """Take what another thread has finished.

        A lost device is raised: nothing here can go on without it.
        """
        match done:
            case LoadDone():
                self._receive_adapter(done)
            case CopyDone():
                self._adapters.copied(done)
            case GrammarDone():
                self._receive_grammar(done)
            case DeviceLost():
                raise done

    def _receive_grammar(self, done: GrammarDone) -> None:
        """The request that waited for it is queued, unless it was cancelled meanwhile."""
        message = self._compiling.pop(done.job.request_id, None)
        if message is None:
            return
        if isinstance(done.outcome, Matcher):
            self._enqueue(message, done.outcome)
        else:
            self._refuse(message, done.outcome)

    def _receive_adapter(self, done: LoadDone) -> None:
        """Requests that wait for a refused one fail; so do those that were at work with it, where
        its bytes have left memory.
        """
        answer = self._adapters.receive(done)
        self._outbox += [answer] if answer else []
        stranded = [] if self._adapters.is_here(done.job.adapter) else self._scheduler.running
        for sequence in [*self._scheduler.waiting, *stranded]:
            if sequence.adapter == done.job.adapter:
                try:
                    self._adapters.check_known(sequence.adapter)
                except UnknownAdapter as error:
                    self._fail(sequence, "unknown_adapter", str(error))

    @property
    def num_compiling(self) -> int:
        """Requests whose grammar is being compiled."""
        return len(self._compiling)

    @property
    def num_copying(self) -> int:
        """Adapters on their way into a slot."""
        return self._adapters.num_copying

    def take_messages(self) -> list[FromEngine]:
        """What the daemon should hear, in order; empties the outbox."""
        messages = self._outbox
        self._outbox = []
        return messages

    def fail_all(self, message: str, code: FailureCode = "internal") -> None:
        """A step failed, by our own bug or for want of memory: every running request fails, waiting
        ones stay. The server calls it.
        """
        self._in_flight = (
            None  # whatever the device still writes, it writes before the next step begins
        )
        for sequence in list(self._scheduler.running):
            self._fail(sequence, code, message)

    def check(self) -> None:
        """All invariants of the stateful cores."""
        self._scheduler.check()
        self._adapters.check()
        assert {id(s) for s in self._sequences.values()} == {
            id(s) for s in self._scheduler.running + self._scheduler.waiting
        }

    # --- requests ---

    def _accept(self, message: Submit | Replay) -> None:
        try:
            self._check(message)
        except EngineError as error:
            self._refuse(message, error)
            return
        grammar = message.sampling.choosing.grammar
        if grammar is None:
            self._enqueue(message, None)
        else:
            self._compiling[message.request_id] = message
            self._grammars.submit(GrammarJob(message.request_id, grammar))

    def _enqueue(self, message: Submit | Replay, matcher: Matcher | None) -> None:
        try:
            if message.adapter is not None:
                self._adapters.check_known(message.adapter)
                self._adapters.use(message.adapter)
        except EngineError as error:
            self._refuse(message, error)
            return
        sequence = self._sequence_of(message, matcher)
        self._sequences[sequence.request_id] = sequence
        self._scheduler.add(sequence)

    def _refuse(self, message: Submit | Replay, error: EngineError) -> None:
        self._outbox.append(Failed(message.request_id, _code_of(error), str(error)))

    def _check(self, message: Submit | Replay) -> None:
        limits = self._limits
        answer = message.answer_ids if isinstance(message, Replay) else []
        if message.request_id in self._sequences or message.request_id in self._compiling:
            raise BadRequest(f"request {message.request_id} is already running; use another id")
        if len(self._scheduler.waiting) + len(self._compiling) >= limits.max_waiting:
            raise Busy(
                f"{limits.max_waiting} requests are waiting already; retry later or ask another"
                " node"
            )
        waiting_tokens = sum(len(each.tokens) for each in self._scheduler.waiting) + sum(
            len(each.prompt_ids) for each in self._compiling.values()
        )
        if waiting_tokens + len(message.prompt_ids) + len(answer) > limits.max_waiting_tokens:
            raise Busy(
                f"{waiting_tokens} tokens are waiting already, of at most"
                f" {limits.max_waiting_tokens}; retry later or ask another node"
            )
        if not message.prompt_ids or (isinstance(message, Replay) and not answer):
            raise BadRequest(
                "prompt_ids is empty" if not message.prompt_ids else "answer_ids is empty"
            )
        if len(message.prompt_ids) + max(1, len(answer)) > limits.context_tokens:
            raise BadRequest(
                f"{len(message.prompt_ids) + len(answer)} tokens do not fit a context of"
                f" {limits.context_tokens}; shorten the prompt"
            )
        if not all(0 <= token < limits.vocab_size for token in (*message.prompt_ids, *answer)):
            raise BadRequest(f"a token id is not in [0, {limits.vocab_size})")
        if isinstance(message, Submit) and (
            message.max_tokens < 1 or len(message.stop_ids) > MAX_STOP_IDS
        ):
            raise BadRequest(
                f"max_tokens is {message.max_tokens} (1 or more), stop_ids are"
                f" {len(message.stop_ids)} (at most {MAX_STOP_IDS})"
            )
        if isinstance(message, Submit) and (
            abs(message.priority) > MAX_PRIORITY or message.deadline_ms < 0
        ):
            raise BadRequest(
                f"priority is {message.priority} (within {MAX_PRIORITY} of 0), deadline_ms is"
                f" {message.deadline_ms} (0 or more)"
            )
        if (
            isinstance(message, Submit)
            and message.logprobs is not None
            and not 0 <= message.logprobs <= MAX_LOGPROBS
        ):
            raise BadRequest(f"logprobs is {message.logprobs}; it must be from 0 to {MAX_LOGPROBS}")
        check_sampling(message.sampling, limits.vocab_size)
        if message.sampling.choosing.grammar is not None:
            check_grammar(message.sampling.choosing.grammar)
        if message.adapter is not None:
            self._adapters.check_known(message.adapter)

    def _sequence_of(self, message: Submit | Replay, matcher: Matcher | None) -> Sequence:
        self._arrivals += 1
        replay = isinstance(message, Replay)
        max_tokens = message.max_tokens if isinstance(message, Submit) else 0
        return Sequence(
            request_id=message.request_id,
            arrival=self._arrivals,
            tokens=message.prompt_ids + (message.answer_ids if isinstance(message, Replay) else []),
            num_prompt=len(message.prompt_ids),
            adapter=message.adapter,
            chooser=Chooser(message.sampling, message.prompt_ids, matcher),
            max_length=min(len(message.prompt_ids) + max_tokens, self._limits.context_tokens),
            credit=message.credit if isinstance(message, Submit) else 0,
            stop_ids=frozenset(message.stop_ids if isinstance(message, Submit) else ()),
            arrived_s=self._clock(),
            replay=replay,
            priority=message.priority if isinstance(message, Submit) else 0,
            deadline_s=(
                self._clock() + message.deadline_ms / 1e3
                if isinstance(message, Submit) and message.deadline_ms
                else None
            ),
            num_logprobs=message.logprobs if isinstance(message, Submit) else None,
        )

    def _grant(self, request_id: int, credit: int) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.credit = max(sequence.credit, credit)
            sequence.parked_s = None if sequence.has_credit else sequence.parked_s
        compiling = self._compiling.get(request_id)
        if isinstance(compiling, Submit):
            self._compiling[request_id] = msgspec.structs.replace(
                compiling, credit=max(compiling.credit, credit)
            )

    def _cancel(self, request_id: int) -> None:
        if self._in_flight is not None and self._in_flight.holds(request_id):
            self._in_flight.cancelled.append(
                request_id
            )  # its pages and its seat are in use until that step is over
            return
        compiling = self._compiling.pop(request_id, None)
        if isinstance(compiling, Submit):
            self._outbox.append(
                Finished(
                    request_id,
                    "cancelled",
                    len(compiling.prompt_ids),
                    0,
                    queue_ms=0.0,
                    load_ms=0.0,
                    prefill_ms=0.0,
                    decode_ms=0.0,
                    neighbours=0,
                )
            )
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "cancelled")

    def _expire(self, now_s: float) -> None:
        for sequence, code, message in self._overdue(now_s):
            if code is None:
                self._finish(sequence, "cancelled")
            else:
                self._fail(sequence, code, message)

    def _overdue(self, now_s: float) -> list[tuple[Sequence, FailureCode | None, str]]:
        """Whose time is over, and the error that it gets; None for one that was parked too long."""
        overdue: list[tuple[Sequence, FailureCode | None, str]] = []
        for sequence in self._sequences.values():
            if sequence.deadline_s is not None and now_s > sequence.deadline_s:
                overdue.append(
                    (
                        sequence,
                        "deadline",
                        f"not finished within {sequence.deadline_s - sequence.arrived_s:.1f} s",
                    )
                )
            elif not sequence.has_credit:
                sequence.parked_s = sequence.parked_s or now_s
                if now_s - sequence.parked_s > self._limits.parked_deadline_s:
                    overdue.append((sequence, None, ""))
            elif (
                sequence.started_s is None
                and now_s - sequence.arrived_s > self._limits.waiting_deadline_s
            ):
                waited = (
                    f"waited {self._limits.waiting_deadline_s:.0f} s for a place; retry later or"
                    " ask another node"
                )
                overdue.append((sequence, "busy", waited))
        return overdue

    # --- after a step ---

    def _settle(self, results: list[ChunkResult], started_s: float, ended_s: float) -> None:
        self._steps += 1
        record = _record(self._steps, results, (ended_s - started_s) * 1e3)
        self._records.append(record)
        self._most_adapters = max(
            self._most_adapters, sum(1 for adapter in record.adapters if adapter is not None)
        )
        for result in results:
            self._advance(result, record, ended_s)

    def _advance(self, result: ChunkResult, record: StepRecord, now_s: float) -> None:
        chunk = result.chunk
        sequence = result.chunk.sequence
        right = max(0, len(result.tokens) - 1)  # of the draft; the rest of it will be written over
        sequence.computed = chunk.start + chunk.count - len(chunk.draft) + right
        self._tokens_drafted += len(chunk.draft)
        self._tokens_accepted += right
        sequence.neighbours = max(sequence.neighbours, len(record.adapters))
        if sequence.first_token_s is None:
            sequence.prefill_ms += record.step_ms
        if result.error is not None:
            self._fail(sequence, _code_of(result.error), str(result.error))
            return
        if sequence.replay:
            self._scheduler.publish(sequence)
            self._score(sequence, result.margins)
        else:
            self._append(sequence, result, now_s)

    def _score(self, sequence: Sequence, margins: list[float]) -> None:
        sequence.margins += margins
        if sequence.computed == sequence.num_wanted:
            self._end(sequence)
            self._outbox.append(Replayed(sequence.request_id, sequence.margins))

    def _append(self, sequence: Sequence, result: ChunkResult, now_s: float) -> None:
        sequence.tokens += result.tokens
        self._scheduler.publish(sequence)
        if not result.tokens:
            return
        sequence.first_token_s = sequence.first_token_s or now_s
        sequence.last_token_s = now_s
        self._tokens_generated += len(result.tokens)
        self._outbox.append(
            Tokens(sequence.request_id, result.tokens, self._steps, result.logprobs)
        )
        if sequence.ends_with(result.tokens[-1]):
            self._finish(sequence, "stop")
        elif len(sequence.tokens) >= sequence.max_length:
            self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._end(sequence)
        if sequence.replay:
            self._outbox.append(Failed(sequence.request_id, "internal", "the replay was cancelled"))
        else:
            self._outbox.append(_finished(sequence, reason, self._clock()))

    def _fail(self, sequence: Sequence, code: FailureCode, message: str) -> None:
        self._end(sequence)
        self._outbox.append(Failed(sequence.request_id, code, message))

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        del self._sequences[sequence.request_id]
        if sequence.adapter is not None:
            self._adapters.leave(sequence.adapter)

    def _stats(self) -> Stats:
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_pages_free=self._pages.num_available,
            kv_pages=self._pages.pool.num_pages,
            adapters_held=self._adapters.slots.held(),
            adapters_ready=self._adapters.slots.ready(),
            tokens_generated=self._tokens_generated,
            max_adapters_in_one_step=self._most_adapters,
            steps=list(self._records),
            tokens_drafted=self._tokens_drafted,
            tokens_accepted=self._tokens_accepted,
        )


def _goes_on(result: ChunkResult) -> bool:
    """Whether a row gave a token that does not end its answer."""
    return (
        result.error is None
        and len(result.tokens) == 1
        and not result.chunk.sequence.ends_with(result.tokens[0])
    )


def _code_of(error: EngineError) -> FailureCode:
    codes: dict[type[EngineError], FailureCode] = {
        BadRequest: "bad_request",
        UnknownAdapter: "unknown_adapter",
        Busy: "busy",
    }
    return codes.get(type(error), "internal")


def _record(step: int, results: list[ChunkResult], step_ms: float) -> StepRecord:
    adapters = list(dict.fromkeys(result.chunk.sequence.adapter for result in results))
    decode = sum(1 for result in results if result.chunk.sequence.is_decoding)
    return StepRecord(
        step,
        adapters,
        sum(r.chunk.count for r in results if not r.chunk.sequence.is_decoding),
        decode,
        step_ms=step_ms,
    )


def _finished(sequence: Sequence, reason: FinishReason, now_s: float) -> Finished:
    """Times are told apart as: waiting for a place, waiting for the adapter, prompt, decoding."""
    started = sequence.started_s or now_s
    loading_s = (
        (sequence.ready_s or started) - (sequence.asked_s or started)
        if sequence.adapter is not None
        else 0.0
    )
    decode_s = (sequence.last_token_s or 0.0) - (sequence.first_token_s or 0.0)
    return Finished(
        request_id=sequence.request_id,
        reason=reason,
        prompt_tokens=sequence.num_prompt,
        completion_tokens=sequence.num_generated,
        queue_ms=max(0.0, started - sequence.arrived_s - max(0.0, loading_s)) * 1e3,
        load_ms=max(0.0, loading_s) * 1e3,
        prefill_ms=sequence.prefill_ms,
        decode_ms=decode_s * 1e3,
        neighbours=sequence.neighbours,
        cached_tokens=sequence.cached_tokens,
    )
