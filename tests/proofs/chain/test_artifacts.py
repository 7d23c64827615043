"""The committed artifacts belong to the committed sources.

Needs no npm: scripts/contracts --check recompiles.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from proofs.chain.compiled import ARTIFACTS, CONTRACTS, load_contract, load_errors

PROJECT = Path(__file__).resolve().parents[3] / "contracts"


@pytest.mark.parametrize("name", CONTRACTS)
def test_an_artifact_names_the_hashes_of_its_sources(name: str):
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text())
    for source, digest in artifact["sources"].items():
        assert hashlib.sha256((PROJECT / source).read_bytes()).hexdigest() == digest, (
            f"{source} changed: run scripts/contracts"
        )
    package = json.loads((PROJECT / "package.json").read_text())
    assert artifact["packages"] == package["dependencies"]
    assert artifact["compiler"].startswith(package["dependencies"]["solc"] + "+")


def test_every_source_is_in_some_artifact():
    named = {
        source
        for name in CONTRACTS
        for source in json.loads((ARTIFACTS / f"{name}.json").read_text())["sources"]
    }
    assert named == {
        str(path.relative_to(PROJECT))
        for folder in ("src", "dev")
        for path in (PROJECT / folder).rglob("*.sol")
    }


def test_what_is_placed_without_a_constructor_has_no_immutables():
    for name in ("Channels", "Erc3009Collector", "Multicall3"):
        assert json.loads((ARTIFACTS / f"{name}.json").read_text())["has_immutables"] is False


def test_every_error_of_our_own_says_a_sentence():
    inherited = (
        "ERC20",
        "ERC2612",
        "ERC3009",
        "SafeERC20",
        "ECDSA",
        "InvalidAccountNonce",
        "InvalidShortString",
        "StringTooLong",
        "FailedCall",
    )
    inherited += ("AddressEmptyCode", "ReentrancyGuard", "SafeCast", "Error", "Panic")
    inherited += ("ERC5805", "ERC6372", "VotesExpiredSignature", "CheckpointUnordered")
    inherited += ("Governor", "Timelock", "AccessControl", "Checkpoint", "QueueEmpty", "QueueFull")
    silent = [
        signature.name
        for signature, sentence in load_errors().values()
        if not sentence and not signature.name.startswith(inherited)
    ]
    assert silent == []


def test_the_lock_file_names_no_registry():
    assert '"resolved"' not in (PROJECT / "package-lock.json").read_text()


def test_the_channels_speak_the_abi_of_x402():
    abi = pytest.importorskip("x402.mechanisms.evm.batch_settlement.abi").BATCH_SETTLEMENT_ABI

    def shape(entry):
        def types(key):
            return [component_types(one) for one in entry.get(key, [])]

        return (
            entry["type"],
            entry["name"],
            types("inputs"),
            types("outputs"),
            entry.get("stateMutability"),
        )

    def component_types(one):
        return (
            one["type"],
            one["name"],
            one.get("indexed"),
            [component_types(part) for part in one.get("components", [])],
        )

    ours = {(entry["type"], entry.get("name")): entry for entry in load_contract("Channels").abi}
    for entry in abi:
        assert shape(ours[entry["type"], entry["name"]]) == shape(entry)
