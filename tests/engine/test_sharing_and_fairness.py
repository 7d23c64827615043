"""Pages shared by prompts that begin alike, seats that go round, and who goes first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.lora.bank import SlotBank
from engine.messages import AdapterHeld, Failed, Finished, Replay, StepRecord

from .worlds import Lab, greedy, make_base, some_tokens, submit, write_adapter

ADAPTERS = [bytes([65 + i]) * 32 for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharing")
    make_base(folder / "base")
    for index in range(len(ADAPTERS)):
        write_adapter(folder / str(index), index)
    return folder


def open_lab(folder: Path, adapters: int = 2, **settings: object) -> Lab:
    lab = Lab(folder / "base", **settings)  # type: ignore[arg-type]
    for index in range(adapters):
        lab.hold(ADAPTERS[index], folder / str(index))
    return lab


def finished(lab: Lab, request_id: int) -> Finished:
    end = lab.end(request_id)
    assert isinstance(end, Finished), end
    return end


def records(lab: Lab) -> list[StepRecord]:
    return list(lab.engine._tally.records)


def test_a_prompt_that_begins_like_an_earlier_one_starts_behind_it(folder: Path) -> None:
    lab = open_lab(folder)
    beginning = some_tokens(100, 1)
    prompts = [beginning + some_tokens(20, seed) for seed in (2, 3)]
    answers = [
        lab.run(submit(index, prompt, ADAPTERS[0]))[index] for index, prompt in enumerate(prompts)
    ]
    assert [finished(lab, index).cached_tokens for index in range(2)] == [0, 96]
    for prompt, answer in zip(prompts, answers, strict=True):
        fresh = open_lab(folder)
        assert fresh.run(submit(9, prompt, ADAPTERS[0]))[9] == answer


def test_nothing_is_shared_across_adapters(folder: Path) -> None:
    lab = open_lab(folder)
    prompt = some_tokens(80, 4)
    for request_id, adapter in enumerate([None, ADAPTERS[0], ADAPTERS[1]]):
        lab.run(submit(request_id, prompt, adapter))
        assert finished(lab, request_id).cached_tokens == 0


def test_other_weights_under_the_same_name_meet_no_old_page(folder: Path) -> None:
    lab = open_lab(folder, 1)
    prompt = some_tokens(80, 4)
    before = lab.run(submit(1, prompt, ADAPTERS[0]))[1]
    lab.hold(ADAPTERS[0], folder / "3")
    after = lab.run(submit(2, prompt, ADAPTERS[0]))[2]
    fresh = Lab(folder / "base")
    fresh.hold(ADAPTERS[0], folder / "3")
    assert after == fresh.run(submit(3, prompt, ADAPTERS[0]))[3] != before
    assert finished(lab, 2).cached_tokens == 0


def test_other_weights_are_refused_while_requests_run_with_the_old(folder: Path) -> None:
    lab = open_lab(folder, 1)
    expected = lab.run(submit(1, some_tokens(20, 4), ADAPTERS[0], tokens=12))[1]
    lab.engine.handle(submit(2, some_tokens(20, 4), ADAPTERS[0], tokens=12))
    lab.step()
    answer = lab.hold(ADAPTERS[0], folder / "3")
    assert "other weights" in getattr(answer, "message", "")
    lab.drain()
    assert lab.tokens(2) == expected


def test_an_answer_s_own_pages_serve_the_next_turn(folder: Path) -> None:
    lab = open_lab(folder)
    prompt = some_tokens(40, 5)
    answer = lab.run(submit(1, prompt, tokens=24))[1]
    lab.run(submit(2, prompt + answer + some_tokens(5, 6)))
    assert finished(lab, 2).cached_tokens == 48  # 63 computed: three full pages


def test_a_replay_starts_behind_shared_pages_and_gives_the_same_margins(folder: Path) -> None:
    lab = open_lab(folder)
    prompt = some_tokens(60, 7)
    answer = lab.run(submit(1, prompt, ADAPTERS[0], tokens=20))[1]
    lab.engine.handle(Replay(2, prompt, answer, ADAPTERS[0], sampling=greedy()))
    lab.drain()
    assert lab.end(2).margins == [0.0] * 20  # type: ignore[union-attr]


def test_shared_pages_leave_when_room_is_needed(folder: Path) -> None:
    lab = open_lab(folder, kv_tokens=320)
    for request_id in range(6):
        lab.run(submit(request_id, some_tokens(200, request_id)))
        assert finished(lab, request_id).reason == "length"
    assert lab.engine._pages.num_available == 20


def test_a_long_prompt_joins_others_decoding_by_a_few_rows_a_step(folder: Path) -> None:
    """Nobody who is answered waits long for the next token, though alone the prompt would fill
    whole steps.
    """
    lab = open_lab(folder, beside_tokens=20)
    lab.run(submit(1, some_tokens(90, 1), tokens=1))
    assert [each.prefill_tokens for each in lab.engine._tally.records] == [90]
    lab.engine.handle(submit(2, some_tokens(8, 2), tokens=40))
    lab.step()
    lab.engine.handle(submit(3, some_tokens(90, 3), tokens=1))
    lab.drain()
    joined = [
        each.prefill_tokens
        for each in lab.engine._tally.records
        if each.decode_tokens and each.prefill_tokens
    ]
    assert joined == [20, 20, 20, 20, 10]


def test_more_adapters_than_slots_take_turns_without_waiting_for_each_other_s_end(
    folder: Path,
) -> None:
    lab = open_lab(folder, 6, max_adapters=2)
    for index, adapter in enumerate(ADAPTERS):
        lab.engine.handle(submit(index, some_tokens(10, index), adapter, tokens=60))
    first_token: dict[int, int] = {}
    for step in range(1, 40):
        lab.step()
        for index in range(6):
            if lab.tokens(index):
                first_token.setdefault(index, step)
    assert len(first_token) == 6
    assert max(first_token.values()) <= 16, first_token
    assert all(len(record.adapters) <= 2 for record in records(lab))
    lab.drain()
    for index, adapter in enumerate(ADAPTERS):
        alone = open_lab(folder, 6)
        assert alone.run(submit(9, some_tokens(10, index), adapter, tokens=60))[9] == lab.tokens(
            index
        )


def test_a_large_adapter_gets_the_room_of_several_small_ones(folder: Path, tmp_path: Path) -> None:
    """Each may only give way once it has sat for a while, and none may come back before the large
    one has sat.
    """
    probe = open_lab(folder, 0)
    small = probe.hold(ADAPTERS[0], folder / "0")
    assert isinstance(small, AdapterHeld)
    lab = open_lab(folder, 4, slot_bytes=4 * small.size_bytes + 2048)
    large = lab.hold(b"large" * 6 + b"!!", write_adapter(tmp_path / "large", 9, rank=13))
    assert isinstance(large, AdapterHeld)
    assert large.size_bytes > 3 * small.size_bytes
    for index in range(4):
        lab.engine.handle(
            submit(index, some_tokens(10 + index, index), ADAPTERS[index], tokens=200)
        )
        lab.step()
    lab.engine.handle(submit(9, some_tokens(10, 9), b"large" * 6 + b"!!", tokens=3))
    for _ in range(60):
        lab.step()
        bank = lab.engine._adapters.bank
        assert isinstance(bank, SlotBank)
        assert len(bank._slots) == len(lab.engine._adapters.slots.ready()), (
            "a slot keeps the bytes of one that has left it"
        )
    assert isinstance(lab.end(9), Finished)
    assert not any(
        isinstance(message, Finished) and message.request_id < 4 for message in lab.messages
    )


def test_a_flood_for_one_adapter_delays_that_adapter_only(folder: Path) -> None:
    lab = open_lab(folder, max_running=4, step_tokens=32, prompt_step_tokens=32)
    for index in range(12):
        lab.engine.handle(submit(index, some_tokens(30, index), ADAPTERS[0], tokens=4))
    lab.step()
    lab.engine.handle(submit(99, some_tokens(30, 99), ADAPTERS[1], tokens=4))
    lab.drain()
    order = [message.request_id for message in lab.messages if isinstance(message, Finished)]
    assert order.index(99) <= 5, order


def test_a_higher_priority_goes_first(folder: Path) -> None:
    lab = open_lab(folder, max_running=1)
    for index in range(4):
        lab.engine.handle(submit(index, some_tokens(10, index), tokens=2))
    lab.engine.handle(submit(9, some_tokens(10, 9), tokens=2, priority=5))
    lab.drain()
    assert (
        next(message.request_id for message in lab.messages if isinstance(message, Finished)) == 9
    )


def test_nobody_is_passed_over_for_longer_than_the_age_bound(folder: Path) -> None:
    lab = open_lab(folder, max_running=1, age_bound_s=0.0)
    lab.engine.handle(submit(1, some_tokens(10, 1), tokens=2))
    lab.engine.handle(submit(9, some_tokens(10, 9), tokens=2, priority=5))
    lab.drain()
    assert [message.request_id for message in lab.messages if isinstance(message, Finished)] == [
        1,
        9,
    ]


def test_a_request_that_misses_its_deadline_fails_and_frees_what_it_held(folder: Path) -> None:
    lab = open_lab(folder)
    now = [0.0]
    lab.engine._clock = lambda: now[0]
    lab.engine.handle(submit(1, some_tokens(10, 1), tokens=50, deadline_ms=500))
    lab.step()
    now[0] = 1.0
    lab.step()
    end = lab.end(1)
    assert isinstance(end, Failed)
    assert (end.code, "0.5 s" in end.message) == ("deadline", True)
    assert lab.engine._scheduler.running == []


@pytest.mark.parametrize("loss", ["gone", "other weights"])
def test_an_adapter_whose_files_were_lost_in_mid_answer_costs_its_requests_only(
    folder: Path, tmp_path: Path, loss: str
) -> None:
    """Two adapters take turns in one slot, and host memory has room for one, so each is read again
    and again.
    """
    for index in range(2):
        shutil.copytree(folder / str(index), tmp_path / str(index))
    lab = Lab(folder / "base", max_adapters=1, host_cache_bytes=1)
    for index in range(2):
        lab.hold(ADAPTERS[index], tmp_path / str(index))
        lab.engine.handle(submit(index, some_tokens(10, index), ADAPTERS[index], tokens=60))
    while not (lab.tokens(0) and lab.tokens(1)):
        lab.step()
    if loss == "gone":
        shutil.rmtree(tmp_path / "0")
    else:
        write_adapter(tmp_path / "0", 5)
    lab.engine.handle(submit(2, some_tokens(10, 2), ADAPTERS[0], tokens=4))
    while sum(isinstance(message, Finished | Failed) for message in lab.messages) < 3:
        if not lab.step():
            lab.engine.receive(lab.done.get(timeout=60))
            lab.collect()
    assert lab.tokens(1) == alone(folder, 1)
    for request_id in (0, 2):
        failed = lab.end(request_id)
        assert isinstance(failed, Failed)
        assert failed.code == "unknown_adapter"
        assert (
            "could not be read" if loss == "gone" else "not what they were when it was held"
        ) in failed.message
    assert finished(lab, 1).reason == "length"
    assert not lab.step()
    assert lab.done.empty()  # nobody goes on asking for it
    lab.hold(ADAPTERS[0], folder / "0")
    assert lab.run(submit(3, some_tokens(10, 0), ADAPTERS[0], tokens=60))[3] == alone(folder, 0)


def alone(folder: Path, index: int) -> list[int]:
    """The answer of one of the adapters to its prompt, in an engine of its own."""
    return open_lab(folder, 2).run(submit(9, some_tokens(10, index), ADAPTERS[index], tokens=60))[9]
