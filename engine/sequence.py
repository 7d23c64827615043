"""Holds the engine's mutable state of one request. Owned by the engine's thread; knows no tensors.

tokens:   [ prompt … | generated … ]
           ^ computed: keys and values of tokens[:computed] are in pages
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .messages import TokenLogprobs
from .sampler import Chooser
from .speculation import Proposer

Purpose = Literal["answer", "replay", "embedding"]
"""What a request is computed for: new tokens, the margins of given ones, or a last hidden state."""


@dataclass(eq=False)
class Sequence:
    """One request while it lives.

    `arrival` orders requests; times are in seconds of the engine's clock; at `max_length` tokens it
    ends. Position n rotates by angle `angle_offset` + n of the base's tables (rope.py).
    """

    request_id: int
    arrival: int
    tokens: list[int]
    num_prompt: int
    adapter: bytes | None
    chooser: Chooser
    max_length: int
    credit: int
    stop_ids: frozenset[int]
    arrived_s: float
    purpose: Purpose = "answer"
    priority: int = 0
    deadline_s: float | None = None
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    page_keys: list[bytes] = field(default_factory=list)
    num_published: int = 0
    cached_tokens: int = 0
    parked_s: float | None = None
    asked_s: float | None = None
    ready_s: float | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    prefill_ms: float = 0.0
    neighbours: int = 0
    margins: list[float] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # a replay's
    num_logprobs: int | None = None
    proposer: Proposer = field(default_factory=Proposer)
    angle_offset: int = 0

    @property
    def replay(self) -> bool:
        """Return whether its margins are wanted, and no tokens."""
        return self.purpose == "replay"

    @property
    def num_generated(self) -> int:
        """Return the number of tokens produced so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_wanted(self) -> int:
        """Return how many tokens must be computed before the next result.

        That is all of them, but a replay's last one predicts nothing.
        """
        return len(self.tokens) - 1 if self.replay else len(self.tokens)

    @property
    def num_shareable(self) -> int:
        """Return how many of its first tokens may come from another sequence's pages.

        Those are the ones before the first result that it needs.
        """
        return self.num_prompt - 1 if self.replay else len(self.tokens) - 1

    @property
    def has_credit(self) -> bool:
        """Return whether it may produce one more token."""
        return self.purpose != "answer" or self.num_generated < self.credit

    @property
    def room(self) -> int:
        """Return how many more tokens its credit and its length allow."""
        return min(self.credit - self.num_generated, self.max_length - len(self.tokens))

    def ends_with(self, token: int) -> bool:
        """Return whether the answer is complete with `token`, which its chooser has accepted."""
        return token in self.stop_ids or self.chooser.is_over

    @property
    def is_decoding(self) -> bool:
        """Return whether only its newest token is missing from the pages."""
        return not self.replay and self.computed == len(self.tokens) - 1 and self.num_generated > 0
