"""What a stream of requests took."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Times:
    """What a stream took, in seconds; `gaps` lie between a request's tokens."""

    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0
    seconds: float = 0.0

    @property
    def tokens_s(self) -> float:
        """Throughput."""
        return self.tokens / self.seconds
