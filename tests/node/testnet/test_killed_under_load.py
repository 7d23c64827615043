"""A volunteer that is killed fifty times while it is asked and pulls adapters loses no receipt, and
no adapter is damaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.proofs.killed import measure
from tests.node.tiny import make_base

KILLS = 50


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
