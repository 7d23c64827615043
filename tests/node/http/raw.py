"""HTTP by hand, for clients that no library would be: bytes out, one answer in."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Reply:
    """An answer; of a stream, which has no length, its headers alone."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Raw:
    """A connection that sends what it is told to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.socket = socket.create_connection((parts.hostname, parts.port), DEADLINE_S)
        self._data = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it, or as much as the other side takes before it closes."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def reply(self) -> Reply:
        """Read one answer."""
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(self._data) < length:
            self._more()
        body, self._data = self._data[:length], self._data[length:]
        return Reply(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the other side ends the connection, after whatever it still says."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            return True
        return True

    def _more(self) -> None:
        data = self.socket.recv(1 << 16)
        assert data, f"closed after {self._data!r}"
        self._data += data


def request(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    host: str = "127.0.0.1",
    headers: tuple[str, ...] = (),
) -> bytes:
    """The bytes of a request; `path` and `headers` go out as they are."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin1") + body


def ask(url: str, data: bytes) -> Reply:
    """One answer to these bytes, on a connection of its own."""
    with Raw(url) as raw:
        raw.send(data)
        return raw.reply()
