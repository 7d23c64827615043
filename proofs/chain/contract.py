"""Speaks to one contract at one address, with one key. Knows no contract's functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..hextext import from_hex
from .errors import OddAnswer
from .views import View

if TYPE_CHECKING:  # they bring web3: a daemon without a chain must not wait for it
    from web3.types import EventData

    from .rpc import Rpc
    from .wallet import TransactionReceipt, Wallet


@dataclass(frozen=True)
class DeployedContract:
    """A contract, by the name of its artifact and its address; who asks it, and who signs for it.

    A transaction must be in a block `deadline_s` after it was sent.
    """

    name: str
    address: bytes
    rpc: Rpc
    wallet: Wallet
    deadline_s: float

    def beside(self, name: str, address: bytes) -> DeployedContract:
        """Another contract on the same chain, for the same key."""
        return replace(self, name=name, address=address)

    def read(self, function: str, *values: object, block: str | int = "latest") -> tuple[Any, ...]:
        """Call a view function; all that it returns, at a block."""
        return self.rpc.read(self.name, self.address, function, *values, block=block)

    def read_one(self, function: str, *values: object, block: str | int = "latest") -> Any:
        """Call a view function that returns one value."""
        (value,) = self.read(function, *values, block=block)
        return value

    def read_together(self, *functions: str) -> list[Any]:
        """Call view functions that take nothing and return one value: in one request, all at one
        block.
        """
        views = [View(self.name, self.address, function, ()) for function in functions]
        return [value for (value,) in self.rpc.read_many(views)]

    def events(
        self, event: str, wanted: Mapping[str, object], *, first: int, last: int
    ) -> Iterator[EventData]:
        """The contract's events between two blocks, both included, oldest first; `wanted` are
        values of indexed arguments.
        """
        return self.rpc.search(self.name, self.address, event, wanted, first=first, last=last)

    def encode(self, function: str, *values: object) -> bytes:
        """Encode a call, for whoever sends it in a way of its own."""
        return from_hex(self.rpc.contract(self.name, self.address).encode_abi(function, values))

    def decode_call(self, data: bytes) -> tuple[str, tuple[Any, ...]]:
        """The function that a call names, and its values. OddAnswer."""
        from web3.exceptions import Web3Exception  # brings web3

        try:
            function, values = self.rpc.contract(self.name, self.address).decode_function_input(
                data
            )
        except (Web3Exception, ValueError, TypeError) as error:
            raise OddAnswer(f"this call is none of {self.name}: {error}") from error
        return function.fn_name, tuple(map(_plain, values.values()))

    def send(self, function: str, *values: object) -> TransactionReceipt:
        """Call a function in a transaction, and wait until it is in a block.

        ContractReverted when the contract refuses: then nothing is sent.
        """
        return self.wallet.send(self.address, self.encode(function, *values), self.deadline_s)


def _plain(value: Any) -> Any:
    """A struct's values in its order, however web3 gives them."""
    if isinstance(value, Mapping):
        return tuple(map(_plain, value.values()))
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value
