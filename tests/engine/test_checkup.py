"""The engine looks over its own tables when nobody asks for anything."""

from __future__ import annotations

import socket
from pathlib import Path
from queue import SimpleQueue

import pytest

from engine import server
from engine.config import EngineConfig
from engine.engine import Engine
from engine.grammar import Grammars
from engine.intake import Limits
from engine.kv.pages import PagePool
from engine.kv.prefix import PrefixCache
from engine.lora.arena import ALIGN_BYTES, Arena
from engine.lora.bank import SlotBank
from engine.lora.held import HeldAdapters
from engine.lora.host_cache import HostCache
from engine.lora.loader import Source
from engine.lora.slots import SlotTable
from engine.messages import Failed
from engine.schedule import Budget
from engine.scheduler import Scheduler
from engine.server import CHECK_EVERY_S, IDLE_BEFORE_CHECK_S, Checkup, Server


class Counting:
    """Stands for an engine; counts its checks."""

    def __init__(self) -> None:
        self.checks = 0

    def check(self) -> None:
        self.checks += 1


def test_it_checks_when_idle_and_not_again_before_a_minute() -> None:
    engine = Counting()
    checkup = Checkup()
    checkup.visit(engine, True, 100.0)  # type: ignore[arg-type]  # all that a checkup asks of it
    for passed_s in (1.0, IDLE_BEFORE_CHECK_S - 0.1):
        checkup.visit(engine, False, 100.0 + passed_s)  # type: ignore[arg-type]
    assert engine.checks == 0
    for passed_s in (IDLE_BEFORE_CHECK_S, CHECK_EVERY_S):
        checkup.visit(engine, False, 100.0 + passed_s)  # type: ignore[arg-type]
    assert engine.checks == 1
    checkup.visit(engine, False, 101.0 + IDLE_BEFORE_CHECK_S + CHECK_EVERY_S)  # type: ignore[arg-type]
    assert engine.checks == 2


def test_a_broken_table_ends_the_process_with_a_clear_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_BEFORE_CHECK_S", 0.0)
    grammars = Grammars(2, lambda _: None)
    engine = open_engine(grammars, end_a_use_twice())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Server(ours, SimpleQueue()).serve(engine, Failed(1, "busy", "")) == 7
    grammars.close()
    assert "a use was ended twice" in capfd.readouterr().err


def end_a_use_twice() -> HeldAdapters:
    """Adapters whose tables contradict one another, as after a bug of their caller."""
    adapters = HeldAdapters(
        SlotTable(1, Arena(ALIGN_BYTES)),
        SlotBank(),
        HostCache(1),
        submit=lambda _: None,
        recall=lambda *_: None,
    )
    adapters.hold(b"one", (Source(Path("config"), Path("weights")),))
    adapters.use(b"one")
    adapters.leave(b"one")
    adapters.check()
    adapters.leave(b"one")
    return adapters


def open_engine(grammars: Grammars, adapters: HeldAdapters) -> Engine:
    """An engine that is asked for nothing, so that it needs nothing that computes."""
    config = EngineConfig(Path("nowhere"), threads=1)
    budget = Budget(
        step_tokens=1,
        max_running=1,
        page_tokens=16,
        age_bound_s=1.0,
        draft_tokens=0,
        prompt_step_tokens=1,
        beside_tokens=1,
        seat_steps=1,
    )
    pages = PrefixCache(PagePool(1))
    return Engine(
        Limits.of(config, vocab_size=2, context_tokens=16),
        Scheduler(budget, pages, adapters),
        None,  # type: ignore[arg-type]  # never asked
        adapters,
        pages=pages,
        grammars=grammars,
    )
