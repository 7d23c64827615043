"""Who runs in the next step. Decides; computes nothing, moves no bytes.

    waiting ──admit (adapter ready, pages)──▶ running ──▶ ended
       ▲                                        │
       └──────────────── preempt ───────────────┘   pages given back; tokens kept, so that it resumes exactly

A running sequence without credit is parked: it keeps its pages, costs no step, and is the first to be preempted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .kv.pages import PagePool
from .sequence import Sequence


class AdapterGate(Protocol):
    """What the scheduler must know of adapters."""

    def try_pin(self, adapter: bytes) -> bool:
        """Pin, if a slot can be had."""

    def unpin(self, adapter: bytes) -> None:
        """End a use."""

    def is_ready(self, adapter: bytes) -> bool:
        """Whether its bytes are in the slot."""


@dataclass(frozen=True)
class Chunk:
    """`count` tokens of one sequence to compute, from position `start`; `wanted` of them, the last ones, want logits.

    draft: guessed ids that follow the sequence's own; the last len(draft) of `count`.
    """

    sequence: Sequence
    start: int
    count: int
    wanted: int
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """One step's work: chunks, and pages that must be cleaned before it."""

    chunks: list[Chunk]
    fresh_pages: list[int]


class Scheduler:
    """Continuous batching with chunked prefill: first every decoding sequence, then prompts, up to `step_tokens` rows."""

    def __init__(self, pages: PagePool, page_tokens: int, step_tokens: int, max_running: int, adapters: AdapterGate) -> None:
        self._pages, self._page_tokens = pages, page_tokens
        self._step_tokens, self._max_running = step_tokens, max_running
        self._adapters = adapters
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence behind all earlier ones."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, ended or cancelled; its pages are free at once."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._give_back(sequence)

    def schedule(self, now_s: float) -> Schedule:
        """Choose the next step's chunks; preempts when pages run out."""
        chosen: list[Chunk] = []
        fresh: list[int] = []
        budget = self._step_tokens
        self._admit(now_s)
        by_urgency = sorted(self.running, key=lambda s: (not s.is_decoding, s.arrival))
        for sequence in by_urgency:
            if budget > 0 and sequence.has_credit and sequence in self.running:
                count = min(budget, sequence.num_wanted - sequence.computed)
                if self._reserve(sequence, sequence.computed + count, fresh):
                    chosen.append(_chunk(sequence, count))
                    budget -= count
        return Schedule([c for c in chosen if c.sequence in self.running], fresh)

    def check(self) -> None:
        """Pages belong to running sequences only, each to one, and cover what is computed."""
        self._pages.check()
        owned = [page for sequence in self.running for page in sequence.pages]
        assert len(owned) == len(set(owned)), "a page has two owners"
        assert len(owned) + self._pages.num_free == self._pages.num_pages, "a page is lost"
        for sequence in self.running:
            assert sequence.computed <= len(sequence.pages) * self._page_tokens, "computed beyond its pages"
            assert sequence.adapter is None or sequence.pinned, "running without its adapter"
        assert all(not s.pages and s.computed == 0 for s in self.waiting), "a waiting sequence owns pages"

    def _admit(self, now_s: float) -> None:
        spare = self._pages.num_free
        for sequence in sorted(self.waiting, key=lambda s: s.arrival):
            if len(self.running) >= self._max_running:
                return
            if not sequence.has_credit or not self._adapter_ready(sequence, now_s):
                continue
            needed = self._pages_for(len(sequence.tokens) + 1)
            if needed > spare and not self._can_take_from_parked(needed - spare):
                return  # later ones wait as well: a long prompt must not starve behind short ones
            spare -= min(needed, spare)
            self.waiting.remove(sequence)
            self.running.append(sequence)
            sequence.started_s = sequence.started_s or now_s

    def _adapter_ready(self, sequence: Sequence, now_s: float) -> bool:
        if sequence.adapter is None:
            return True
        if not sequence.pinned:
            sequence.pinned = self._adapters.try_pin(sequence.adapter)
            sequence.pinned_s = sequence.pinned_s or (now_s if sequence.pinned else None)
        ready = sequence.pinned and self._adapters.is_ready(sequence.adapter)
        sequence.ready_s = sequence.ready_s or (now_s if ready else None)
        return ready

    def _can_take_from_parked(self, missing: int) -> bool:
        return missing <= sum(len(s.pages) for s in self.running if not s.has_credit)

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._page_tokens)

    def _reserve(self, sequence: Sequence, num_tokens: int, fresh: list[int]) -> bool:
        """Give the sequence pages for `num_tokens`, preempting others; False when it had to give way itself."""
        missing = self._pages_for(num_tokens) - len(sequence.pages)
        while missing > 0 and not self._pages.can_allocate(missing):
            victim = self._victim()
            self._preempt(victim)
            if victim is sequence:
                return False
        if missing > 0:
            pages = self._pages.allocate(missing)
            sequence.pages += pages
            fresh += pages
        return True

    def _victim(self) -> Sequence:
        """Parked before active, then the latest arrival: the oldest active sequence always gets on."""
        return max((s for s in self.running if s.pages or s.has_credit), key=lambda s: (not s.has_credit and bool(s.pages), s.arrival))

    def _preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to wait; it will compute its tokens again and go on."""
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.append(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self._pages.free(sequence.pages)
        sequence.pages, sequence.computed = [], 0
        if sequence.pinned and sequence.adapter is not None:
            self._adapters.unpin(sequence.adapter)
            sequence.pinned = False


def _chunk(sequence: Sequence, count: int) -> Chunk:
    end = sequence.computed + count
    answered = max(0, min(count, end - (sequence.num_prompt - 1)))
    return Chunk(sequence, sequence.computed, count, answered if sequence.replay else int(end == len(sequence.tokens)))
