"""The aggregator looks after its office although there is nothing to post."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest

from node.money.aggregator import AggregatorRole
from node.telemetry import Telemetry
from proofs.aggregator import Pace
from proofs.ledger import Ledger
from proofs.signing import Signer
from tests.node.networks import open_lab


def test_it_says_that_it_is_there_although_no_block_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=("aggregator",)) as lab:
        assert lab.chain is not None
        secret = lab.identity("aggregator").secret
        chain = lab.chain.client(secret)
        nobody = cast(Any, None)
        role = AggregatorRole(
            nobody,
            chain,
            Signer(secret),
            Ledger(":memory:"),
            Telemetry(),
            quorum=nobody,
            pace=Pace(grace_s=1, promise_s=600, epoch_s=1),
        )
        role._fill_bond_and_show()
        assert chain.rpc.nonce(chain.address) == 0  # deployed a moment ago
        later = time.time() + chain.settlement.terms.silence / 2
        monkeypatch.setattr(time, "time", lambda: later)
        role._fill_bond_and_show()
        assert chain.rpc.nonce(chain.address) == 1
        chain.close()
