"""Asks a node of the test network over its HTTP face, concurrently.

Knows the routes, not the network. Decides nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from ..api.adapters import AdapterInfo, PullReport
from ..api.money import EarningsInfo, ReceiptInfo, WhyInfo
from ..api.status import PeerInfo, StatusInfo
from ..api.verifying import AttestationInfo

CONNECT_S = 5.0
ANSWER_S = 120.0
Value = TypeVar("Value")


class AskFailed(Exception):
    """A node refused or did not answer; `code` is the error's code if it has one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Asking:
    """An answer as it arrives.

    `clock_s` at the first and last text is kept to measure the pace that a client sees.
    """

    model: str
    prompt: str
    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    asked_s: float = field(default_factory=time.monotonic)
    text_s: list[float] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Return how many tokens were answered."""
        return self.usage.get("completion_tokens", 0)

    @property
    def tokens_s(self) -> float:
        """Return the tokens per second after the first one."""
        spent = self.text_s[-1] - self.text_s[0] if len(self.text_s) > 1 else 0.0
        return (self.tokens - 1) / spent if spent > 0 else 0.0


class NodeClient:
    """One node's HTTP face. Every method raises AskFailed."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        )

    async def __aenter__(self) -> NodeClient:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def status(self) -> StatusInfo:
        """Fetch the node's status."""
        return await self._get("status", StatusInfo)

    async def adapters(self) -> list[AdapterInfo]:
        """List the adapters that it holds or has heard of."""
        return await self._get("adapters", list[AdapterInfo])

    async def peers(self) -> list[PeerInfo]:
        """List its connected peers, and how much each counts."""
        return await self._get("peers", list[PeerInfo])

    async def attestations(self) -> list[AttestationInfo]:
        """List the verdicts on answers that it made or heard, the newest first."""
        return await self._get("attestations", list[AttestationInfo])

    async def receipts(self) -> list[ReceiptInfo]:
        """List the receipts in its ledger."""
        return await self._get("receipts", list[ReceiptInfo])

    async def receipt(self, digest: str) -> bytes:
        """Fetch a signed receipt's bytes."""
        return (await self._send("GET", f"/lorikeet/v1/receipts/{digest}")).content

    async def why(self, digest: str) -> WhyInfo:
        """Have it say whose text the answer of a receipt drew on."""
        return await self._get(f"why/{digest}", WhyInfo)

    async def earnings(self) -> list[EarningsInfo]:
        """List who earned what."""
        return await self._get("earnings", list[EarningsInfo])

    async def pull(self, model: str) -> PullReport:
        """Have it fetch an adapter."""
        response = await self._send("POST", "/lorikeet/v1/pull", {"model": model})
        return msgspec.json.decode(response.content, type=PullReport)

    async def push(self, folder: Path, key: Path | None = None) -> AdapterInfo:
        """Have it publish a folder (an absolute path, like the creator's key)."""
        response = await self._send(
            "POST",
            "/lorikeet/v1/push",
            {"folder": str(folder), "key": None if key is None else str(key)},
        )
        return msgspec.json.decode(response.content, type=AdapterInfo)

    async def ask(
        self, answer: Asking, on_text: Callable[[str], None] = lambda text: None, **options: Any
    ) -> Asking:
        """Stream one chat answer into `answer`."""
        body = {
            "model": answer.model,
            "messages": [{"role": "user", "content": answer.prompt}],
            "stream": True,
            **options,
        }
        body["stream_options"] = {"include_usage": True}
        answer.asked_s = time.monotonic()
        async for chunk in self._stream("/v1/chat/completions", body):
            answer.facts |= chunk.get("lorikeet") or {}
            answer.usage |= chunk.get("usage") or {}
            for choice in chunk["choices"]:
                text = choice["delta"].get("content")
                if text:
                    answer.text += text
                    answer.text_s.append(time.monotonic())
                    on_text(text)
        return answer

    async def _get(self, path: str, kind: type[Value]) -> Value:
        return msgspec.json.decode(
            (await self._send("GET", f"/lorikeet/v1/{path}")).content, type=kind
        )

    async def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise AskFailed(f"{self._http.base_url}{path}: {error!r}") from error
        if response.status_code != httpx.codes.OK:
            raise failure_of(response)
        return response

    async def _stream(self, path: str, body: object) -> AsyncIterator[dict[str, Any]]:
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise failure_of(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        chunk = json.loads(line[6:])
                        if "error" in chunk:
                            raise AskFailed(chunk["error"]["message"], chunk["error"]["code"])
                        yield chunk
        except httpx.TransportError as error:
            raise AskFailed(f"{self._http.base_url}{path}: {error!r}") from error


def failure_of(response: httpx.Response) -> AskFailed:
    """Build the error that a node's response describes."""
    try:
        error = response.json()["error"]
        return AskFailed(error["message"], error["code"])
    except (ValueError, KeyError, TypeError):
        return AskFailed(f"status {response.status_code}")
