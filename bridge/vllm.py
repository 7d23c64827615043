"""Asks a vLLM server what the bridge wants to know. Decides nothing.

Routes: /health, /v1/models, /v1/load_lora_adapter, /v1/unload_lora_adapter, /metrics, and
/inference/v1/generate, which takes and gives token ids (`vllm serve --enable-scale-out`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from .errors import ServerBroke, ServerLost, ServerRefused
from .http import Http, Reply, Silent
from .replies import Figures, Model, Piece, read_event, read_figures, read_models, read_refusal

ASK_DEADLINE_S = 5.0
LOAD_DEADLINE_S = 60.0
SILENCE_DEADLINE_S = 120.0
OK = 200
BUSY = 503

GENERATE = "/inference/v1/generate"
LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"


class Pieces:
    """The pieces of an answer as they come."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> Piece:
        """Wait for the next piece. Raises ServerBroke, ServerRefused where the server is silent."""
        try:
            while (line := await self._reply.read_line()) is not None:
                piece = read_event(line)
                if piece is not None:
                    return piece
        except Silent as error:
            raise ServerRefused(BUSY, f"{error}; ask later or another node") from error
        raise StopAsyncIteration


class Vllm:
    """One server. Every call raises ServerLost where nobody answers, ServerRefused with what the
    server said, ServerBroke for what makes no sense. `key` is what it was given as --api-key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._http = Http(url, key)

    async def check_health(self) -> None:
        """Ask whether its engine lives."""
        await self._ask("GET", "/health")

    async def models(self) -> list[Model]:
        """List what is served."""
        return read_models(await self._ask("GET", "/v1/models"))

    async def figures(self) -> Figures:
        """Read what it measures of itself."""
        return read_figures((await self._ask("GET", "/metrics")).decode(errors="replace"))

    async def load(self, name: str, path: str) -> None:
        """Have it serve the adapter in a folder that it sees."""
        await self._ask("POST", LOAD, {"lora_name": name, "lora_path": path}, LOAD_DEADLINE_S)

    async def unload(self, name: str) -> None:
        """Have it forget an adapter."""
        await self._ask("POST", UNLOAD, {"lora_name": name}, LOAD_DEADLINE_S)

    @asynccontextmanager
    async def generate(self, body: dict[str, Any]) -> AsyncIterator[Pieces]:
        """Ask for tokens, and give the pieces of the answer; leaving the block ends it there."""
        asked = self._http.ask("POST", GENERATE, msgspec.json.encode(body), SILENCE_DEADLINE_S)
        async with asked as reply:
            if reply.status != OK:
                raise ServerRefused(reply.status, read_refusal(await reply.read_all()))
            yield Pieces(reply)

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, str] | None = None,
        deadline_s: float = ASK_DEADLINE_S,
    ) -> bytes:
        sent = None if body is None else msgspec.json.encode(body)
        try:
            async with self._http.ask(method, path, sent, deadline_s) as reply:
                data = await reply.read_all()
        except ServerBroke as error:
            raise ServerLost(f"vLLM does not answer {path}: {error}") from error
        if reply.status != OK:
            raise ServerRefused(reply.status, read_refusal(data))
        return data
