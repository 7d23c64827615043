"""The engine looks over its own tables when nobody asks for anything."""

from __future__ import annotations

import socket
from pathlib import Path
from queue import SimpleQueue

import pytest

from engine import server
from engine.server import CHECK_EVERY_S, IDLE_BEFORE_CHECK_S, Checkup, Server

from .worlds import Lab, make_base


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
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_BEFORE_CHECK_S", 0.0)
    make_base(tmp_path / "base")
    lab = Lab(tmp_path / "base")
    lab.engine._adapters._uses[b"nobody"] = 0
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert Server(ours, SimpleQueue()).serve(lab.engine, lab.built.ready) == 7
    lab.close()
    assert "a use was ended twice" in capfd.readouterr().err
