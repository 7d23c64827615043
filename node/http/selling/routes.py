"""Sells answers to anybody over HTTP (x402, version 2): OpenAI's routes answer 402 and what has to
be paid, then the answer.

Decides how much strangers may ask; what a payment must be decides money/selling.py.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2p.gossip import RateLimit

from ...api.adapters import AdapterInfo
from ...api.sales import Refund, Sale, SaleRefused, SaleTerms, Settled, Shop, Standing
from ...errors import NodeError
from ..completions import AnswerResponse, list_models
from ..fields import BadField
from ..guard import Arriving, read_body
from ..openai import parse
from ..problems import Problem, json_response, problem_of, problem_response
from ..public import public_config
from ..server import serve_app
from ..shapes import AnswerShape
from . import body, shape

MAX_CONNECTIONS = 128
MAX_CONNECTION_S = 600.0
REQUESTS_PER_S = 32.0  # of all together
REQUESTS_AT_ONCE = 256
CLIENT_REQUESTS_PER_S = 8.0
CLIENT_REQUESTS_AT_ONCE = 64
MAX_CLIENTS = 4096
ROUTES = {"/v1/chat/completions": True, "/v1/completions": False}
"""What is sold, and whether it is a chat."""
USAGE = re.compile(r"/v1/usage/0x([0-9a-f]{64})")
TOO_MANY = Problem(429, "too_many_requests", "too many requests; ask again in a second")
NOT_SOLD = Problem(
    404,
    "no_such_route",
    "sold here: POST /v1/chat/completions and /v1/completions; free: GET /v1/models, /v1/prices,"
    " /v1/usage/<channel id>",
)

NO_CHANNELS = Problem(404, "no_such_route", "answers are paid outright here: nothing is left over")


class Seller(Protocol):
    """What of a daemon strangers reach."""

    def shop(self) -> Shop:
        """Return what is sold. Raises NodeError where nothing is."""

    async def adapters(self) -> list[AdapterInfo]:
        """List every adapter that is held here or has been heard of."""


class Sales:
    """The application. `clock` gives seconds."""

    def __init__(self, seller: Seller, clock: Callable[[], float] = trio.current_time) -> None:
        self._seller = seller
        self._clock = clock
        self._arriving = Arriving()
        self._all = RateLimit(REQUESTS_PER_S, REQUESTS_AT_ONCE, 1)
        self._each = RateLimit(CLIENT_REQUESTS_PER_S, CLIENT_REQUESTS_AT_ONCE, MAX_CLIENTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        try:
            answer = self._limit(request) or await self._answer(request, receive)
        except NodeError as error:
            answer = problem_response(problem_of(error))
        except BadField as error:
            answer = problem_response(Problem(400, "bad_request", str(error), error.field))
        await answer(scope, receive, send)

    def _limit(self, request: Request) -> Response | None:
        now = self._clock()
        client = request.client.host if request.client else ""
        if self._each.allow((client, ""), now) and self._all.allow(("", ""), now):
            return None
        response = problem_response(TOO_MANY)
        response.headers["retry-after"] = "1"
        return response

    async def _answer(self, request: Request, receive: Receive) -> ASGIApp:
        path, method = request.url.path, request.method
        shop = self._seller.shop()
        if path in ROUTES and method == "POST":
            return await self._sell(shop, request, await read_body(receive, self._arriving))
        if path in ROUTES and method == "GET":  # a client that wants its rest back asks so
            return await self._give_back(shop, request)
        if method != "GET":
            return problem_response(NOT_SOLD)
        if path == "/v1/models":
            listed = await list_models(self._seller)
            return json_response({"object": "list", "data": listed})
        if path == "/v1/prices":
            return json_response(shape.prices(await shop.terms()))
        found = USAGE.fullmatch(path)
        standing = shop.standing(bytes.fromhex(found[1])) if found else None
        if found is None or standing is None:
            return problem_response(NOT_SOLD)
        return json_response(shape.channel_state(standing))

    async def _sell(self, shop: Shop, request: Request, data: bytes | Problem) -> ASGIApp:
        if isinstance(data, Problem):
            return problem_response(data)
        asked = parse(data, chat=ROUTES[request.url.path])
        if len(asked.requests) != 1:
            raise BadField("n", "one payment buys one answer: one prompt, n=1")
        priced = await shop.price(asked.requests[0])
        terms = await shop.terms()
        bill = Bill(shop, terms, str(request.url), priced.amount)
        given = request.headers.get(body.HEADER)
        if given is None:
            return bill.refuse("PAYMENT-SIGNATURE header is required")
        payment = body.read_payment(given, terms)
        if isinstance(payment, Refund):
            return await self._refund(shop, bill, payment)
        answer_id = ("chatcmpl-" if asked.chat else "cmpl-") + secrets.token_hex(12)
        answer = AnswerShape(asked, answer_id, int(time.time()))

        async def selling(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                async with shop.sell(payment, priced) as sale:
                    paying = bill.with_response(send, sale)
                    await AnswerResponse(sale, asked, answer)(scope, receive, paying)
            except SaleRefused as error:
                await bill.refuse_payment(error)(scope, receive, send)
            except NodeError as error:
                await problem_response(problem_of(error))(scope, receive, send)

        return selling

    async def _give_back(self, shop: Shop, request: Request) -> Response:
        terms = await shop.terms()
        if not terms.takes_channels:
            return problem_response(NO_CHANNELS)
        bill = Bill(shop, terms, str(request.url), terms.min_deposit)
        given = request.headers.get(body.HEADER)
        if given is None:
            return bill.refuse("PAYMENT-SIGNATURE header is required")
        refund = body.read_payment(given, terms)
        if not isinstance(refund, Refund):
            raise BadField(
                body.HEADER, "GET gives money back, and answers nothing; POST the request"
            )
        return await self._refund(shop, bill, refund)

    async def _refund(self, shop: Shop, bill: Bill, refund: Refund) -> Response:
        try:
            standing = await shop.refund(refund)
        except SaleRefused as error:
            return bill.refuse_payment(error)
        told = {"message": "Refund acknowledged", "channelId": f"0x{standing.channel_id.hex()}"}
        settled = shape.header(shape.response(bill.terms, standing, None))
        return json_response(told, headers={"payment-response": settled.decode()})


class Bill:
    """What one request may cost, and whom that is paid."""

    def __init__(self, shop: Shop, terms: SaleTerms, url: str, amount: int) -> None:
        self.terms = terms
        self._shop = shop
        self._url = url
        self._amount = amount

    def refuse_payment(self, error: SaleRefused) -> Response:
        """Say why a payment is not taken."""
        return self.refuse(error.reason, str(error), error.standing)

    def refuse(self, error: str, message: str = "", standing: Standing | None = None) -> Response:
        """Say what has to be paid: in the header, and in the body for people."""
        told = shape.required(self.terms, self._url, self._amount, error, standing)
        told["extensions"] = shape.signed_offers(shape.offers_of(told), self._shop.sign)
        problem = Problem(402, "payment_required", message or error).as_json()
        headers = {"payment-required": shape.header(told).decode(), "cache-control": "no-store"}
        return json_response(told | problem | {"reason": error}, 402, headers)

    def with_response(self, send: Send, sale: Sale) -> Send:
        """Return a `send` whose headers tell what was charged, and that it was served, if the
        answer is whole by then.
        """

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = shape.header(self._response(sale, failed=message["status"] >= 400))
                message = {**message, "headers": [*message["headers"], (b"payment-response", told)]}
            await send(message)

        return sending

    def _response(self, sale: Sale, *, failed: bool) -> dict[str, Any]:
        charged = (sale.charged or 0) if failed else sale.charged
        standing = sale.standing()
        if isinstance(standing, Settled):
            told = shape.settled(self.terms, standing, failed=failed)
        else:
            told = shape.response(self.terms, standing, charged)
        if charged is not None and not failed:
            served = shape.served(self.terms, self._url, standing.payer, int(time.time()))
            told["extensions"] = shape.signed_receipt(served, self._shop.sign)
        return told


async def serve_sales(seller: Seller, sock: socket.socket) -> None:
    """Serve until cancelled. Takes ownership of the socket and closes it."""
    app: ASGIApp = Sales(seller)
    await serve_app(
        app,
        sock,
        config=public_config(),
        max_connections=MAX_CONNECTIONS,
        max_connection_s=MAX_CONNECTION_S,
    )
