"""Puts a planned load on a node and notes what comes of it. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable

import trio
import trio.lowlevel

from .asking import AskFailed, Asking, NodeClient
from .loading import Outcome, Planned

PROMPT = "What should I know about this?"
MAX_UNDER_WAY = 512
LATE_S = 1.0
TOO_MANY = "not asked: too many were under way"


async def put_load(
    client: NodeClient, planned: Iterable[Planned], max_tokens: int
) -> tuple[list[Outcome], int]:
    """Ask each question in its time, however slow the answers are; return what came of them, and
    how many were asked late.
    """
    outcomes: list[Outcome] = []
    late = 0
    began = trio.current_time()
    places = trio.CapacityLimiter(MAX_UNDER_WAY)

    async def ask(one: Planned, place: object) -> None:
        try:
            outcomes.append(await ask_one(client, one.model, max_tokens))
        finally:
            places.release_on_behalf_of(place)

    async with trio.open_nursery() as nursery:
        for one in planned:
            await trio.sleep_until(began + one.at_s)
            late += trio.current_time() - began - one.at_s > LATE_S
            place = object()
            try:
                places.acquire_on_behalf_of_nowait(place)
            except trio.WouldBlock:
                outcomes.append(Outcome(one.model, None, 0.0, 0, TOO_MANY))
            else:
                nursery.start_soon(ask, one, place)
    return outcomes, late


async def ask_one(client: NodeClient, model: str, max_tokens: int) -> Outcome:
    """Ask one question."""
    began = time.monotonic()
    try:
        answer = await client.ask(Asking(model, PROMPT), max_tokens=max_tokens)
    except AskFailed as error:
        return Outcome(model, None, 1000 * (time.monotonic() - began), 0, error.code or "failed")
    first_ms = 1000 * (answer.text_s[0] - began) if answer.text_s else None
    return Outcome(model, first_ms, 1000 * (time.monotonic() - began), answer.tokens)
