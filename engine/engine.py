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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .batch import Batch
from .errors import DeviceLost
from .grammar import GrammarDone, Grammars
from .intake import Limits
from .kv.prefix import PrefixCache
from .lora.bank import CopyDone
from .lora.held import HeldAdapters
from .lora.loader import LoadDone, Source, Sources
from .messages import (
    Cancel,
    Embed,
    Failed,
    FailureCode,
    FromEngine,
    GetStats,
    Grant,
    HoldAdapter,
    HoldCocktail,
    Locate,
    Located,
    MemoryUse,
    ReleaseAdapter,
    Replay,
    Stats,
    Submit,
    ToEngine,
    Vocabulary,
)
from .requests import Requests
from .runner import ChunkResult, Flight, Runner
from .schedule import Schedule
from .scheduler import Scheduler
from .settle import Tally, advance, goes_on


@dataclass(frozen=True)
class _InFlight:
    """A step that the device computes, and the requests of it that were cancelled since it
    began.
    """

    flight: Flight
    started_s: float
    cancelled: list[int] = field(default_factory=list)

    def includes(self, request_id: int) -> bool:
        """Whether the request takes part in it."""
        return any(chunk.sequence.request_id == request_id for chunk in self.flight.batch.chunks)


class Engine:
    """Feed it with `handle`, call `step` while it returns True, send what `take_messages` gives."""

    def __init__(
        self,
        limits: Limits,
        scheduler: Scheduler,
        runner: Runner,
        adapters: HeldAdapters,
        pages: PrefixCache,
        grammars: Grammars,
        memory: Callable[[], MemoryUse | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._adapters = adapters
        self._pages = pages
        self._memory = memory
        self._clock = clock
        self._grammars = grammars
        self._requests = Requests(limits, scheduler, adapters, grammars, self._tell)
        self._in_flight: _InFlight | None = None
        self._outbox: list[FromEngine] = []
        self._tally = Tally()

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
        if ahead is not None and all(goes_on(result) for result in results):
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
        for sequence, last in self._requests.overdue(now_s):
            self._requests.end(sequence, last)
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
        if before.cancelled or self._requests.overdue(now_s):
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
            case Submit() | Replay() | Embed():
                self._requests.accept(message, self._clock())
            case Grant(request_id, credit):
                self._requests.grant(request_id, credit)
            case Cancel(request_id):
                self._cancel(request_id)
            case HoldAdapter(adapter, config_path, weights_path):
                self._hold(adapter, (Source(Path(config_path), Path(weights_path)),))
            case HoldCocktail(adapter, parents):
                self._hold(
                    adapter,
                    tuple(
                        Source(Path(one.config_path), Path(one.weights_path), one.weight, one.name)
                        for one in parents
                    ),
                )
            case ReleaseAdapter(adapter):
                self._adapters.release(adapter)
            case Vocabulary():
                self._grammars.submit(message)
            case GetStats():
                self._outbox.append(self._stats())
            case Locate(adapter):
                self._outbox.append(Located(adapter, self._adapters.residency(adapter)))

    def _hold(self, adapter: bytes, sources: Sources) -> None:
        held = self._adapters.hold(adapter, sources)
        self._outbox += [held] if held else []

    def receive(self, done: LoadDone | CopyDone | GrammarDone | DeviceLost) -> None:
        """Take what another thread has finished.

        A lost device is raised: nothing here can go on without it.
        """
        match done:
            case LoadDone():
                answer = self._adapters.receive(done)
                self._outbox += [answer] if answer else []
                self._requests.fail_unserved(done.job.adapter)
            case CopyDone():
                self._adapters.copied(done)
            case GrammarDone():
                self._requests.receive_grammar(done, self._clock())
            case DeviceLost():
                raise done

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
        # whatever the device still writes, it writes before the next step begins
        self._in_flight = None
        for sequence in list(self._scheduler.running):
            self._requests.end(sequence, Failed(sequence.request_id, code, message))

    def check(self) -> None:
        """All invariants of the stateful cores."""
        self._scheduler.check()
        self._adapters.check()
        self._requests.check()

    def _cancel(self, request_id: int) -> None:
        if self._in_flight is not None and self._in_flight.includes(request_id):
            # its pages and its seat are in use until that step is over
            self._in_flight.cancelled.append(request_id)
        else:
            self._requests.cancel(request_id, self._clock())

    def _tell(self, message: FromEngine) -> None:
        self._outbox.append(message)

    def _settle(self, results: list[ChunkResult], started_s: float, ended_s: float) -> None:
        record = self._tally.count(results, (ended_s - started_s) * 1e3)
        for result in results:
            sequence = result.chunk.sequence
            progress = advance(result, record, ended_s)
            if result.error is None:
                self._scheduler.publish(sequence)
            if progress.tokens is not None:
                self._outbox.append(progress.tokens)
            if progress.last is not None:
                self._requests.end(sequence, progress.last)

    def _stats(self) -> Stats:
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            kv_pages_free=self._pages.num_available,
            kv_pages=self._pages.pool.num_pages,
            adapters_held=self._adapters.slots.known(),
            adapters_ready=self._adapters.slots.ready(),
            tokens_generated=self._tally.tokens_generated,
            max_adapters_in_one_step=self._tally.most_adapters,
            steps=list(self._tally.records),
            tokens_drafted=self._tally.tokens_drafted,
            tokens_accepted=self._tally.tokens_accepted,
            adapters_loaded=self._adapters.slots.num_loaded,
            adapters_evicted=self._adapters.slots.num_evicted,
            memory=self._memory(),
        )
