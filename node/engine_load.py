"""What an engine is at, and how fast it was lately: from that, when a request's first token may be
expected.

Pure; counts what passes through the daemon and asks the engine nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine import messages as m

from .engine_link import RunEvent

NEWEST_PART = 0.25  # of a mean, which the newest of its values is
UNKNOWN_PREFILL_MS = 1.0  # a token, before anything was measured
UNKNOWN_STEP_MS = 20.0
UNKNOWN_LOAD_MS = 30.0
UNKNOWN_QUEUE_MS = 100.0
UNKNOWN_FIND_MS = 150.0  # to find and reach who has an adapter, and read its manifest
UNKNOWN_FETCH_BYTES_MS = 10_000.0
UNKNOWN_SIZE_BYTES = 10_000_000
LEAST_PREFILL_TOKENS = 8  # fewer tell of a step, not of a token
MAX_STEP_MS = 200.0  # longer, and its client was late to pay


@dataclass
class Mean:
    """A moving mean that begins with a guess."""

    value: float
    is_measured: bool = False

    def take(self, value: float) -> None:
        """Note one more value."""
        kept = 1.0 - NEWEST_PART if self.is_measured else 0.0
        self.value = kept * self.value + (1.0 - kept) * value
        self.is_measured = True


@dataclass
class _Running:
    prompt_tokens: int
    max_tokens: int
    made: int = 0


@dataclass
class EngineLoad:
    """The requests that run now, and means of what the latest ones took.

    `clock` gives seconds.
    """

    clock: Callable[[], float] = time.monotonic
    prefill_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_PREFILL_MS))  # a token
    step_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_STEP_MS))  # between two tokens
    load_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_LOAD_MS))  # from files to a slot
    queue_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_QUEUE_MS))  # of those that waited
    find_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_FIND_MS))
    fetch_bytes_ms: Mean = field(default_factory=lambda: Mean(UNKNOWN_FETCH_BYTES_MS))
    _requests: dict[int, _Running] = field(default_factory=dict)
    _idle_since: float | None = None

    def __post_init__(self) -> None:
        self._idle_since = self.clock()

    # --- what passes ---

    def begin(self, request_id: int, prompt_tokens: int, max_tokens: int) -> None:
        """Note a request."""
        self._requests[request_id] = _Running(prompt_tokens, max_tokens)
        self._idle_since = None

    def hear(self, request_id: int, event: RunEvent) -> None:
        """Note what the engine says of a request."""
        request = self._requests.get(request_id)
        if isinstance(event, m.Tokens) and request is not None:
            request.made += len(event.token_ids)
        if isinstance(event, m.Finished):
            self.measure(event)
        if not isinstance(event, m.Tokens):
            self.end(request_id)

    def end(self, request_id: int) -> None:
        """Note that a request ended, however it did."""
        if self._requests.pop(request_id, None) is not None and not self._requests:
            self._idle_since = self.clock()

    def measure(self, finished: m.Finished) -> None:
        """Learn from what a request took."""
        computed = finished.prompt_tokens - finished.cached_tokens
        if computed >= LEAST_PREFILL_TOKENS:
            self.prefill_ms.take(finished.prefill_ms / computed)
        if finished.completion_tokens > 1:
            step_ms = finished.decode_ms / (finished.completion_tokens - 1)
            self.step_ms.take(min(step_ms, MAX_STEP_MS))
        if finished.queue_ms > self.step_ms.value:
            self.queue_ms.take(finished.queue_ms)

    def measure_fetch(self, find_ms: float, size_bytes: int, fetch_ms: float) -> None:
        """Learn from an adapter that was fetched."""
        self.find_ms.take(find_ms)
        if size_bytes and fetch_ms:
            self.fetch_bytes_ms.take(size_bytes / fetch_ms)

    # --- what follows ---

    @property
    def running(self) -> int:
        """Return how many requests have their first token."""
        return sum(request.made > 0 for request in self._requests.values())

    @property
    def waiting(self) -> int:
        """Return how many requests have no token yet."""
        return len(self._requests) - self.running

    @property
    def tokens_outstanding(self) -> int:
        """Return how many tokens may still be made for them, prompts included."""
        return sum(
            request.max_tokens - request.made + (0 if request.made else request.prompt_tokens)
            for request in self._requests.values()
        )

    @property
    def idle_s(self) -> float:
        """Return for how long nothing has run; 0 while something does."""
        return 0.0 if self._idle_since is None else self.clock() - self._idle_since

    def first_token_ms(
        self, prompt_tokens: int, residency: m.Residency, fetch_bytes: int | None
    ) -> float:
        """Return how long after its payment a request's first token may be expected.

        `residency`: where its adapter is; `fetch_bytes`: what is to be fetched of an absent one,
        None where its size is not known.
        """
        before = sum(one.prompt_tokens for one in self._requests.values() if not one.made)
        expected = (before + prompt_tokens) * self.prefill_ms.value + self.step_ms.value
        if self.waiting:
            expected += self.queue_ms.value
        if residency in ("disk", "absent"):
            expected += self.load_ms.value
        if residency == "absent":
            size_bytes = UNKNOWN_SIZE_BYTES if fetch_bytes is None else fetch_bytes
            expected += self.find_ms.value + size_bytes / self.fetch_bytes_ms.value
        return expected
