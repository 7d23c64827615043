"""Asks a Lorikeet node over HTTP: which adapter a name means, its manifest, its files.

Believes of the node what a name means, and nothing else: whoever reads what comes from here checks
it against a hash. Every answer is bounded and has a deadline.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import quote

from .manifest import MAX_MANIFEST_BYTES, NotTrue, digest_of

MAX_INFO_BYTES = 1 << 20
TAG = "lorikeet:"


class NodeFailed(Exception):
    """The node is away, or does not have what was asked for; the message says which."""


class Unknown(NodeFailed):
    """No adapter of the swarm has that name."""


class Answer:
    """An answer on its way, of so many bytes at most and until a time."""

    def __init__(self, response: http.client.HTTPResponse, until: float) -> None:
        self._response = response
        self._until = until

    def read(self, num_bytes: int) -> bytes:
        """Read so many bytes, less at the end. Raises NodeFailed."""
        data = b""
        while len(data) < num_bytes:
            if time.monotonic() > self._until:
                raise NodeFailed("the node took too long")
            part = self._response.read1(min(num_bytes - len(data), 1 << 16))
            if not part:
                break
            data += part
        return data


class Node:
    """One node. `url` has no slash at its end."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def find(self, name: str) -> str:
        """Return the CID of the adapter that a name means; the node fetches it unless it is there.

        Raises Unknown, NodeFailed.
        """
        with self._ask(f"/hub/api/models/{quote(name, safe='/@')}") as answer:
            try:
                told = json.loads(answer.read(MAX_INFO_BYTES))
                tags = [str(tag) for tag in told["tags"]]
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise NodeFailed(f"{self._url} answers as no hub does: {error}") from error
        cids = [tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)]
        if not cids or "lora" not in tags:  # a base, or of another hub behind the node
            raise Unknown(f"{name!r} is no adapter of the swarm")
        try:
            digest_of(cids[0])
        except NotTrue as error:
            raise NodeFailed(f"{self._url}: {error}") from error
        return cids[0]

    def manifest(self, cid: str) -> bytes:
        """Return the bytes that the node has for a manifest. Raises NodeFailed, NotTrue."""
        with self._ask(f"/lorikeet/v1/blocks/{digest_of(cid).hex()}") as answer:
            return answer.read(MAX_MANIFEST_BYTES + 1)

    def file(self, cid: str, name: str) -> AbstractContextManager[Answer]:
        """Open the answer with a file of an adapter. Raises NodeFailed."""
        return self._ask(f"/hub/{cid}/resolve/main/{quote(name)}")

    @contextmanager
    def _ask(self, path: str) -> Iterator[Answer]:
        until = time.monotonic() + self._timeout_s
        try:
            with self._open(self._url + path, timeout=self._timeout_s) as response:
                yield Answer(response, until)
        except urllib.error.HTTPError as error:
            said = error.headers.get("x-error-message") or f"status {error.code}"
            error.close()
            raise (Unknown if error.code == 404 else NodeFailed)(str(said)[:500]) from None
        except (OSError, http.client.HTTPException) as error:
            raise NodeFailed(f"{self._url}: {getattr(error, 'reason', error)}") from error
