"""A volunteer that is killed fifty times while it is asked and pulls adapters loses no receipt, and
no adapter is damaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.proofs.killed import Seen, measure
from tests.node.tiny import make_base

KILLS = 50


def test_an_answer_whose_node_died_before_its_receipt_is_no_lost_receipt() -> None:
    seen = Seen()
    seen.note({"receipt": None})  # whole by its tokens; nobody has signed anything
    seen.note({"receipt": "ab" * 32})
    assert seen.receipts == ["ab" * 32]
    assert seen.unreceipted == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_no_receipt_is_lost_or_signed_twice_and_no_adapter_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_BASE_PATH", str(make_base(tmp_path / "base")))
    found = await measure(tmp_path / "network", KILLS)
    assert found["receipts_lost"] == found["places_signed_twice"] == 0
    assert found["adapters_corrupted"] == found["blocks_corrupted"] == []
    assert found["answers"] > KILLS
    assert found["adapters_pulled"] > 0
