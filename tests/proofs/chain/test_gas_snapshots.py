"""What a change of gas looks like to whoever makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.proofs import gas
from tests.proofs.chain.world import memory_world


@pytest.fixture
def _snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gas, "SNAPSHOTS", tmp_path)
    (tmp_path / "Vault.json").write_text(json.dumps({"open": 21_000, "shut": 5_000}))


@pytest.mark.usefixtures("_snapshot")
def test_equal_gas_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gas.check({"Vault": {"open": 21_000, "shut": 5_000}}) == 0
    assert capsys.readouterr().out == "gas: as the snapshots say\n"


@pytest.mark.usefixtures("_snapshot")
def test_other_gas_fails_with_before_after_and_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gas.check({"Vault": {"open": 21_500, "shut": 5_000}}) == 1
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown[0] == ["Vault", "before", "after", "change"]
    assert shown[1] == ["open", "21,000", "21,500", "+500"]
    assert shown[2][-1] == "scripts/contracts"
    assert len(shown) == 3, "what costs as before is not shown"


@pytest.mark.usefixtures("_snapshot")
def test_calls_that_came_or_went_fail_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert gas.check({"Vault": {"open": 21_000, "peek": 300}}) == 1
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["shut", "5,000", "-"] in shown
    assert ["peek", "-", "300"] in shown


def test_a_contract_without_a_snapshot_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert gas.check({"Nowhere": {"open": 1}}) == 1
    assert "Nowhere" in capsys.readouterr().out


def test_two_chains_of_one_seed_have_the_same_hashes():
    """What a post costs depends on the zeros of the hash that it names."""
    hashes = []
    for _ in range(2):
        world, chain = memory_world(seed="one")
        world.fund(world.config(), 1_000)
        world.earn(1_000)
        world.post(world.next_header())
        hashes.append([block.header.hash for block in chain.blocks])
    assert hashes[0] == hashes[1]
