"""What happened, as data.

A step is ok only when its code ran to the end; `require` is how it checks a claim.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

FIGURES = (
    "lookup_ms",
    "fetch_mb_s",
    "cold_first_token_ms",
    "decode_tokens_s",
    "max_adapters_in_one_step",
    "receipts_verified",
    "receipts_rejected",
    "blocks_rejected",
    "batch_gas",
    "gas_per_receipt",
    "claim_gas",
    "claims_ok",
    "theft_caught_s",
    "conviction_gas",
    "bond_paid",
    "exit_gas",
    "resume_ms",
    "cheats_caught",
    "processes_left",
)


class ClaimFailed(Exception):
    """A step did not do what it says."""


def require(holds: object, claim: str) -> None:
    """Check one claim."""
    if not holds:
        raise ClaimFailed(f"not so: {claim}")


@dataclass
class Step:
    """One step as it went; `facts` are what it measured."""

    name: str
    ok: bool = False
    seconds: float = 0.0
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The step's entry."""
        entry = {"name": self.name, "ok": self.ok, "seconds": round(self.seconds, 3), **self.facts}
        return entry | ({"error": self.error} if self.error else {})


@dataclass
class Record:
    """The whole demo as it goes."""

    num_steps: int
    begun_s: float = field(default_factory=time.monotonic)
    steps: list[Step] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    payouts: list[dict[str, Any]] = field(default_factory=list)
    chain: dict[str, str] = field(
        default_factory=lambda: {
            "rpc": "",
            "settlement": "",
            "receipts_root": "",
            "payout_root": "",
        }
    )
    figures: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(FIGURES))

    @property
    def ok(self) -> bool:
        """Whether every step was taken and did what it says."""
        return len(self.steps) == self.num_steps and all(step.ok for step in self.steps)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time one step; only an end without an error makes it ok."""
        step = Step(name)
        self.steps.append(step)
        begun_s = time.monotonic()
        try:
            yield step
            step.ok = True
        except BaseException as error:  # noted, and raised again, whatever it is
            step.error = "interrupted" if isinstance(error, trio.Cancelled) else describe(error)
            raise
        finally:
            step.seconds = time.monotonic() - begun_s

    def figure(self, name: str, value: object) -> None:
        """Note one of the figures."""
        assert name in self.figures, f"{name} is no figure of the demo"
        self.figures[name] = value

    def as_json(self) -> dict[str, Any]:
        """The demo's JSON."""
        return {
            "ok": self.ok,
            "seconds": round(time.monotonic() - self.begun_s, 3),
            "steps": [step.as_json() for step in self.steps],
            "answers": self.answers,
            "payouts": self.payouts,
            "chain": self.chain,
            "figures": self.figures,
        }


def describe(error: BaseException) -> str:
    """An error as one line; of a group its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (
        str(error)
        if isinstance(error, ClaimFailed)
        else f"{type(error).__name__}: {error}".rstrip(": ")
    )
