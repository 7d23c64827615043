"""How a node's answers were spread, in the terms of OpenTelemetry's conventions for generative AI
(gen_ai.server.…): to the first token, between tokens, altogether, and how many tokens. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

AskedBy = Literal["face", "peer"]
"""Through this daemon's own API; by another node."""

# The boundaries that the conventions advise.
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
WHOLE_S = tuple(0.01 * 2**power for power in range(14))
TOKENS = tuple(float(4**power) for power in range(14))


@dataclass(frozen=True)
class Answered:
    """One whole answer. `first_token_s` is None where it has no token."""

    asked_by: AskedBy
    prompt_tokens: int
    completion_tokens: int
    whole_s: float
    first_token_s: float | None


@dataclass(frozen=True)
class Spread:
    """One distribution as it is now: how many were at most each bound, then how many there were."""

    name: str
    labels: tuple[tuple[str, str], ...]
    bounds: tuple[float, ...]
    at_most: tuple[int, ...]
    sum: float


class Histogram:
    """Counts values by what they are at most; a value at a bound is in its class."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def at_most(self) -> tuple[int, ...]:
        """How many were at most each bound, the last: how many there were."""
        total = 0
        return tuple(total := total + count for count in self._counts)


class Answers:
    """All answers of one daemon, by who asked."""

    def __init__(self) -> None:
        self._by_asker = {asked_by: _Histograms() for asked_by in get_args(AskedBy)}

    def note(self, answer: Answered) -> None:
        """Count one answer."""
        self._by_asker[answer.asked_by].note(answer)

    def spreads(self) -> list[Spread]:
        """Every distribution as it is now."""
        return [
            Spread(name, (("lorikeet_asked_by", asker), *labels), one.bounds, one.at_most, one.sum)
            for asker, histograms in self._by_asker.items()
            for name, labels, one in histograms.named()
        ]


class _Histograms:
    def __init__(self) -> None:
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.per_token = Histogram(PER_TOKEN_S)
        self.whole = Histogram(WHOLE_S)
        self.prompt_tokens = Histogram(TOKENS)
        self.completion_tokens = Histogram(TOKENS)

    def note(self, answer: Answered) -> None:
        self.whole.note(answer.whole_s)
        self.prompt_tokens.note(answer.prompt_tokens)
        self.completion_tokens.note(answer.completion_tokens)
        if answer.first_token_s is not None:
            self.first_token.note(answer.first_token_s)
            if answer.completion_tokens > 1:
                rest_s = answer.whole_s - answer.first_token_s
                self.per_token.note(rest_s / (answer.completion_tokens - 1))

    def named(self) -> list[tuple[str, tuple[tuple[str, str], ...], Histogram]]:
        usage = "gen_ai_client_token_usage"
        return [
            ("gen_ai_server_time_to_first_token_seconds", (), self.first_token),
            ("gen_ai_server_time_per_output_token_seconds", (), self.per_token),
            ("gen_ai_server_request_duration_seconds", (), self.whole),
            (usage, (("gen_ai_token_type", "input"),), self.prompt_tokens),
            (usage, (("gen_ai_token_type", "output"),), self.completion_tokens),
        ]
