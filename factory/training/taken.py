"""What is told of an adapter that was taken out of a run's checkpoints (taking.py). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Taken:
    """Of which step it is, None for what a finished run keeps; what was held out lost there, in
    nats a token; what was passed over, in sentences.
    """

    step: int | None
    held_out: float | None
    notes: tuple[str, ...]
