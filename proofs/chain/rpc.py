"""web3, set up for one Ethereum node: what it is asked, and how its errors get their names.

Knows no key.

Nothing is retried: who calls knows what may be sent twice. What a node refuses becomes one of our
errors before web3 reads it, for web3 gives the same revert another class on each kind of node and
does not decode a contract's own errors. Importing web3 costs most of a second: who may have no
chain at all imports this module when he has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import requests
import urllib3
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.contract import Contract
from web3.exceptions import BadFunctionCallOutput
from web3.middleware import Web3Middleware
from web3.providers import BaseProvider
from web3.types import RPCEndpoint, RPCResponse

from ..hextext import to_hex
from .compiled import decode_revert, load_contract
from .errors import ChainUnreachable, RpcRefused, WrongChain

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
PIECE_BYTES = 64 * 1024
REQUEST_DEADLINE_S = 15.0


class Rpc:
    """One node. Safe to share between threads."""

    def __init__(
        self, url: str, deadline_s: float = REQUEST_DEADLINE_S, provider: BaseProvider | None = None
    ) -> None:
        self.url = url
        self._session = (
            requests.Session()
        )  # one for all threads, so that it can be closed; its pool of connections has a lock
        self._session.hooks["response"].append(
            lambda response, **_: read_bounded(response, deadline_s)
        )
        asked = {"timeout": deadline_s, "allow_redirects": False}
        http = HTTPProvider(url, asked, self._session, exception_retry_configuration=None)
        self.web3 = Web3(provider or http, middleware=[(NamedErrors, "named errors")], ens=None)
        self._contracts: dict[tuple[str, bytes], Contract] = {}

    def call(self, method: str, *params: object) -> Any:
        """The result of one request, as the node words it.

        ChainUnreachable, RpcRefused, or ContractReverted when a contract says no.
        """
        return self.web3.manager.request_blocking(RPCEndpoint(method), params)

    def contract(self, name: str, address: bytes) -> Contract:
        """One of our contracts, at this address."""
        if (name, address) not in self._contracts:  # to make one takes a millisecond
            self._contracts[name, address] = self.web3.eth.contract(
                Web3.to_checksum_address(address), abi=load_contract(name).abi
            )
        return self._contracts[name, address]

    def read(self, name: str, address: bytes, function: str, *values: object) -> tuple[Any, ...]:
        """What a view function of a contract returns."""
        call = self.contract(name, address).functions[function](*values)
        try:
            answer = call.call()
        except BadFunctionCallOutput as error:
            there = f"at {to_hex(address)} on the chain at {self.url}"
            raise WrongChain(
                f"there is no {name} contract {there}; check the addresses and the RPC"
            ) from error
        return (answer,) if len(call.abi["outputs"]) == 1 else tuple(answer)

    def close(self) -> None:
        """Give the connections back."""
        self._session.close()


class NamedErrors(Web3Middleware):
    """All that web3 does on its way to a node: raise our errors for what the node or the network
    refuses.
    """

    def wrap_make_request(
        self, make_request: Callable[[RPCEndpoint, Any], RPCResponse]
    ) -> Callable[[RPCEndpoint, Any], RPCResponse]:
        """A request that returns a result or raises a ChainError."""
        node = getattr(self._w3.provider, "endpoint_uri", "memory")

        def request(method: RPCEndpoint, params: Any) -> RPCResponse:
            answer = exchange(lambda: make_request(method, params), node)
            if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
                raise ChainUnreachable(
                    f"{node} answers {method} with something that is not JSON-RPC"
                )
            if answer.get("error") is not None:
                raise read_error(answer["error"])
            return cast(RPCResponse, answer)

        return request


def exchange(send: Callable[[], Any], node: object) -> Any:
    """The JSON that comes back.

    Some nodes refuse a call with an HTTP status of 400 besides: then their words count.
    """
    try:
        return send()
    except requests.RequestException as error:
        if error.response is not None:
            with suppress(ValueError, TypeError, KeyError):  # no JSON, or no JSON-RPC
                return {"error": error.response.json()["error"]}
        raise ChainUnreachable(
            f"no answer from the chain at {node}: {error or type(error).__name__}"
        ) from error
    except ValueError as error:
        raise ChainUnreachable(f"{node} answers with something that is not JSON") from error


def read_bounded(response: requests.Response, deadline_s: float) -> None:
    """Read a response before requests does, which knows no end: neither of its size nor of the time
    it takes.
    """
    until = time.monotonic() + deadline_s
    body = bytearray()
    try:
        while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > MAX_RESPONSE_BYTES or time.monotonic() > until:
                response.close()
                raise ChainUnreachable(
                    f"{response.url} answers with more than {MAX_RESPONSE_BYTES} bytes or for"
                    f" longer than {deadline_s:g} s"
                )
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    response._content = bytes(body)


def read_error(error: Any) -> RpcRefused:
    """The exception for a node's error object; a contract's own error is decoded by name."""
    if not isinstance(error, dict):
        return RpcRefused(0, str(error))
    data = error.get("data")
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        with suppress(ValueError):
            return decode_revert(bytes(HexBytes(data)))
    return RpcRefused(int(error.get("code", 0)), str(error.get("message", error)))
