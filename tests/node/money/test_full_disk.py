"""A daemon whose disk is full: it says so, lives, and works again when there is space."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from node.errors import NodeError
from p2p.blocks.store import BlockStore
from tests.node.networks import ask, open_lab


def full(*_: object, **__: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_node_whose_disk_is_full_says_so_lives_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            await ask(gateway)
            assert volunteer.money is not None
            ledger = volunteer.money._books.ledger
            (pages,) = ledger.read("PRAGMA page_count")[0]
            ledger.read(f"PRAGMA max_page_count = {pages}")
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", full)
                patched.setattr(BlockStore, "_write", full)
                for _ in range(40):
                    with suppress(NodeError):
                        await ask(gateway)
                    if "inbound" in volunteer.telemetry.troubles:
                        break
                assert "disk is full" in volunteer.telemetry.troubles["inbound"]
                volunteer.telemetry.log("a line that is lost")
                assert (await volunteer.status()).counters["log_lines_lost"]
            ledger.read(f"PRAGMA max_page_count = {2**30}")
            assert (await ask(gateway)).ended.completion_tokens == 8
            assert volunteer.telemetry.troubles == {}
