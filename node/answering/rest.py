"""What of one answer is still to be made, by however many nodes: the question as it stands, the
tokens so far, the seed that all of them go on with.

Decides when an answer is whole although nobody said so. Asks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..api.answers import EndReason
from ..wire.client_session import Question


@dataclass
class Rest:
    """One answer. `question` asks for what is missing of it; `num_lost` nodes left their part of
    it unfinished.
    """

    question: Question
    num_tokens: int = 0
    num_lost: int = 0
    why_lost: str = ""
    _seed: bytes = b""
    _made: list[int] = field(default_factory=list)  # since the question stands as it does
    _last_at: float = 0.0

    def begin(self, seed: bytes) -> None:
        """Note the seed that was agreed on."""
        self._seed = seed

    def take(self, token_ids: Sequence[int]) -> float | None:
        """Note more tokens; return how long (s) nothing came, where these are the first after a
        node was lost.
        """
        gap_s = self.silent_s if self.num_lost and not self._made else None
        self._last_at = time.perf_counter()
        self._made += token_ids
        self.num_tokens += len(token_ids)
        return gap_s

    @property
    def silent_s(self) -> float:
        """How long ago the last token came."""
        return time.perf_counter() - self._last_at

    @property
    def ended(self) -> EndReason | None:
        """How the answer ended, if its tokens alone say that it did."""
        if self._made and self._made[-1] in self.question.stop_ids:
            return "stop"
        return "length" if len(self._made) == self.question.max_tokens else None

    def lose(self, why: str) -> None:
        """Ask for the rest from now on: whoever answered is gone."""
        self.why_lost = why
        if self._made:
            self.question = self.question.after(self._seed, self._made)
            self._made = []
            self.num_lost += 1
