"""Sends a file on to a client while it comes from somewhere else.

Where it breaks off, so does the client's connection, without an end: then the client knows, and
asks for the rest. Where the client leaves, nothing more is fetched. Does not know what the file is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)


class Broken(Exception):
    """A file stopped in its middle."""


class Relayed(Response):
    """A file on its way; where it breaks off, so does the client's connection, which can resume."""

    def __init__(
        self,
        upstream: httpx.Response,
        status: int,
        headers: dict[str, str],
        pieces: AsyncGenerator[bytes],
    ) -> None:
        self._upstream = upstream
        self._pieces = pieces
        super().__init__(None, status, headers)
        if "content-length" not in headers:
            del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until it ends or the client leaves."""
        try:
            async with trio.open_nursery() as nursery, aclosing(self._pieces) as pieces:
                nursery.start_soon(_leave_with_client, receive, nursery.cancel_scope)
                await self._send_all(pieces, send)
                nursery.cancel_scope.cancel()
        finally:
            await self._upstream.aclose()

    async def _send_all(self, pieces: AsyncIterator[bytes], send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        left = int(self.headers.get("content-length", sys.maxsize))
        try:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise Broken(f"{self._upstream.url} has more bytes than were stated")
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if left and "content-length" in self.headers:
                raise Broken(f"{self._upstream.url} ended {left} bytes before its end")
        except Broken as error:  # an end without the last piece closes the connection
            logger.warning("hub: %s", error)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _leave_with_client(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def leave(source: AsyncIterator[bytes]) -> None:
    """End a response in its middle: under trio, httpx's generators must end by an error in a read,
    or they are left to the garbage collector.
    """
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in source:
            pass
