"""Gives the command line its view of a running daemon: finds it, asks it, and turns failures into
exit codes.

Decides which daemon is asked and how long to wait for it. Prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from ..api.status import CoinInfo, StatusInfo
from ..config import load_config
from ..running import read_running

CONNECT_S = 5.0
QUICK_ANSWER_S = 30.0
LONG_ANSWER_S = 600.0

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
EXIT_INTERRUPTED = 130

Value = TypeVar("Value")


class CliError(Exception):
    """Ends the command with `exit_code`; the message is what the user reads."""

    def __init__(self, message: str, exit_code: int = EXIT_ERROR) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def find_url(home: Path) -> str:
    """Return the daemon's HTTP address: from its note, else from its configuration."""
    running = read_running(home)
    if running is not None:
        return running.http
    config = load_config(home)
    return f"http://{config.http_host}:{config.http_port}"


class DaemonClient:
    """Asks one daemon over HTTP. Every method raises `CliError`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._http = httpx.Client(
            base_url=find_url(home),
            trust_env=False,
            timeout=httpx.Timeout(QUICK_ANSWER_S, connect=CONNECT_S),
        )

    def get(self, path: str, kind: type[Value], *, timeout_s: float = QUICK_ANSWER_S) -> Value:
        """Fetch one `/lorikeet/v1` value."""
        return decode(self._send("GET", path, timeout_s=timeout_s).content, kind)

    def coin(self) -> CoinInfo:
        """Ask in what the daemon's amounts are."""
        return self.get("status", StatusInfo).coin

    def get_bytes(self, path: str) -> bytes:
        """Fetch one `/lorikeet/v1` object as raw bytes."""
        return self._send("GET", path).content

    def post(self, path: str, body: object, kind: type[Value]) -> Value:
        """Tell a `/lorikeet/v1` route to do something that may take minutes."""
        return decode(self._send("POST", path, body, LONG_ANSWER_S).content, kind)

    def post_bytes(self, path: str, data: bytes, kind: type[Value]) -> Value:
        """Give a `/lorikeet/v1` route raw bytes; it may take minutes."""
        return decode(self._send("POST", path, timeout_s=LONG_ANSWER_S, content=data).content, kind)

    def delete(self, path: str) -> None:
        """Have one `/lorikeet/v1` object deleted."""
        self._send("DELETE", path)

    @contextmanager
    def stream(self, path: str, body: object = None) -> Iterator[Iterator[dict[str, Any]]]:
        """Yield the chunks of a streamed answer, to a POST or without a body to a GET; leaving the
        block early hangs up, which cancels the answer.
        """
        method = "GET" if body is None else "POST"
        timeout = httpx.Timeout(LONG_ANSWER_S, connect=CONNECT_S)
        with (
            self._translated(),
            self._http.stream(method, path, json=body, timeout=timeout) as response,
        ):
            if response.status_code != httpx.codes.OK:
                response.read()
                raise error_of(response)
            yield events_of(response)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _send(
        self,
        method: str,
        path: str,
        body: object = None,
        timeout_s: float = QUICK_ANSWER_S,
        *,
        content: bytes | None = None,
    ) -> httpx.Response:
        with self._translated():
            timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
            response = self._http.request(
                method, f"/lorikeet/v1/{path}", json=body, content=content, timeout=timeout
            )
        if response.status_code != httpx.codes.OK:
            raise error_of(response)
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            message = (
                f"no daemon is running for {self._home}. Start it with: lorikeet up --home"
                f" {self._home}"
            )
            raise CliError(message, EXIT_NO_DAEMON) from None
        except httpx.TimeoutException:
            raise CliError(
                "the daemon did not answer in time; see its log with: tail "
                + str(self._home / "log")
            ) from None
        except httpx.TransportError as error:
            raise CliError(
                f"the daemon hung up in mid-answer ({error or type(error).__name__})"
            ) from None


@contextmanager
def open_client(home: Path) -> Iterator[DaemonClient]:
    """Open a client for the length of one command."""
    client = DaemonClient(home)
    try:
        yield client
    finally:
        client.close()


def decode(data: bytes, kind: type[Value]) -> Value:
    """Decode a value from the daemon; one of another version may send something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise CliError(
            f"the daemon answered in another form than this command knows ({error}); are both the"
            " same version?"
        ) from None


def error_of(response: httpx.Response) -> CliError:
    """Build the error that the daemon's response describes."""
    try:
        return CliError(str(response.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return CliError(
            f"the daemon answered {response.status_code}; is something else listening on its port?"
        )


def events_of(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the server-sent events of a response, decoded."""
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise CliError(str(chunk["error"]["message"]))
        yield chunk
