"""The compiled contracts, as committed under artifacts/: how to speak to them and how to read their
errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..digest import keccak
from .abi import decode, input_types
from .errors import ContractReverted

ARTIFACTS = Path(__file__).parent / "artifacts"
CONTRACTS = (
    "Channels",
    "Court",
    "DevDollar",
    "Disputes",
    "Erc3009Collector",
    "Guardian",
    "IFeeToken",
    "LorikeetGovernor",
    "LorikeetToken",
    "Multicall3",
    "Parameters",
    "Registry",
    "Settlement",
    "Stake",
    "Timelock",
)


@dataclass(frozen=True)
class Signature:
    """A function, event or error of a contract: its name, its values' types, and the hash that
    stands for it.
    """

    name: str
    inputs: tuple[str, ...]

    @property
    def hash(self) -> bytes:
        """Keccak of the canonical form: an event's topic; the first four bytes select a function or
        an error.
        """
        return keccak(f"{self.name}({','.join(self.inputs)})".encode())


@dataclass(frozen=True)
class Contract:
    """One artifact."""

    name: str
    abi: list[Any]
    bytecode: bytes
    runtime_bytecode: bytes
    sentences: dict[str, str]

    def find(self, kind: str, name: str) -> Signature:
        """The signature with this name; names are unique in our contracts."""
        return next(signature for signature in self.signatures(kind) if signature.name == name)

    def signatures(self, kind: str) -> Iterator[Signature]:
        """All functions, events or errors."""
        for entry in self.abi:
            if entry["type"] == kind:
                yield Signature(entry["name"], input_types(entry))


@cache
def load_contract(name: str) -> Contract:
    """The artifact of one contract."""
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text())
    code, runtime_code = (
        bytes.fromhex(artifact[key][2:]) for key in ("bytecode", "runtime_bytecode")
    )
    return Contract(name, artifact["abi"], code, runtime_code, sentences=artifact["errors"])


@cache
def load_errors() -> dict[bytes, tuple[Signature, str]]:
    """Every custom error of our contracts by its selector, with the sentence that explains it."""
    standard = (Signature("Error", ("string",)), Signature("Panic", ("uint256",)))
    found = {signature.hash[:4]: (signature, "") for signature in standard}
    for contract in map(load_contract, CONTRACTS):
        for signature in contract.signatures("error"):
            found.setdefault(
                signature.hash[:4], (signature, contract.sentences.get(signature.name, ""))
            )
    return found


def decode_revert(data: bytes) -> ContractReverted:
    """What a contract said when it reverted; an error that we do not know is named by its
    selector.
    """
    signature, sentence = load_errors().get(data[:4], (None, ""))
    if signature is None:
        return ContractReverted(f"0x{data[:4].hex()}", (data[4:],), "", data)
    try:
        values = decode(signature.inputs, data[4:])
    except ValueError:
        values = (data[4:],)
    return ContractReverted(signature.name, values, sentence, data)
