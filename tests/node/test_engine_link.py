"""Who hears the engine, whatever it says and whenever it dies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine import messages as m
from engine.errors import BorderError
from node.engine_link import AdapterFiles, EngineLink, RunEvent, Waiter
from node.errors import AdapterError, BadRequest, EngineBusy, EngineFailed, EngineLost

LAW = AdapterFiles(b"l" * 32, Path("law/config"), Path("law/weights"))
VERSE = AdapterFiles(b"v" * 32, Path("verse/config"), Path("verse/weights"))
STATS = m.Stats(
    running=0,
    waiting=0,
    kv_pages_free=1,
    kv_pages=1,
    adapters_held=[],
    adapters_ready=[],
    tokens_generated=0,
    max_adapters_in_one_step=0,
    steps=[],
)
READY = m.Ready(bytes(32), "f", 1, 1, kv_pages=1, page_tokens=1, threads=1, load_ms=0.0)


def finished(request_id: int) -> m.Finished:
    return m.Finished(
        request_id,
        "stop",
        1,
        1,
        queue_ms=0.0,
        load_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
        neighbours=1,
    )


@dataclass
class Ear:
    """A waiter, and how often it was woken."""

    num_woken: int = 0
    waiter: Waiter[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.waiter = Waiter[Any](self._wake)

    def _wake(self) -> None:
        self.num_woken += 1


def new_link() -> tuple[EngineLink, list[str]]:
    lines: list[str] = []
    return EngineLink(lines.append), lines


def test_a_request_hears_its_tokens_then_one_end_then_nothing() -> None:
    link, _ = new_link()
    heard: list[RunEvent] = []
    request_id = link.new_id()
    link.listen(request_id, heard.append)
    told = [m.Tokens(request_id, [7], 1), m.Tokens(99, [1], 1), finished(request_id)]
    for message in [*told, m.Tokens(request_id, [8], 2), finished(request_id)]:
        link.receive(message)
    link.lose()
    assert heard == [told[0], told[2]]
    assert link.stop_listening(request_id) is None


def test_a_request_that_is_left_before_its_end_is_cancelled_and_hears_no_more() -> None:
    link, _ = new_link()
    heard: list[RunEvent] = []
    request_id = link.new_id()
    link.listen(request_id, heard.append)
    assert link.stop_listening(request_id) == m.Cancel(request_id)
    link.receive(m.Tokens(request_id, [7], 1))
    link.lose()
    assert heard == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [("busy", EngineBusy), ("bad_request", BadRequest), ("deadline", EngineFailed)],
)
def test_a_failure_says_whose_fault_it_is(code: str, kind: type[Exception]) -> None:
    link, _ = new_link()
    heard: list[RunEvent] = []
    request_id = link.new_id()
    link.listen(request_id, heard.append)
    link.receive(m.Failed(request_id, code, "because of x"))
    assert [type(event) for event in heard] == [kind]
    assert "because of x" in str(heard[0])


def test_an_adapter_is_told_once_while_many_wait_and_all_of_them_hear() -> None:
    link, _ = new_link()
    ears = [Ear() for _ in range(3)]
    commands = [link.ask_load(LAW, ear.waiter) for ear in ears]
    assert commands == [m.HoldAdapter(LAW.adapter, "law/config", "law/weights"), None, None]
    link.leave(ears[0].waiter)
    held = m.AdapterHeld(LAW.adapter, 10, 4, 1.0)
    link.receive(held)
    assert [ear.waiter.answer for ear in ears] == [None, held, held]
    assert link.ask_load(LAW, Ear().waiter) is not None


def test_an_adapter_whose_files_broke_is_served_no_more_and_said_so() -> None:
    link, lines = new_link()
    link.keep(LAW)
    link.keep(VERSE)
    ear = Ear()
    link.ask_load(LAW, ear.waiter)
    link.receive(m.AdapterRefused(LAW.adapter, "x.weight has changed"))
    assert not link.keeps(LAW.adapter)
    assert list(link.kept()) == [VERSE]
    assert len(lines) == 1
    assert "x.weight has changed" in lines[0]
    assert isinstance(ear.waiter.answer, AdapterError)
    assert link.release(LAW.adapter) is None
    assert link.release(VERSE.adapter) == m.ReleaseAdapter(VERSE.adapter)


def test_what_is_served_outlives_the_engine() -> None:
    link, _ = new_link()
    link.keep(LAW)
    link.lose()
    assert list(link.kept()) == [LAW]


def test_an_engine_that_begins_twice_is_refused() -> None:
    link, _ = new_link()
    with pytest.raises(BorderError, match="twice"):
        link.receive(READY)


class AnyOrder(RuleBasedStateMachine):
    """Requests, replays, figures and adapters are asked for, left and answered in any order, by an
    engine that repeats itself, answers nobody and dies at any point.
    """

    def __init__(self) -> None:
        super().__init__()
        self.link, _ = new_link()
        self.runs: dict[int, list[RunEvent]] = {}
        self.left: dict[int, int] = {}
        self.replays: dict[int, Ear] = {}
        self.loads: list[tuple[bytes, Ear]] = []
        self.places: list[tuple[bytes, Ear]] = []
        self.stats: list[Ear] = []
        self.gone: list[tuple[Ear, int]] = []

    def ears(self) -> list[Ear]:
        about = (*self.loads, *self.places)
        return [*self.replays.values(), *self.stats, *(ear for _, ear in about)]

    @rule()
    def generate(self) -> None:
        request_id = self.link.new_id()
        self.runs[request_id] = []
        self.link.listen(request_id, self.runs[request_id].append)

    @rule()
    def replay(self) -> None:
        request_id = self.link.new_id()
        self.replays[request_id] = Ear()
        command = m.Replay(request_id, [1], [2], None, sampling=m.Sampling(bytes(32)))
        assert self.link.ask_replay(command, self.replays[request_id].waiter) == command

    @rule(files=st.sampled_from([LAW, VERSE]))
    def load(self, files: AdapterFiles) -> None:
        waiting = [ear for adapter, ear in self.loads if adapter == files.adapter]
        others = any(
            ear.waiter.answer is None and ear not in [one for one, _ in self.gone]
            for ear in waiting
        )
        ear = Ear()
        self.loads.append((files.adapter, ear))
        assert (self.link.ask_load(files, ear.waiter) is None) == others

    @rule(adapter=st.sampled_from([LAW.adapter, VERSE.adapter]))
    def locate(self, adapter: bytes) -> None:
        gone = [one for one, _ in self.gone]
        others = any(
            ear.waiter.answer is None and ear not in gone
            for asked, ear in self.places
            if asked == adapter
        )
        ear = Ear()
        self.places.append((adapter, ear))
        asked = self.link.ask_residency(adapter, ear.waiter)
        assert asked == (None if others else m.Locate(adapter))

    @rule()
    def ask_stats(self) -> None:
        self.stats.append(Ear())
        self.link.ask_stats(self.stats[-1].waiter)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.ears():
            ear = data.draw(st.sampled_from(self.ears()))
            self.link.leave(ear.waiter)
            self.gone.append((ear, ear.num_woken))

    @rule(data=st.data())
    def stop_listening(self, data: st.DataObject) -> None:
        if self.runs:
            request_id = data.draw(st.sampled_from(sorted(self.runs)))
            has_ended = any(not isinstance(one, m.Tokens) for one in self.runs[request_id])
            command = self.link.stop_listening(request_id)
            if request_id not in self.left:
                assert (command is None) == has_ended
            self.left.setdefault(request_id, len(self.runs[request_id]))

    @rule(
        request_id=st.integers(0, 8),
        adapter=st.sampled_from([LAW.adapter, VERSE.adapter, b"?" * 32]),
        kind=st.sampled_from(
            ["tokens", "finished", "embedded", "failed", "replayed", "held", "refused", "st", "at"]
        ),
    )
    def hear(self, request_id: int, adapter: bytes, kind: str) -> None:
        told: dict[str, m.FromEngine] = {
            "tokens": m.Tokens(request_id, [7], 1),
            "finished": finished(request_id),
            "embedded": m.Embedded(request_id, bytes(4)),
            "failed": m.Failed(request_id, "busy", "no room"),
            "replayed": m.Replayed(request_id, [0.0]),
            "held": m.AdapterHeld(adapter, 10, 4, 1.0),
            "refused": m.AdapterRefused(adapter, "no"),
            "st": STATS,
            "at": m.Located(adapter, "disk"),
        }
        self.link.receive(told[kind])

    @rule()
    def die(self) -> None:
        self.link.lose()
        gone = {id(ear) for ear, _ in self.gone}
        for ear in self.ears():
            assert id(ear) in gone or ear.num_woken == 1
        for request_id, heard in self.runs.items():
            assert request_id in self.left or not isinstance(heard[-1], m.Tokens)

    @invariant()
    def everybody_hears_at_most_once(self) -> None:
        self.link.check()
        assert all(ear.num_woken <= 1 for ear in self.ears())
        assert all(ear.num_woken == before for ear, before in self.gone)
        for heard in self.runs.values():
            ends = [place for place, one in enumerate(heard) if not isinstance(one, m.Tokens)]
            assert ends in ([], [len(heard) - 1])
        for request_id, num_heard in self.left.items():
            assert len(self.runs[request_id]) == num_heard

    def teardown(self) -> None:
        self.die()
        lost = [ear.waiter.answer for ear in self.ears() if ear.num_woken]
        assert all(answer is not None for answer in lost)


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_in_any_order_everybody_hears_exactly_once = AnyOrder.TestCase


def test_who_waited_for_a_dead_engine_hears_that_it_died() -> None:
    link, _ = new_link()
    ears = [Ear(), Ear(), Ear(), Ear()]
    heard: list[RunEvent] = []
    link.listen(1, heard.append)
    link.ask_stats(ears[0].waiter)
    link.ask_load(LAW, ears[1].waiter)
    link.ask_replay(m.Replay(2, [1], [2], None, sampling=m.Sampling(bytes(32))), ears[2].waiter)
    link.ask_residency(LAW.adapter, ears[3].waiter)
    link.lose()
    assert [type(one) for one in [*heard, *(ear.waiter.answer for ear in ears)]] == [EngineLost] * 5
