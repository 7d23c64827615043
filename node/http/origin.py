"""Asks another hub for what the swarm does not have, and passes on what it answers.

Files stream through and are not redirected: huggingface_hub checks a file's size and nothing else,
so here its sha-256 is compared with the one that the origin states, and the last bytes of a false
file are never given. Where the origin breaks off, so does the client's connection: then it asks for
the rest. Decides what an origin is told (never more than path, range and token) and what of its
answer is passed on. Does not know what the swarm has; keeps no file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from .passage import Passage, Passages
from .relaying import Broken, Relayed, leave

CONNECT_S = 5.0
SILENCE_S = 30.0
HEAD_SILENCE_S = 8.0
"""How long an origin may say nothing. huggingface_hub waits 10 s for the answer to a HEAD: it is to
hear before that who is silent.
"""
MAX_AT_ONCE = 32
MAX_REDIRECTS = 5
MAX_LISTING_BYTES = 32 << 20
MAX_HEADER_CHARS = 1024
FROM = "x-lorikeet-from"
HASH = "x-lorikeet-hash"
ASKED = ("authorization", "range")
"""What of a client's headers an origin is told; another host than its own gets no token."""
TOLD = ("etag", "x-repo-commit", "x-linked-etag", "x-linked-size")
"""What the origin itself says of a file; where it sends elsewhere for the bytes, that host's word
on these does not count.
"""
PASSED = ("content-type", "content-disposition", "last-modified", "accept-ranges", "content-range")
ERRORS = ("x-error-code", "x-error-message")
SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')
REST = re.compile(r"bytes=([0-9]{1,15})-")

logger = logging.getLogger(__name__)


class OriginFailed(Exception):
    """The origin did not answer, or not truly; the message names it."""


@dataclass
class Answer:
    """What came back: the open response with the bytes, and what the origin says of them."""

    response: httpx.Response
    told: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        """Return the file's hash, where the origin states it."""
        stated = self.told.get("x-linked-etag") or self.told.get("etag", "")
        found = SHA256.fullmatch(stated)
        return found[1] if found else None

    @property
    def first_byte(self) -> int:
        """Return which byte of the file comes first."""
        told = re.match(r"bytes ([0-9]{1,15})-", self.response.headers.get("content-range", ""))
        return int(told[1]) if told else 0

    @property
    def size_bytes(self) -> int | None:
        """Return how large the whole file is, None where that is not said."""
        headers = self.response.headers
        whole = headers.get("content-range", "").rpartition("/")[2]
        if self.response.status_code == httpx.codes.OK and "content-range" not in headers:
            whole = headers.get("content-length", "")
        if self.response.is_redirect or not whole.isdecimal():
            whole = self.told.get("x-linked-size", "")
        return int(whole) if whole.isdecimal() else None


