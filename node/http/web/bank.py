"""Relays what a page's payer signed to the chain: a deposit, and the way back of what is left.
Reads and bounds; what is taken decides money/selling.py.

    POST /deposit      a channel's config and an ERC-3009 signature → the transaction
    GET /channel/0x…   what the chain says lies in a channel
    POST /refund       config and a voucher for exactly what was spent → the rest goes to its payer
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proofs.hextext import to_hex

from ...api.sales import Bank, Refund
from ...errors import BadRequest, NodeError
from ..fields import BadField
from ..problems import json_response, problem_of, problem_response
from ..selling.body import (
    Config,
    Deposit,
    SignedVoucher,
    config_of,
    deposit_of,
    voucher_of,
)

MAX_BODY_BYTES = 4096
BODY_DEADLINE_S = 10.0
CHANNEL = re.compile("0x([0-9a-f]{64})")

T = TypeVar("T")
Answer = Callable[[Request], Awaitable[dict[str, Any]]]


class Paying(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A deposit that a wallet signed, and the channel that it is for."""

    config: Config
    deposit: Deposit


class Leaving(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A channel whose rest is wanted back."""

    config: Config
    voucher: SignedVoucher


def bank_routes(bank: Bank) -> list[Route]:
    """Return the routes."""

    async def deposit(request: Request) -> dict[str, Any]:
        asked = await read(request, Paying)
        return {"transaction": await bank.relay(config_of(asked.config), deposit_of(asked.deposit))}

    async def channel(request: Request) -> dict[str, Any]:
        found = CHANNEL.fullmatch(request.path_params["channel"])
        if found is None:
            raise BadRequest("a channel is named by 0x and 64 hex digits")
        return {"balance": str(await bank.balance(bytes.fromhex(found[1])))}

    async def refund(request: Request) -> dict[str, Any]:
        asked = await read(request, Leaving)
        done = await bank.refund(Refund(config_of(asked.config), voucher_of(asked.voucher), None))
        return {
            "channel": to_hex(done.channel_id),
            "transaction": done.transaction,
            "moved": str(done.moved),
        }

    return [
        Route("/deposit", answering(deposit), methods=["POST"]),
        Route("/channel/{channel}", answering(channel)),
        Route("/refund", answering(refund), methods=["POST"]),
    ]


def answering(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return a route of what gives an object or raises a NodeError."""

    async def route(request: Request) -> Response:
        try:
            return json_response(await answer(request), headers={"cache-control": "no-store"})
        except BadField as error:
            return problem_response(problem_of(BadRequest(str(error))))
        except NodeError as error:
            return problem_response(problem_of(error))

    return route


async def read(request: Request, kind: type[T]) -> T:
    """Read a small body of this form. Raises BadRequest."""
    body = b""
    with trio.move_on_after(BODY_DEADLINE_S):
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise BadRequest(f"the body has more than {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not what is asked for: {error}") from None
