"""JSON-RPC over HTTP to an Ethereum node. Knows requests and errors; no contract and no key.

Written by hand instead of through web3's provider, which retries `eth_sendRawTransaction` by itself and gives the
same revert another class on each kind of node. Nothing is retried here: who calls knows what may be sent twice.
"""

from __future__ import annotations

import itertools
from typing import Any

import httpx

from .compiled import decode_revert
from .errors import ChainUnreachable, RpcRefused

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
REQUEST_DEADLINE_S = 15.0


class Rpc:
    """One node. Safe to share between threads."""

    def __init__(self, url: str, deadline_s: float = REQUEST_DEADLINE_S) -> None:
        self.url = url
        self._http = httpx.Client(timeout=deadline_s)
        self._numbers = itertools.count(1)

    def call(self, method: str, *params: object) -> Any:
        """The result of one request. ChainUnreachable, RpcRefused, or ContractReverted when a contract says no."""
        request = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        answer = self._exchange(request)
        if "error" in answer:
            raise read_error(answer["error"])
        return answer.get("result")

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def _exchange(self, request: dict[str, object]) -> dict[str, Any]:
        try:
            with self._http.stream("POST", self.url, json=request) as response:
                body = b""
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > MAX_RESPONSE_BYTES:
                        raise ChainUnreachable(f"{self.url} answers {request['method']} with more than {MAX_RESPONSE_BYTES} bytes")
            answer = httpx.Response(response.status_code, content=body).json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ChainUnreachable(f"no answer from the chain at {self.url}: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ChainUnreachable(f"{self.url} answers with something that is not JSON (HTTP {response.status_code})") from error
        if not isinstance(answer, dict):
            raise ChainUnreachable(f"{self.url} answers with something that is not JSON-RPC")
        return answer


def read_error(error: dict[str, Any]) -> RpcRefused:
    """The exception for a node's error object; a contract's own error is decoded by name."""
    data = error.get("data")
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        return decode_revert(bytes.fromhex(data[2:]))
    return RpcRefused(int(error.get("code", 0)), str(error.get("message", error)))