class Origin:
    """Another hub. `url` has no slash at its end."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._home = httpx.URL(url)
        self._client = client
        self._places = trio.CapacityLimiter(MAX_AT_ONCE)
        self._passages = Passages()

    async def answer(self, request: Request, prefix: str, missing: str = "") -> Response:
        """Answer a request for a path below `prefix` as the origin does.

        `missing` is what the swarm says of it. Raises OriginFailed.
        """
        path = request.scope["raw_path"].decode("latin-1").removeprefix(prefix)
        if ".." in path.split("/"):
            raise OriginFailed(f"{self.url} is not asked for {path!r}")
        query = request.scope["query_string"].decode("latin-1")
        target = f"{self.url}{path}" + (f"?{query}" if query else "")
        asked = {name: request.headers[name] for name in ASKED if name in request.headers}
        async with self._places:
            if "/resolve/" not in path:
                return await self._listing(request, target, asked, missing)
            if request.method == "HEAD":
                return await self._head(target, asked, missing)
        return await self._file(target, asked, missing)

    # --- what is asked ---

    async def _listing(
        self, request: Request, target: str, asked: dict[str, str], missing: str
    ) -> Response:
        """Pass on what is no file: descriptions and listings, in JSON."""
        answer = await self._ask(request.method, target, asked)
        if answer.response.is_error:
            return await self._refusal(answer, missing)
        data = await self._read(answer.response, MAX_LISTING_BYTES)
        here = str(request.base_url).rstrip("/") + request.scope["path"].partition("/api/")[0]
        headers = {FROM: self.url, **_some(answer.response.headers, ("content-type",))}
        headers |= _some(answer.told, TOLD)
        following = answer.response.links.get("next", {}).get("url", "")
        if following.startswith(f"{self.url}/"):
            headers["link"] = f'<{here}{following.removeprefix(self.url)}>; rel="next"'
        return Response(_without_xet(data), answer.response.status_code, headers)

    async def _head(self, target: str, asked: dict[str, str], missing: str) -> Response:
        answer = await self._ask("HEAD", target, asked)
        if answer.response.is_error:
            return await self._refusal(answer, missing)
        await answer.response.aclose()
        headers = self._headers(answer)
        headers.pop("content-range", None)
        if answer.size_bytes is not None:
            headers["content-length"] = str(answer.size_bytes)
        return Response(None, 200, headers)

    async def _file(self, target: str, asked: dict[str, str], missing: str) -> Response:
        """Pass a file on, or the rest of it from a byte on; other ranges as they come."""
        wanted = REST.fullmatch(asked.get("range", "bytes=0-"))
        start = int(wanted[1]) if wanted else 0
        if self._passages.is_false(target, trio.current_time()):
            raise OriginFailed(self._lie(target))
        known = self._passages.find(target) if start else None
        mark = Passages.mark(known, start) if known is not None else None
        if mark is not None:
            asked = {**asked, "range": f"bytes={mark.offset}-"}
        answer = await self._ask("GET", target, asked)
        if answer.response.is_error:
            return await self._refusal(answer, missing)
        if known is not None and known.sha256 != answer.sha256:
            await answer.response.aclose()
            raise OriginFailed(f"{target} changed at its origin while it came; fetch it anew")
        if start and start >= (answer.size_bytes or start + 1):
            await answer.response.aclose()
            headers = {FROM: self.url, "content-range": f"bytes */{answer.size_bytes}"}
            return Response(None, 416, headers)
        if wanted is not None and answer.first_byte > start:
            await answer.response.aclose()
            raise OriginFailed(f"{self.url} begins {target} at byte {answer.first_byte}")
        check = None
        if known is not None and mark is not None and answer.first_byte == mark.offset:
            check = Passage(known, mark)
        elif wanted is not None and answer.first_byte == 0 and answer.sha256 is not None:
            check = self._passages.begin(target, answer.sha256)
        return self._relay(target, answer, start if wanted else None, check)

    def _relay(
        self, target: str, answer: Answer, start: int | None, check: Passage | None
    ) -> Response:
        """Return the answer that streams; `start` None passes the range on as it is."""
        headers = {**self._headers(answer), HASH: "sha256" if check else "unchecked"}
        status = answer.response.status_code
        skip = 0 if start is None else start - answer.first_byte
        size_bytes = answer.size_bytes
        if start is not None and size_bytes is not None:
            headers.pop("content-range", None)
            headers["content-length"] = str(size_bytes - start)
            status = 200
            if start:
                status = 206
                headers["content-range"] = f"bytes {start}-{size_bytes - 1}/{size_bytes}"
        elif "content-length" in answer.response.headers and not skip:
            headers["content-length"] = answer.response.headers["content-length"]
        pieces = self._pieces(target, answer, skip, check)
        return Relayed(answer.response, status, headers, pieces)

    async def _pieces(
        self, target: str, answer: Answer, skip: int, check: Passage | None
    ) -> AsyncGenerator[bytes]:
        """Yield a file's bytes but the first `skip`; the last ones once all were found true.

        Raises Broken.
        """
        held = b""
        source = answer.response.aiter_raw()
        try:
            async for data in source:
                if check is not None:
                    check.take(data)
                piece = data[skip:]
                skip -= len(data) - len(piece)
                if not piece:
                    continue
                if held:
                    yield held
                held = piece
        except httpx.HTTPError as error:
            raise Broken(f"{target} broke off: {_reason(error)}") from error
        finally:
            await leave(source)
        if check is not None and not check.is_true(trio.current_time()):
            raise Broken(self._lie(target))
        if held:
            yield held

    # --- how it is asked ---

    async def _ask(self, method: str, target: str, asked: Mapping[str, str]) -> Answer:
        """Ask the origin, and whom it sends on to; a HEAD is not sent on to another host."""
        url = httpx.URL(target)
        told: dict[str, str] = {}
        for _ in range(MAX_REDIRECTS):
            is_origin = self._is_home(url)
            headers = {"accept-encoding": "identity", "user-agent": "lorikeet", **asked}
            if not is_origin:
                headers.pop("authorization", None)
            response = await self._send(method, url, headers)
            if is_origin:
                told = _some(response.headers, (*TOLD, *ERRORS)) | _some(told, TOLD)
            if response.is_error or response.status_code in (200, 206):
                return Answer(response, told)
            following = self._following(response)
            if method == "HEAD" and not self._is_home(following):
                return Answer(response, told)
            await response.aclose()
            if following.scheme not in ("https", url.scheme):
                raise OriginFailed(f"{self.url} sends from {url.scheme} on to {following.scheme}")
            url = following
        raise OriginFailed(f"{self.url} sends in circles for {target}")

    def _following(self, response: httpx.Response) -> httpx.URL:
        """Return where an answer sends on to. Raises OriginFailed where it does not."""
        try:
            return response.url.join(response.headers["location"])
        except (KeyError, httpx.InvalidURL, ValueError) as error:
            raise OriginFailed(
                f"{self.url} answers {response.status_code}, and no place to go on"
            ) from error

    async def _send(self, method: str, url: httpx.URL, headers: dict[str, str]) -> httpx.Response:
        try:
            silence_s = HEAD_SILENCE_S if method == "HEAD" else SILENCE_S
            timeout = httpx.Timeout(silence_s, connect=CONNECT_S)
            request = self._client.build_request(method, url, headers=headers, timeout=timeout)
            return await self._client.send(request, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OriginFailed(f"{self.url} cannot be asked: {_reason(error)}") from error

    def _is_home(self, url: httpx.URL) -> bool:
        home = self._home
        return (url.scheme, url.host, url.port) == (home.scheme, home.host, home.port)

    async def _read(self, response: httpx.Response, max_bytes: int) -> bytes:
        """Read a bounded answer to its end."""
        data = bytearray()
        source = response.aiter_raw()
        try:
            async for part in source:
                data += part
                if len(data) > max_bytes:
                    raise OriginFailed(f"{self.url} says more than {max_bytes} bytes")
        except httpx.HTTPError as error:
            raise OriginFailed(f"{self.url} broke off: {_reason(error)}") from error
        finally:
            await leave(source)
            await response.aclose()
        return bytes(data)

    async def _refusal(self, answer: Answer, missing: str) -> Response:
        """Pass on why the origin refuses, and what the swarm said."""
        await answer.response.aclose()
        status = answer.response.status_code
        said = answer.told.get("x-error-message") or answer.response.reason_phrase or str(status)
        message = _line(f"{self.url}: {said}" + (f"; the swarm: {missing}" if missing else ""))
        headers = {FROM: self.url, **_some(answer.told, ("x-repo-commit", "x-error-code"))}
        headers["x-error-message"] = message
        data = msgspec.json.encode({"error": message})
        return Response(data, status, headers, media_type="application/json")

    def _headers(self, answer: Answer) -> dict[str, str]:
        headers = {FROM: self.url, "accept-ranges": "bytes"}
        headers |= _some(answer.response.headers, PASSED) if not answer.response.is_redirect else {}
        headers |= _some(answer.told, TOLD)
        return headers

    def _lie(self, target: str) -> str:
        return f"{target} is not the file that {self.url} states: its sha-256 is another"


@asynccontextmanager
async def open_origin(url: str) -> AsyncIterator[Origin]:
    """Open connections to an origin, made when they are needed."""
    async with httpx.AsyncClient() as client:
        yield Origin(url, client)


def _some(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: _line(headers[name]) for name in names if name in headers}


def _line(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text[:MAX_HEADER_CHARS])


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _without_xet(data: bytes) -> bytes:
    """Return a listing without the words by which clients fetch files past this one, unchecked."""
    if b'"xetHash"' not in data:
        return data
    try:
        listed: list[dict[str, Any]] = msgspec.json.decode(data, type=list[dict[str, Any]])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return data
    for entry in listed:
        entry.pop("xetHash", None)
    return msgspec.json.encode(listed)
