"""Which requests the engine takes: each rule, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.errors import UnknownAdapter
from engine.intake import Admitted, Limits, Queue, Refused, admit
from engine.messages import MAX_STOP_IDS, Replay

from .worlds import greedy, submit

LIMITS = Limits(
    vocab_size=100,
    context_tokens=20,
    max_waiting=3,
    max_waiting_tokens=30,
    waiting_deadline_s=1.0,
    parked_deadline_s=1.0,
)


def know(adapter: bytes) -> None:
    if adapter != b"known":
        raise UnknownAdapter("not held")


QUEUE = Queue(taken_ids={7}, num_waiting=0, waiting_tokens=0, check_known=know)


def replay(prompt: list[int], answer: list[int]) -> Replay:
    return Replay(
        request_id=1, prompt_ids=prompt, answer_ids=answer, adapter=None, sampling=greedy()
    )


def test_a_good_request_is_admitted_as_it_is() -> None:
    admitted = admit(submit(1, [1, 2], b"known", 4, stop_ids=[5]), LIMITS, QUEUE)
    assert isinstance(admitted, Admitted)
    assert (admitted.prompt_ids, admitted.max_length, admitted.stop_ids) == (
        [1, 2],
        6,
        frozenset({5}),
    )


def test_a_replay_fills_the_context_to_the_last_token_and_a_request_leaves_room_for_one() -> None:
    assert isinstance(admit(replay([1] * 10, [1] * 10), LIMITS, QUEUE), Admitted)
    assert isinstance(admit(replay([1] * 10, [1] * 11), LIMITS, QUEUE), Refused)
    assert isinstance(admit(submit(1, [1] * 19), LIMITS, QUEUE), Admitted)
    assert isinstance(admit(submit(1, [1] * 20), LIMITS, QUEUE), Refused)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"request_id": 7}, "already running"),
        ({"prompt": []}, "prompt_ids is empty"),
        ({"prompt": [100]}, "token id"),
        ({"prompt": [-1]}, "token id"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_answered": -1}, "num_answered"),
        ({"num_answered": 2}, "num_answered is 2"),
        ({"stop_ids": [1] * (MAX_STOP_IDS + 1)}, "stop_ids"),
        ({"priority": 101}, "priority"),
        ({"deadline_ms": -1}, "deadline_ms"),
        ({"logprobs": -1}, "logprobs"),
        ({"adapter": b"other"}, "not held"),
    ],
)
def test_each_rule_refuses_by_name(fields: dict[str, Any], word: str) -> None:
    given: dict[str, Any] = {"request_id": 1, "prompt": [1], **fields}
    refused = admit(submit(**given), LIMITS, QUEUE)
    assert isinstance(refused, Refused)
    assert word in str(refused.error)


@pytest.mark.parametrize(("prompt", "answer"), [([], [1]), ([1], []), ([1], [100])])
def test_a_replay_needs_a_prompt_and_an_answer_of_known_tokens(
    prompt: list[int], answer: list[int]
) -> None:
    assert isinstance(admit(replay(prompt, answer), LIMITS, QUEUE), Refused)


def test_a_full_queue_refuses() -> None:
    for full in (replace(QUEUE, num_waiting=3), replace(QUEUE, waiting_tokens=30)):
        refused = admit(submit(1, [1]), LIMITS, full)
        assert isinstance(refused, Refused)
        assert "waiting already" in str(refused.error)
