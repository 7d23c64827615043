"""What an engine is at, and what may be expected of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine import messages as m
from node.engine_load import MAX_STEP_MS, EngineLoad
from node.errors import EngineLost


class Clock:
    """Seconds that are set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def finished(**changes: object) -> m.Finished:
    values: dict[str, object] = {
        "request_id": 1,
        "reason": "stop",
        "prompt_tokens": 100,
        "completion_tokens": 11,
        "queue_ms": 0.0,
        "load_ms": 0.0,
        "prefill_ms": 200.0,
        "decode_ms": 50.0,
        "neighbours": 1,
    }
    return m.Finished(**(values | changes))  # type: ignore[arg-type]


def test_who_runs_and_who_waits_is_counted_until_each_has_ended() -> None:
    clock = Clock()
    load = EngineLoad(clock)
    clock.now += 5
    assert load.idle_s == 5
    load.begin(1, prompt_tokens=10, max_tokens=8)
    load.begin(2, prompt_tokens=20, max_tokens=4)
    load.hear(1, m.Tokens(1, [7, 8], step=1))
    load.hear(9, m.Tokens(9, [7], step=1))
    assert (load.running, load.waiting, load.tokens_outstanding) == (1, 1, 6 + 24)
    assert load.idle_s == 0
    load.hear(1, finished())
    load.hear(2, EngineLost("it died"))
    load.end(1)
    assert (load.running, load.waiting, load.tokens_outstanding) == (0, 0, 0)
    clock.now += 3
    assert load.idle_s == 3


def test_what_is_measured_replaces_what_was_guessed() -> None:
    load = EngineLoad()
    load.measure(finished())
    assert (load.prefill_ms.value, load.step_ms.value) == (2.0, 5.0)
    load.measure(finished(cached_tokens=60, prefill_ms=240.0))
    assert load.prefill_ms.value == 0.75 * 2.0 + 0.25 * 6.0
    assert load.first_token_ms(50, "slot", None) == 50 * 3.0 + 5.0


def test_a_client_that_pays_late_does_not_make_the_node_slow() -> None:
    load = EngineLoad()
    load.measure(finished(decode_ms=1e6))
    assert load.step_ms.value == MAX_STEP_MS
    load.measure(finished(prompt_tokens=3, completion_tokens=1, prefill_ms=900.0))
    assert load.prefill_ms.value == 2.0


@given(
    tokens=st.integers(1, 5000), others=st.lists(st.integers(1, 500)), size=st.integers(0, 1 << 31)
)
def test_whatever_stands_before_the_first_token_makes_it_later(
    tokens: int, others: list[int], size: int
) -> None:
    load = EngineLoad()
    alone = load.first_token_ms(tokens, "slot", None)
    places = [load.first_token_ms(tokens, place, size) for place in ("slot", "memory", "disk")]
    assert places == sorted(places)
    assert places[-1] < load.first_token_ms(tokens, "absent", size)
    assert load.first_token_ms(tokens + 1, "slot", None) > alone
    for number, prompt in enumerate(others):
        before = load.first_token_ms(tokens, "slot", None)
        load.begin(number, prompt, max_tokens=8)
        assert load.first_token_ms(tokens, "slot", None) > before


def test_a_fetch_that_was_measured_says_how_long_the_next_one_takes() -> None:
    load = EngineLoad()
    load.measure_fetch(find_ms=10.0, size_bytes=5_000_000, fetch_ms=50.0)
    near = load.first_token_ms(8, "disk", None)
    assert load.first_token_ms(8, "absent", 10_000_000) == near + 10.0 + 100.0
    load.measure_fetch(find_ms=10.0, size_bytes=0, fetch_ms=0.0)
    assert load.fetch_bytes_ms.value == 100_000.0
