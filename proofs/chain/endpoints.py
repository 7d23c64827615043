"""Which of several Ethereum nodes is asked: the first that works. One that fails rests, longer each
time, and is asked again afterwards; one of another chain is never believed.

What the network or the node refuses gets the name of one of our errors here, before web3 reads it.
Nothing is sent twice to one node: who calls knows what may be repeated. Another node gets the same
request when one does not answer, or answers with something else; a signed transaction is the same
transaction wherever it is sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from hexbytes import HexBytes
from web3.providers import BaseProvider
from web3.types import RPCEndpoint, RPCResponse

from . import depth  # noqa: F401
from .answers import check_answer, read_quantity
from .compiled import decode_revert
from .errors import ChainError, ChainUnreachable, OddAnswer, RpcRefused, WrongChain

FIRST_REST_S = 1.0
LONGEST_REST_S = 300.0
RATE_LIMITED = ("rate limit", "too many requests", "request limit", "capacity exceeded")


@dataclass
class Endpoint:
    """One node, and how it has behaved: failures in a row, and until when it is left in peace."""

    name: str
    provider: BaseProvider
    failures: int = 0
    rests_until: float = 0.0
    trouble: str = ""
    is_of_our_chain: bool = False

    def worked(self) -> None:
        """It answered."""
        self.failures = 0
        self.rests_until = 0.0
        self.trouble = ""

    def failed(self, error: ChainError, now: float) -> None:
        """It did not."""
        rest_s = min(FIRST_REST_S * 2**self.failures, LONGEST_REST_S)
        self.failures = min(self.failures + 1, 30)
        self.rests_until = now + rest_s
        self.trouble = str(error)
        self.is_of_our_chain = False


@dataclass(frozen=True)
class Health:
    """What an operator is told about one node; `trouble` is empty while it works."""

    name: str
    trouble: str


class Endpoints(BaseProvider):
    """Several nodes of one chain, as web3 wants one.

    Threads may share it: what they may overwrite of one another is only how an endpoint is doing.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._endpoints = tuple(endpoints)
        self._clock = clock
        self._chain_id: int | None = None

    def pin(self, chain_id: int) -> None:
        """Believe only nodes of this chain from now on."""
        self._chain_id = chain_id
        for endpoint in self._endpoints:
            endpoint.is_of_our_chain = False

    def health(self) -> list[Health]:
        """How each node is doing."""
        return [Health(endpoint.name, endpoint.trouble) for endpoint in self._endpoints]

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """The result of one request, or a ChainError."""
        errors: list[tuple[Endpoint, ChainError]] = []
        for endpoint in self._in_order():
            try:
                result = self._ask(endpoint, method, params)
            except (ChainUnreachable, OddAnswer, WrongChain) as error:
                endpoint.failed(error, self._clock())
                errors.append((endpoint, error))
            else:
                endpoint.worked()
                return {"jsonrpc": "2.0", "id": 1, "result": result}
        raise gather(errors)

    def _in_order(self) -> list[Endpoint]:
        """Those that work, in the operator's order; then those that rest, the soonest first: all
        are asked before we give up.
        """
        now = self._clock()
        return sorted(
            self._endpoints,
            key=lambda one: 0.0 if one.rests_until <= now else one.rests_until,
        )

    def _ask(self, endpoint: Endpoint, method: RPCEndpoint, params: Any) -> Any:
        if self._chain_id is not None and not endpoint.is_of_our_chain:
            self._check_chain(endpoint, self._chain_id)
        return request(endpoint, method, params)

    def _check_chain(self, endpoint: Endpoint, wanted: int) -> None:
        answer = request(endpoint, RPCEndpoint("eth_chainId"), ())
        found = read_quantity(answer, "the chain's id")
        if found != wanted:
            raise WrongChain(
                f"{endpoint.name} is on chain {found}, not {wanted}; check chain_rpc and chain_id"
            )
        endpoint.is_of_our_chain = True


def request(endpoint: Endpoint, method: RPCEndpoint, params: Any) -> Any:
    """What one node answers, of the kind that belongs to the question. ChainError."""
    answer = exchange(lambda: endpoint.provider.make_request(method, params), endpoint.name)
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        raise ChainUnreachable(
            f"{endpoint.name} answers {method} with something that is not JSON-RPC"
        )
    if answer.get("error") is not None:
        refusal = read_error(answer["error"])
        if any(words in refusal.message.lower() for words in RATE_LIMITED):
            raise ChainUnreachable(f"{endpoint.name} wants to be asked less: {refusal}")
        raise refusal
    check_answer(method, params, answer.get("result"))
    return answer.get("result")


def exchange(send: Callable[[], Any], node: str) -> Any:
    """The JSON that comes back.

    Some nodes refuse a call with an HTTP status of 400 besides: then their words count.
    """
    try:
        return send()
    except requests.RequestException as error:
        if error.response is not None:
            with suppress(ValueError, TypeError, KeyError):  # no JSON, or no JSON-RPC
                return {"error": error.response.json()["error"]}
        raise ChainUnreachable(f"no answer from the chain at {node}: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ChainUnreachable(f"{node} answers with something that is not JSON") from error


def reason_of(error: requests.RequestException) -> str:
    """Why a request failed, without the path of its address, which requests puts into its words."""
    if error.response is not None:
        return f"HTTP status {error.response.status_code}"
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return f"{type(error).__name__} {reason or ''}".strip()


def read_error(error: Any) -> RpcRefused:
    """The exception for a node's error object; a contract's own error is decoded by name."""
    if not isinstance(error, dict):
        return RpcRefused(0, str(error))
    data = error.get("data")
    if isinstance(data, str) and data.startswith("0x") and len(data) >= 10:
        with suppress(ValueError):
            return decode_revert(bytes(HexBytes(data)))
    code = error.get("code")
    return RpcRefused(code if isinstance(code, int) else 0, str(error.get("message", error)))


def gather(errors: Sequence[tuple[Endpoint, ChainError]]) -> ChainError:
    """The one error for what all nodes said."""
    if len(errors) == 1:
        return errors[0][1]
    said = "; ".join(f"{endpoint.name}: {error}" for endpoint, error in errors)
    kinds = {type(error) for _, error in errors}
    kind = kinds.pop() if len(kinds) == 1 else ChainUnreachable
    return kind(f"none of {len(errors)} nodes answers as it should: {said}")


def shown(url: str) -> str:
    """A node's address without its path, which on public nodes is the operator's secret."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
