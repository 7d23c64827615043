"""Faults on purpose: planned alike from one seed, and done to real processes; and how a network is
shown.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from node.testnet.faults import LASTS_S, Fault, plan_faults, run_faults, spoil
from node.testnet.viewing import Seen, row_of, view
from tests.node.twin import Twin, serve_twin
from tests.p2p.helpers import eventually


@given(st.integers(), st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
def test_faults_follow_one_another_and_a_seed_repeats_them(seed: int, names: list[str]) -> None:
    planned = list(islice(plan_faults(names, seed=seed), 40))
    assert planned == list(islice(plan_faults(names, seed=seed), 40))
    assert {one.name for one in planned} <= set(names)
    assert all(LASTS_S[0] <= one.lasts_s <= LASTS_S[1] for one in planned)
    assert all(one.at_s + one.lasts_s <= after.at_s for one, after in pairwise(planned))


def test_what_is_spoilt_differs_in_one_bit_and_a_home_without_files_has_nothing(
    tmp_path: Path,
) -> None:
    assert spoil(tmp_path, Random(1)) is None
    (tmp_path / "blocks" / "ab").mkdir(parents=True)
    (tmp_path / "key").write_bytes(bytes(32))
    block = tmp_path / "blocks" / "ab" / "one"
    block.write_bytes(bytes(100))
    assert spoil(tmp_path, Random(1)) == Path("blocks/ab/one")
    assert sum(byte.bit_count() for byte in block.read_bytes()) == 1
    assert (tmp_path / "key").read_bytes() == bytes(32)


@dataclass
class Line:
    """A network of one process that waits."""

    home: Path
    nodes: dict[str, Any] = field(default_factory=dict)
    revived: int = 0

    async def revive(self) -> None:
        self.revived += 1
        self.start()

    def start(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        member = SimpleNamespace(home=self.home)
        self.nodes["a"] = SimpleNamespace(member=member, child=SimpleNamespace(process=process))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.nodes["a"].child.process  # type: ignore[no-any-return]


def state_of(pid: int) -> str:
    """As the kernel says: S waits, T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def test_a_node_is_frozen_and_goes_on_and_is_killed_and_comes_back(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.start()
    told: list[str] = []
    do: Callable[..., Any] = run_faults
    try:
        pid = line.process.pid
        async with trio.open_nursery() as nursery:
            freeze = Fault(0.0, "freeze", "a", 600.0)
            nursery.start_soon(do, line, [freeze], Random(1), lambda _, what: told.append(what))
            await eventually(lambda: state_of(pid) == "T")
            nursery.cancel_scope.cancel()
        await eventually(lambda: state_of(pid) != "T")
        faults = [Fault(0.0, "crash", "a", 0.0), Fault(0.0, "spoil", "a", 0.0)]
        with trio.fail_after(60):
            await run_faults(line, faults, Random(1), lambda _, what: told.append(what))  # type: ignore[arg-type]
        assert line.revived == 1
        assert line.process.pid != pid
        assert told[-1] == "has nothing to spoil"
    finally:
        line.process.send_signal(signal.SIGKILL)
        line.process.wait()


async def test_a_network_is_shown_with_who_does_not_answer(tmp_path: Path) -> None:
    drawn = io.StringIO()
    async with serve_twin(Twin()) as url:
        home = tmp_path / "client"
        home.mkdir()
        note = f'{{"pid": 1, "http": "{url}", "p2p": [], "peer_id": "x"}}'
        (home / "daemon.json").write_text(note)
        homes = {"client": home, "gone": tmp_path / "gone"}
        rows = await view(homes, Console(file=drawn, width=120), looks=1)
    assert [(one.node, one.role, one.peers, one.wrong) for one in rows] == [
        ("client", "gateway", 1, ""),
        ("gone", "", 0, "does not answer"),
    ]
    assert "gone" in drawn.getvalue()


async def test_speed_is_what_was_made_between_two_looks() -> None:
    status = await Twin().status()
    before = replace(status, engine={"tokens_generated": 100})
    now = replace(
        status, engine={"tokens_generated": 160, "adapters_ready": ["a", "b"]}, waits_for="a base"
    )
    row = row_of(Seen("a", now, 12.0), Seen("a", before, 10.0))
    assert (row.tokens_s, row.adapters, row.wrong) == (30.0, 2, "waits for a base")
    assert row_of(Seen("a", now, 12.0), None).tokens_s is None
    again = row_of(Seen("a", before, 12.0), Seen("a", now, 10.0))
    assert again.tokens_s == 0, "it was started again"
