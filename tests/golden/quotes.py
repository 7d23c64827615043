"""One of every message of the quote protocol, by field and by bytes."""

from __future__ import annotations

from typing import Any

from node.wire.quote import AskQuote, NoQuote, Quote, encode
from proofs.receipt import BARE_BASE

from .world import ADAPTER, BASE, named

LARGEST = (1 << 63) - 1


def quotes() -> dict[str, Any]:
    """A question with four answers; one with the largest values that fit; one for the bare base."""
    wanted = AskQuote(
        BASE, ADAPTER, [], prompt_tokens=42, max_tokens=128, prompt_price=100, completion_price=500
    )
    largest = AskQuote(
        BASE,
        ADAPTER,
        [bytes([number]) * 32 for number in range(8)],
        prompt_tokens=32_768,
        max_tokens=8_192,
        prompt_price=LARGEST,
        completion_price=LARGEST,
    )
    most = Quote(
        "absent",
        LARGEST,
        (1 << 32) - 1,
        (1 << 32) - 1,
        tokens_outstanding=(1 << 32) - 1,
        prompt_price=LARGEST,
        completion_price=LARGEST,
        first_token_ms=600_000,
        stands_ms=600_000,
        answers=(1 << 32) - 1,
    )
    bare = AskQuote(
        BASE, BARE_BASE, [], prompt_tokens=1, max_tokens=1, prompt_price=0, completion_price=0
    )
    return {
        "exchanges": [
            _exchange(wanted, _quote("slot", None, first_token_ms=31)),
            _exchange(wanted, _quote("disk", None, running=3, waiting=1, first_token_ms=94)),
            _exchange(wanted, _quote("absent", 5_242_880, first_token_ms=702)),
            _exchange(wanted, NoQuote("wrong_base")),
            _exchange(largest, most),
            _exchange(bare, _quote("slot", None, first_token_ms=0, answers=1)),
        ]
    }


def _quote(residency: Any, fetch_bytes: int | None, **changes: int) -> Quote:
    values = {"running": 0, "waiting": 0, "first_token_ms": 0, "answers": 64} | changes
    return Quote(
        residency,
        fetch_bytes,
        values["running"],
        values["waiting"],
        tokens_outstanding=130 * (values["running"] + values["waiting"]),
        prompt_price=10,
        completion_price=50,
        first_token_ms=values["first_token_ms"],
        stands_ms=10_000,
        answers=values["answers"],
    )


def _exchange(asked: AskQuote, answer: Quote | NoQuote) -> list[dict[str, Any]]:
    return [
        {"message": type(one).__name__, "fields": named(one), "hex": encode(one).hex()}
        for one in (asked, answer)
    ]
