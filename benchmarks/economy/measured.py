"""What other benchmarks measured, and nothing here invents: how an answer that was not computed as
it should looks to a replay, and what computing costs. Reads benchmarks/results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.verdict import MILLION, Thresholds
from node.verifying.limits import Limits
from proofs.attestation.sequential import Evidence

RESULTS = Path(__file__).resolve().parents[1] / "results"
VERDICTS = "intel-xeon-processor-2cpu-engine-verdicts"
TINY_VERDICTS = "intel-xeon-processor-2cpu-engine-verdicts-tiny"
SPEEDS = "intel-xeon-processor-2cpu-engine-compare"
REPLAYS = "intel-xeon-processor-2cpu-engine-replay"
COUNTER = "intel-xeon-processor-2cpu-proofs-counter"
COPIES = "intel-xeon-processor-2cpu-attribution-worlds"

TOKENS = 64  # of an answer: the verdicts were measured with as many
PROMPT_TOKENS = 32
BATCH = "batch 8"
MOST_REPLAYS = 1_000
ALLOWED = 12
"""How many times the calibrated mean was allowed when these verdicts were measured, over all number
formats and kernels together; by limits for each pairing, as nodes have them since, cheats are found
sooner than here."""


@dataclass(frozen=True)
class Look:
    """How one kind of answer looks to a replay: the part that is suspicious alone, the mean score
    in logits, and the limits that it was held to.

    `half_after`: replays after which half of the measured nodes were convicted, None where fewer
    than half were after 32.
    """

    file: str
    who: str
    rate: float
    score: float
    limits: Limits
    half_after: int | None = None

    def convicts_after(self) -> int | None:
        """Return after how many replays the evidence convicts, were every score the mean one; None
        where it never does.
        """
        evidence = Evidence()
        cap = self.limits.thresholds.cap / MILLION
        for number in range(1, MOST_REPLAYS):
            evidence = evidence.after(self.score, cap, self.limits.mean, is_suspicious=False)
            if evidence.convicts():
                return number
        return None


@dataclass(frozen=True)
class Work:
    """What computing an answer takes, beside an honest one with an adapter of its own, and when its
    first token comes.
    """

    part: float
    first_s: float


def look(file: str, who: str, made: str, replayed: str) -> Look:
    """Read one row of the verdicts."""
    table = _read(file)
    published = msgspec.convert(table["limits"], Thresholds)
    allowed = msgspec.structs.replace(published, mean=ALLOWED * published.mean)
    limits = Limits(allowed, are_calibrated=True)
    row = next(
        each
        for each in table["rows"]
        if (each["who"], each["made"], each["replayed"]) == (who, made, replayed)
    )
    rate = row["suspicious"] / row["answers"]
    return Look(file, who, rate, row["mean_score"], limits, row["half_after"])


def money_part() -> float:
    """Return what vouchers, signatures and receipts take of the time of an honest answer, all of
    one core; every node has it that wants to be paid.
    """
    answer_s = TOKENS / _figure(f"distinct, {BATCH}", "ours+lora", "tokens_s")
    num_cores = 2
    counted: float = _read(COUNTER)["an answer ms"]
    return counted / 1000 / (answer_s * num_cores)


def works() -> dict[str, Work]:
    """Return the work of each kind of answer, all of one table: a distinct adapter in each of 8
    rows, the bare base, the base in int8 (nobody measured 4 bits beside bfloat16 in one run).
    """
    honest = _figure(f"distinct, {BATCH}", "ours+lora", "tokens_s")
    bare = _figure(f"base bf16, {BATCH}", "ours", "tokens_s")
    narrow = _figure(f"base int8, {BATCH}", "ours int8", "tokens_s")
    money = money_part()
    return {
        "honest": Work(
            1.0 + money, _figure(f"distinct, {BATCH}", "ours+lora", "first_token_ms") / 1000
        ),
        "bare": Work(
            honest / bare + money, _figure(f"base bf16, {BATCH}", "ours", "first_token_ms") / 1000
        ),
        "narrow": Work(
            bare / narrow + money,
            _figure(f"base int8, {BATCH}", "ours int8", "first_token_ms") / 1000,
        ),
        "none": Work(money, first_s=0.001),
    }


def replay_part() -> float:
    """Return what one replay takes of the time of the answer, 64 tokens, 8 at once, sampled."""
    rows = _read(REPLAYS)["rows"]
    found: float = next(
        row["ratio"]
        for row in rows
        if (row["temperature"], row["batch"], row["answer_tokens"]) == (0.8, 8, TOKENS)
    )
    return found


def copies() -> list[dict[str, Any]]:
    """Return what late copies of a contributor's text are paid, in both worlds."""
    return [
        {"world": name, **row}
        for name, world in _read(COPIES)["worlds"].items()
        for row in world["late copies"]
    ]


def _figure(case: str, side: str, what: str) -> float:
    found: float = _read(SPEEDS)["figures"][case][side][what][0]
    return found


def _read(file: str) -> Any:
    return json.loads((RESULTS / f"{file}.json").read_text())


HONEST = look(VERDICTS, "honest", "float32", "bfloat16")
JUNK = look(VERDICTS, "junk: one token", "bfloat16", "float32")
NO_ADAPTER = look(VERDICTS, "no adapter (and prefill spoof)", "bfloat16", "float32")
FOUR_BITS = look(TINY_VERDICTS, "a base of 4 bits", "bfloat16", "float32")
LOOKS = (HONEST, JUNK, NO_ADAPTER, FOUR_BITS)
