"""What requests may rely on, with an engine in this process and invariants checked after each
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.messages import (
    AdapterHeld,
    AdapterRefused,
    Cancel,
    Choosing,
    Failed,
    Finished,
    GetStats,
    Grant,
    Locate,
    Located,
    ReleaseAdapter,
    Replay,
    Replayed,
    Sampling,
    Stats,
)

from .worlds import Lab, hold, make_base, some_tokens, submit, write_adapter

LAW = b"l" * 32
VERSE = b"v" * 32
WARM = Sampling(b"s" * 32, Choosing(temperature=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    make_base(folder / "base")
    write_adapter(folder / "law", 1)
    write_adapter(folder / "verse", 2, rank=7)
    return folder


@pytest.fixture
def lab(folder: Path) -> Iterator[Lab]:
    lab = Lab(folder / "base")
    assert isinstance(lab.hold(LAW, folder / "law"), AdapterHeld)
    assert isinstance(lab.hold(VERSE, folder / "verse"), AdapterHeld)
    yield lab
    lab.close()


def test_tokens_are_the_same_alone_together_and_after_preemption(lab: Lab, folder: Path) -> None:
    requests = [
        submit(
            i + 1,
            some_tokens(20 + 40 * i, i),
            adapter,
            tokens=24,
            sampling=WARM if i % 2 else submit(0, []).sampling,
        )
        for i, adapter in enumerate([None, LAW, VERSE, LAW, None])
    ]
    alone = {r.request_id: lab.run(r)[r.request_id] for r in requests}
    lab.messages.clear()
    assert lab.run(*requests) == alone
    cramped = Lab(folder / "base", kv_tokens=320, step_tokens=37, prompt_step_tokens=37)
    cramped.hold(LAW, folder / "law")
    cramped.hold(VERSE, folder / "verse")
    assert cramped.run(*requests) == alone
    assert len({tuple(tokens) for tokens in alone.values()}) == 5
    cramped.close()


def test_requests_with_different_adapters_sit_in_one_step(lab: Lab) -> None:
    lab.run(
        *(submit(i, some_tokens(9, i), adapter) for i, adapter in enumerate([None, LAW, VERSE]))
    )
    lab.engine.handle(GetStats())
    lab.collect()
    stats = lab.messages[-1]
    assert isinstance(stats, Stats)
    assert stats.max_adapters_in_one_step == 2
    assert any(set(step.adapters) == {None, LAW, VERSE} for step in stats.steps)
    end = lab.end(2)
    assert isinstance(end, Finished)
    assert end.neighbours == 3


def test_the_engine_says_where_an_adapters_bytes_are(lab: Lab) -> None:
    def place(adapter: bytes) -> str:
        lab.engine.handle(Locate(adapter))
        lab.collect()
        located = lab.messages[-1]
        assert isinstance(located, Located)
        assert located.adapter == adapter
        return located.residency

    assert place(LAW) == "memory"
    lab.run(submit(1, some_tokens(9, 1), LAW))
    assert place(LAW) == "slot"
    assert place(VERSE) == "memory"
    lab.engine._adapters._host.remove(VERSE)
    lab.engine._adapters.slots.drop_from_host(VERSE)
    assert place(VERSE) == "disk"
    lab.engine.handle(ReleaseAdapter(LAW))
    assert place(LAW) == "absent"
    assert place(b"?" * 32) == "absent"


def test_a_sequence_out_of_credit_waits_with_its_pages_until_granted(lab: Lab) -> None:
    free = lab.built.engine._pages.num_available
    lab.engine.handle(submit(1, some_tokens(9, 1), LAW, tokens=12, credit=5))
    lab.drain()
    assert len(lab.tokens(1)) == 5
    assert lab.engine._pages.num_available < free
    lab.engine.handle(Grant(1, 3))
    assert not lab.step(), "a lower grant takes nothing back and gives nothing"
    lab.engine.handle(Grant(1, 12))
    lab.drain()
    got = lab.tokens(1)
    assert got == lab.run(submit(2, some_tokens(9, 1), LAW, tokens=12))[2]
    assert lab.engine._pages.num_available == free


def test_a_parked_sequence_gives_way_and_resumes_exactly(folder: Path) -> None:
    lab = Lab(folder / "base", kv_tokens=128)
    prompt = some_tokens(60, 1)
    expected = lab.run(submit(1, prompt, tokens=20, sampling=WARM))[1]
    lab.messages.clear()
    lab.engine.handle(submit(1, prompt, tokens=20, sampling=WARM, credit=6))
    lab.drain()
    lab.run(submit(2, some_tokens(100, 2), tokens=10))
    assert len(lab.tokens(2)) == 10
    lab.engine.handle(Grant(1, 20))
    lab.drain()
    assert lab.tokens(1) == expected
    lab.close()


def test_cancelling_frees_the_pages_at_once(lab: Lab) -> None:
    free = lab.engine._pages.num_available
    lab.engine.handle(submit(1, some_tokens(100, 1), LAW, tokens=500))
    for _ in range(4):
        lab.step()
    lab.engine.handle(Cancel(1))
    assert lab.engine._pages.num_available == free
    lab.collect()
    end = lab.end(1)
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert lab.engine._adapters.slots.pins(LAW) == 0


def test_generation_ends_at_a_stop_id_which_is_included(lab: Lab) -> None:
    full = lab.run(submit(1, some_tokens(9, 3), tokens=10, sampling=WARM))[1]
    stop = full[4]
    got = lab.run(submit(2, some_tokens(9, 3), tokens=10, sampling=WARM, stop_ids=[stop]))[2]
    assert got == full[: full.index(stop) + 1]
    end = lab.end(2)
    assert isinstance(end, Finished)
    assert end.reason == "stop"


def test_a_request_whose_adapter_is_on_its_way_waits_alone(lab: Lab, folder: Path) -> None:
    late = b"w" * 32
    lab.engine.handle(hold(late, folder / "law"))
    lab.engine.handle(submit(1, some_tokens(9, 1), late, tokens=4))
    lab.engine.handle(submit(2, some_tokens(9, 1), LAW, tokens=4))
    while lab.engine.step():
        lab.engine.check()
    lab.collect()
    assert len(lab.tokens(2)) == 4
    assert lab.tokens(1) == []
    lab.engine.receive(lab.done.get(timeout=60))
    lab.drain()
    assert lab.tokens(1) == lab.tokens(2)


def test_more_adapters_than_slots_are_served_in_turn(folder: Path) -> None:
    lab = Lab(folder / "base", max_adapters=2, host_cache_bytes=1)
    names = [bytes([i]) * 32 for i in range(5)]
    for i, name in enumerate(names):
        lab.hold(name, folder / ("law" if i % 2 else "verse"))
    for i, name in enumerate(names):
        lab.engine.handle(submit(i, some_tokens(9, 1), name, tokens=5))
    while any(lab.tokens(i) == [] or len(lab.tokens(i)) < 5 for i in range(5)):
        if not lab.step():
            lab.engine.receive(lab.done.get(timeout=60))
    assert lab.tokens(0) == lab.tokens(2) == lab.tokens(4) != lab.tokens(1) == lab.tokens(3)
    lab.close()


def test_a_released_adapter_is_forgotten_once_its_last_request_ends(lab: Lab) -> None:
    lab.engine.handle(submit(1, some_tokens(9, 1), LAW, tokens=6))
    lab.step()
    lab.engine.handle(ReleaseAdapter(LAW))
    lab.engine.handle(submit(2, some_tokens(9, 1), LAW, tokens=6))
    lab.drain()
    assert len(lab.tokens(1)) == 6
    end = lab.end(2)
    assert isinstance(end, Failed)
    assert end.code == "unknown_adapter"
    assert LAW not in lab.engine._adapters.slots.known()


def test_replaying_an_answer_finds_every_token_won_and_a_forged_one_missed(lab: Lab) -> None:
    prompt = some_tokens(40, 9)
    for request_id, sampling in (
        (1, WARM),
        (2, Sampling(b"g" * 32)),
        (3, Sampling(b"k" * 32, Choosing(0.8, 20, 0.9))),
    ):
        answer = lab.run(submit(request_id, prompt, LAW, tokens=150, sampling=sampling))[request_id]
        forged = [*answer[:70], (answer[70] + 1) % 320, *answer[71:]]
        lab.engine.handle(Replay(100 + request_id, prompt, answer, LAW, sampling=sampling))
        lab.engine.handle(Replay(200 + request_id, prompt, forged, LAW, sampling=sampling))
        lab.engine.handle(Replay(300 + request_id, prompt, answer, None, sampling=sampling))
        lab.drain()
        honest, lying, bare = (lab.end(n + request_id) for n in (100, 200, 300))
        assert isinstance(honest, Replayed)
        assert isinstance(lying, Replayed)
        assert isinstance(bare, Replayed)
        assert honest.margins == [0.0] * 150
        assert lying.margins[:70] == [0.0] * 70
        assert lying.margins[70] > 0
        assert sum(1 for margin in bare.margins if margin > 0) > 75, (
            "generated with the adapter, claimed for the bare base"
        )


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"prompt_ids": []}, "bad_request", "prompt_ids is empty"),
        ({"prompt_ids": [1, 999]}, "bad_request", "token id"),
        ({"prompt_ids": [1] * 5000}, "bad_request", "context"),
        ({"max_tokens": 0}, "bad_request", "max_tokens"),
        ({"sampling": Sampling(b"short")}, "bad_request", "seed"),
        ({"sampling": Sampling(bytes(32), Choosing(float("nan")))}, "bad_request", "temperature"),
        ({"sampling": Sampling(bytes(32), Choosing(1.0, 0, 0.0))}, "bad_request", "top_p"),
        ({"adapter": b"?" * 32}, "unknown_adapter", "HoldAdapter"),
    ],
)
def test_a_request_that_cannot_run_fails_by_name_and_the_engine_goes_on(
    lab: Lab, fields: dict[str, object], code: str, words: str
) -> None:
    import msgspec

    lab.run(msgspec.structs.replace(submit(1, [1, 2, 3]), **fields))
    end = lab.end(1)
    assert isinstance(end, Failed)
    assert end.code == code
    assert words in end.message
    assert len(lab.run(submit(2, [1, 2, 3]))[2]) == 8


def test_a_full_queue_says_busy(folder: Path) -> None:
    lab = Lab(folder / "base", max_waiting=2)
    for i in range(3):
        lab.engine.handle(submit(i, [1, 2, 3]))
    lab.collect()
    end = lab.end(2)
    assert isinstance(end, Failed)
    assert end.code == "busy"
    lab.close()


def test_an_adapter_that_overflows_fails_alone(lab: Lab, folder: Path) -> None:
    write_adapter(folder / "huge", 3, lora_alpha=1e38)
    verdict = lab.hold(b"h" * 32, folder / "huge")
    if isinstance(verdict, AdapterRefused):
        return
    alone = lab.run(submit(9, some_tokens(9, 1), LAW))[9]
    got = lab.run(submit(1, some_tokens(9, 1), b"h" * 32), submit(2, some_tokens(9, 1), LAW))
    assert got[2] == alone
    end = lab.end(1)
    assert isinstance(end, Failed)
    assert "finite" in end.message


def test_an_adapter_whose_files_vanish_is_refused_and_comes_back_when_held_again(
    folder: Path, tmp_path: Path
) -> None:
    import shutil

    lab = Lab(folder / "base", max_adapters=1, host_cache_bytes=1)
    shutil.copytree(folder / "law", tmp_path / "law")
    lab.hold(LAW, tmp_path / "law")
    lab.hold(VERSE, folder / "verse")
    shutil.rmtree(tmp_path / "law")
    lab.engine.handle(submit(1, some_tokens(9, 1), LAW))
    assert not lab.step()
    lab.engine.receive(lab.done.get(timeout=60))
    lab.collect()
    end = lab.end(1)
    assert isinstance(end, Failed)
    assert end.code == "unknown_adapter"
    assert isinstance(lab.hold(LAW, folder / "law"), AdapterHeld)
    assert len(lab.run(submit(2, some_tokens(9, 1), LAW))[2]) == 8
    lab.close()
