"""Takes requests from message to sequence, and to the last word that each of them hears.

    Submit, Replay, Embed ──admit──▶ (its grammar is compiled) ──▶ the scheduler's ──▶ ended

Decides who fails when an adapter is refused, and whose time is over. Runs no step, and does not
know what a device is doing: who ends a sequence sees to it that no step is using it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .errors import InvalidRequest, UnknownAdapter
from .grammar import GrammarDone, GrammarJob, Grammars, Matcher
from .intake import Admitted, Limits, Queue, Refused, admit, failed
from .lora.held import HeldAdapters
from .messages import Embed, FromEngine, Replay, Submit
from .scheduler import Scheduler
from .sequence import Sequence
from .settle import LastWord, end_before_start, end_early, find_overdue


class Requests:
    """All requests that have not heard their last word; `tell` sends what they hear."""

    def __init__(
        self,
        limits: Limits,
        scheduler: Scheduler,
        adapters: HeldAdapters,
        grammars: Grammars,
        tell: Callable[[FromEngine], None],
    ) -> None:
        self._limits = limits
        self._scheduler = scheduler
        self._adapters = adapters
        self._grammars = grammars
        self._tell = tell
        self._compiling: dict[int, Admitted] = {}
        self._sequences: dict[int, Sequence] = {}
        self._arrivals = 0

    def accept(self, message: Submit | Replay | Embed, now_s: float) -> None:
        """Take a new request, or refuse it."""
        match admit(message, self._limits, self._queue()):
            case Refused(request_id, error):
                self._tell(failed(request_id, error))
            case Admitted(sampling=sampling) as request:
                if sampling.choosing.grammar is None:
                    self._enqueue(request, None, now_s)
                else:
                    self._compiling[request.request_id] = request
                    self._grammars.submit(GrammarJob(request.request_id, sampling.choosing.grammar))

    def receive_grammar(self, done: GrammarDone, now_s: float) -> None:
        """Queue the request that waited for it, unless it was cancelled meanwhile."""
        request = self._compiling.pop(done.job.request_id, None)
        if request is None:
            return
        if isinstance(done.outcome, Matcher):
            self._enqueue(request, done.outcome, now_s)
        else:
            self._tell(failed(request.request_id, done.outcome))

    def grant(self, request_id: int, credit: int) -> None:
        """Let a request have `credit` tokens in all; less than before changes nothing."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.credit = max(sequence.credit, credit)
            sequence.parked_s = None if sequence.has_credit else sequence.parked_s
        compiling = self._compiling.get(request_id)
        if compiling is not None:
            self._compiling[request_id] = replace(compiling, credit=max(compiling.credit, credit))

    def cancel(self, request_id: int, now_s: float) -> None:
        """End a request, if it has not ended."""
        compiling = self._compiling.pop(request_id, None)
        if compiling is not None and compiling.purpose == "answer":
            self._tell(end_before_start(request_id, len(compiling.prompt_ids)))
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self.end(sequence, end_early(sequence, now_s))

    def end(self, sequence: Sequence, last: LastWord) -> None:
        """Say the last word to a request; its pages and its seat are free at once."""
        self._scheduler.remove(sequence)
        del self._sequences[sequence.request_id]
        if sequence.adapter is not None:
            self._adapters.leave(sequence.adapter)
        self._tell(last)

    def fail_unserved(self, adapter: bytes) -> None:
        """A load of an adapter is over: if it was refused, requests that wait for it fail; so do
        those that were at work with it, where its bytes have left memory.
        """
        stranded = [] if self._adapters.is_here(adapter) else self._scheduler.running
        for sequence in [*self._scheduler.waiting, *stranded]:
            if sequence.adapter == adapter:
                try:
                    self._adapters.check_known(adapter)
                except UnknownAdapter as error:
                    self.end(sequence, failed(sequence.request_id, error))

    def overdue(self, now_s: float) -> list[tuple[Sequence, LastWord]]:
        """Whose time is over, and what each is to hear."""
        return find_overdue(self._sequences.values(), self._limits, now_s)

    def check(self) -> None:
        """The scheduler has the same sequences."""
        assert {id(s) for s in self._sequences.values()} == {
            id(s) for s in self._scheduler.running + self._scheduler.waiting
        }

    def _queue(self) -> Queue:
        """What a new request meets; those whose grammar is compiled wait as well."""
        waiting = self._scheduler.waiting
        compiling = self._compiling
        return Queue(
            taken_ids=self._sequences.keys() | compiling.keys(),
            num_waiting=len(waiting) + len(compiling),
            waiting_tokens=sum(len(each.tokens) for each in waiting)
            + sum(len(each.prompt_ids) for each in compiling.values()),
            check_known=self._adapters.check_known,
        )

    def _enqueue(self, request: Admitted, matcher: Matcher | None, now_s: float) -> None:
        try:
            sequence = request.to_sequence(self._arrivals + 1, now_s, matcher)
            if request.adapter is not None:
                self._adapters.check_known(request.adapter)
        except (InvalidRequest, UnknownAdapter) as error:
            self._tell(failed(request.request_id, error))
            return
        if request.adapter is not None:
            self._adapters.use(request.adapter)
        self._arrivals += 1
        self._sequences[sequence.request_id] = sequence
        self._scheduler.add(sequence)
