"""A step that a device computes beside the engine: what comes meanwhile, and the next step that is
laid out before it is over.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.cuda.device import HostDevice
from engine.cuda.kernels import REFERENCES
from engine.errors import BadAdapter
from engine.lora.layout import Loaded
from engine.lora.loader import LoadDone, LoadJob, Source, Sources
from engine.messages import (
    MAX_STOP_IDS,
    Cancel,
    Choosing,
    Failed,
    Finished,
    FromEngine,
    Grant,
    Sampling,
    Submit,
    Tokens,
)
from engine.model.config import ModelConfig
from engine.schedule import Schedule
from engine.scheduler import Scheduler
from tests.engine.gpu.worlds import LLAMA, Narrow, RandomAdapters, random_weights

from .worlds import Lab, some_tokens, submit

SHALLOW = replace(LLAMA, layers=1)
"""For what asks only when something is scheduled, not which tokens come."""
NUM_ADAPTERS = 4


LAST_JOB = LoadJob(b"no adapter's", (Source(Path("none"), Path("none")),))
"""It is over when all before it are, since there is one thread that loads."""


def open_lab(base: ModelConfig = LLAMA, **settings: Any) -> Lab:
    random_adapters = RandomAdapters(base)

    def load(sources: Sources) -> Loaded:
        if sources == LAST_JOB.sources:
            raise BadAdapter("there is none")
        return random_adapters(sources)

    lab = Lab(
        random_weights(base),
        accelerator=Narrow(HostDevice(), REFERENCES, 64 << 20),
        load=load,
        **settings,
    )
    for number in range(NUM_ADAPTERS):
        lab.hold(name(number), Path(str(number)))
    return lab


def name(number: int) -> bytes:
    return bytes([number]) * 32


def settle_copies(lab: Lab) -> None:
    """Take in every load and copy, so that a run does not depend on when another thread gets its
    turn.
    """
    lab.built.loader.submit(LAST_JOB)
    is_loading = True
    while is_loading or lab.engine.num_copying:
        done = lab.done.get(timeout=60)
        is_loading = is_loading and not (isinstance(done, LoadDone) and done.job == LAST_JOB)
        lab.engine.receive(done)


def count_foreseen(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Schedule | None], Schedule | None]
) -> list[int]:
    """Lets `change` have its way with what is foreseen; gives how many steps were begun as
    foreseen, and how many were dropped.
    """
    foresee = Scheduler.foresee
    follow = Scheduler.follow
    counts = [0, 0]

    def foresee_and_count(self: Scheduler, chunks: Any) -> Schedule | None:
        schedule = change(foresee(self, chunks))
        counts[1] += schedule is not None
        return schedule

    def follow_and_count(self: Scheduler, schedule: Schedule) -> None:
        counts[0] = counts[0] + 1
        counts[1] = counts[1] - 1
        follow(self, schedule)

    monkeypatch.setattr(Scheduler, "foresee", foresee_and_count)
    monkeypatch.setattr(Scheduler, "follow", follow_and_count)
    return counts


def play(
    seed: int, operations: int
) -> tuple[list[tuple[object, ...]], list[tuple[int, int, int, frozenset[bytes | None]]]]:
    """Random requests, grants and cancellations in little room; everything that the engine says,
    and what each step held.

    In no order inside a step.
    """
    draw = random.Random(seed)
    lab = open_lab(
        SHALLOW,
        max_adapters=2,
        max_running=5,
        kv_tokens=320,
        step_tokens=24,
        prompt_step_tokens=24,
        seat_steps=3,
    )
    lab.engine._clock = lambda: 1.0  # whose turn it is depends on who has waited for how long
    asked: list[int] = []
    for number in range(1, operations):
        if draw.random() < 0.15:
            prompt = some_tokens(draw.choice((1, 5, 15, 30)), number)
            tokens = draw.randrange(1, 40)
            stops = [
                draw.randrange(SHALLOW.vocab_size) for _ in range(draw.choice((0, 0, MAX_STOP_IDS)))
            ]
            sampling = Sampling(
                bytes([number % 256]) * 32,
                Choosing(
                    draw.choice((0.0, 0.0, 0.9)),
                    repetition_penalty=draw.choice((1.0, 1.0, 1.3)),
                ),
            )
            adapter = draw.choice([None, None, *map(name, range(NUM_ADAPTERS))])
            asked.append(number)
            lab.engine.handle(
                submit(
                    number,
                    prompt,
                    adapter,
                    tokens,
                    stop_ids=stops,
                    credit=draw.choice((tokens, 2)),
                    sampling=sampling,
                )
            )
        if asked and draw.random() < 0.1:
            lab.engine.handle(Grant(draw.choice(asked), draw.randrange(40)))
        if asked and draw.random() < 0.02:
            lab.engine.handle(Cancel(draw.choice(asked)))
        lab.step()
        settle_copies(lab)
    for number in asked:
        lab.engine.handle(Grant(number, 1000))
    while lab.step():
        settle_copies(lab)
    records = [
        (each.step, each.prefill_tokens, each.decode_tokens, frozenset(each.adapters))
        for each in lab.engine._tally.records
    ]
    lab.close()
    return sorted(map(plain, lab.messages)), records


def plain(message: FromEngine) -> tuple[object, ...]:
    """A message without its times."""
    match message:
        case Finished(request_id, reason, prompt_tokens, completion_tokens):
            return "finished", request_id, reason, prompt_tokens, completion_tokens
        case Tokens(request_id, token_ids, step):
            return "tokens", request_id, tuple(token_ids), step
        case Failed(request_id, code):
            return "failed", request_id, code
    return (type(message).__name__,)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]
)
def test_what_is_foreseen_is_what_would_have_been_scheduled(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_time = SimpleNamespace(perf_counter=lambda: 0.0)
    # who leaves a slot depends on how long its load took
    for reads in ("loader", "held"):
        monkeypatch.setattr(f"engine.lora.{reads}.time", no_time)
    counts = count_foreseen(monkeypatch, lambda schedule: schedule)
    with_foresight = play(seed, 500)
    followed, dropped = counts
    monkeypatch.undo()
    for reads in ("loader", "held"):
        monkeypatch.setattr(f"engine.lora.{reads}.time", no_time)
    count_foreseen(monkeypatch, lambda schedule: None)
    without = play(seed, 500)
    assert with_foresight == without
    assert followed > 50, "hardly a step was foreseen: this run shows nothing"
    assert dropped > 0, "no foreseen step was dropped: this run shows nothing"


def test_an_answer_that_ends_while_the_next_step_is_foreseen_ends_there_and_the_others_go_on() -> (
    None
):
    lab = open_lab()
    whole = lab.run(
        submit(1, some_tokens(9, 5), tokens=12), submit(2, some_tokens(7, 6), tokens=12)
    )
    stop = whole[1][6]
    assert stop not in whole[1][:6]
    ended = lab.run(
        submit(3, some_tokens(9, 5), tokens=12, stop_ids=[stop]),
        submit(4, some_tokens(7, 6), tokens=12),
    )
    assert ended == {3: whole[1][:7], 4: whole[2]}
    lab.close()


def test_a_request_cancelled_in_mid_step_keeps_its_pages_until_the_step_is_over() -> None:
    lab = open_lab()
    free = lab.engine._stats().kv_pages_free
    lab.engine.handle(submit(1, some_tokens(9, 5), name(0), tokens=100))
    while not lab.tokens(1):
        lab.step()
        settle_copies(lab)
    held = free - lab.engine._stats().kv_pages_free
    lab.engine.handle(Cancel(1))
    assert free - lab.engine._stats().kv_pages_free == held > 0
    lab.step()
    assert isinstance(lab.end(1), Finished)
    assert lab.end(1).reason == "cancelled"  # type: ignore[union-attr]
    assert lab.messages[-1] == lab.end(1), "a token came after the end"
    assert not lab.step()
    assert lab.engine._stats().kv_pages_free >= free - 1, "only what others may share is kept"
    lab.close()


def test_a_deadline_that_passes_in_mid_step_ends_the_request_after_it() -> None:
    lab = open_lab()
    lab.engine.handle(submit(1, some_tokens(9, 5), tokens=100, deadline_ms=60_000))
    lab.step()
    lab.step()
    now_s = lab.engine._clock()
    lab.engine._clock = lambda: now_s + 61.0
    lab.step()
    assert not lab.step()
    ended = lab.end(1)
    assert isinstance(ended, Failed)
    assert ended.code == "deadline"
    lab.close()


def test_after_a_step_that_failed_nothing_of_the_one_in_flight_is_taken_in() -> None:
    lab = open_lab()
    request: Submit = submit(1, some_tokens(9, 5), tokens=20)
    right = lab.run(submit(2, some_tokens(9, 5), tokens=20))[2]
    lab.engine.handle(request)
    lab.step()
    lab.step()
    lab.engine.fail_all("the engine's step failed; retry")
    lab.collect()
    assert isinstance(lab.end(1), Failed)
    lab.engine.check()
    assert lab.run(submit(3, some_tokens(9, 5), tokens=20))[3] == right
    lab.close()
