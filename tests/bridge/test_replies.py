"""What vLLM says, read whatever it is."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import ServerBroke
from bridge.replies import (
    MAX_MESSAGE_CHARS,
    Figures,
    Piece,
    read_event,
    read_figures,
    read_models,
    read_refusal,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "token_ids", "logprobs", "content", "error", "data", "id"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_or_named(data: bytes) -> None:
    with suppress(ServerBroke):
        assert isinstance(read_event(b"data: " + data), Piece | None)
    with suppress(ServerBroke):
        read_models(data)
    assert len(read_refusal(data)) <= MAX_MESSAGE_CHARS
    page = data.decode(errors="replace")
    figures = read_figures(f'vllm:kv_cache_usage_perc{{a="b"}} {page}\nvllm:cache{page}')
    assert 0 <= figures.used <= 1


def test_text_that_is_no_text_is_named() -> None:
    with pytest.raises(ServerBroke, match="utf-8"):
        read_event(b'data: {"error": {"message": "\xff"}}')
    with pytest.raises(ServerBroke, match="utf-8"):
        read_models(b'{"data": [{"id": "\xff"}]}')


def test_lines_that_say_nothing_are_passed_over() -> None:
    assert read_event(b"") is None
    assert read_event(b": a comment") is None
    assert read_event(b"data: [DONE]") is None


def test_figures_that_are_not_told_stay_at_their_defaults() -> None:
    assert read_figures("") == Figures()
    page = 'vllm:cache_config_info{num_gpu_blocks="None",block_size="x"} 1.0\n'
    assert read_figures(page) == Figures()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no\\n such  model", "code": 404}}', "no such model"),
        (b'{"error": "Unauthorized"}', '{"error": "Unauthorized"}'),
        (b"<html>\xff", "<html>\ufffd"),
        (b'{"error": {"message": "\xff"}}', '{"error": {"message": "\ufffd"}}'),
    ],
)
def test_the_words_of_an_error_are_found(body: bytes, said: str) -> None:
    assert read_refusal(body) == said
