"""JSON under a grammar ends: white space and numbers are bounded whatever the model would like."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine.digits import MAX_DIGITS, Digits, Spelling
from engine.grammar import Matcher, source_of
from engine.grammar_check import LIMITS
from engine.messages import Grammar

END = "<|end|>"
LONG = ["ĊĊĊĊĊĊĊĊ", "ĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠĠ", "ĊĠĠ", "00", "777", "12345678", "0.5", ",Ċ", "9,", "q1"]
SCHEMA = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "least": {"type": "integer", "minimum": 0},
        "share": {"type": "number"},
        "all": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "word": {"enum": ["one 1", "two 22"]},
    },
    "required": ["count", "least", "share", "all", "word"],
    "additionalProperties": False,
}


@cache
def vocabulary() -> tuple[llguidance.LLTokenizer, Spelling, list[bytes]]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: at for at, token in enumerate([END, *letters, *LONG])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    read = llguidance.LLTokenizer(tokenizer.to_str(), n_vocab=len(words), eos_token=[0])
    spelled = [read.decode_bytes([token]) for token in range(len(words))]
    return read, Spelling.of(len(words), spelled.__getitem__), spelled


def matcher_of(schema: Any, kind: str = "json_schema") -> Matcher:
    read, spelling, spelled = vocabulary()
    text = schema if isinstance(schema, str) else json.dumps(schema)
    inner = llguidance.LLMatcher(read, source_of(Grammar(kind, text)), log_level=0, limits=LIMITS)  # type: ignore[arg-type]
    assert not inner.is_error(), inner.get_error()
    return Matcher(inner, len(spelled), Digits(spelling))


def ids_in(mask: NDArray[np.int32]) -> list[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return [int(token) for token in np.flatnonzero(bits)]


def write(matcher: Matcher, likes: bytes, choices: list[int], most: int = 2000) -> tuple[str, bool]:
    """What a model writes that likes tokens beginning with one of these bytes, and whether it came
    to an end.
    """
    spelled = vocabulary()[2]
    text = b""
    for step in range(most):
        if matcher.is_over:
            return text.decode(), True
        allowed = ids_in(matcher.allowed())
        liked = [token for token in allowed if spelled[token][:1] in likes.split(b"|")]
        among = liked or [token for token in allowed if token]
        if not among:
            return text.decode(), True
        token = among[choices[step % len(choices)] % len(among)]
        matcher.accept(token)
        text += spelled[token]
    return text.decode(), False


def longest(pattern: str, text: str) -> int:
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    return max(map(len, re.findall(pattern, outside)), default=0)


@pytest.mark.parametrize(
    "likes",
    [b"\n", b" ", b"\t", b" |\n|\t|\r", b"0|1|2|3|4|5|6|7|8|9", b"0|7|.|e|+|-", b"\n|1|.|e"],
)
@settings(deadline=None, max_examples=8, derandomize=True)
@given(choices=st.lists(st.integers(0, 500), min_size=1, max_size=30))
def test_a_model_that_likes_space_or_digits_ends_its_answer(
    likes: bytes, choices: list[int]
) -> None:
    text, ended = write(matcher_of(SCHEMA), likes, choices)
    assert ended, text[:300]
    assert json.loads(text).keys() == SCHEMA["properties"].keys()
    assert longest(r"\s+", text) <= 20
    assert longest(r"[0-9]+", text) <= MAX_DIGITS


@pytest.mark.parametrize("indent", [None, 0, 1, 2, 4])
def test_json_as_people_lay_it_out_may_be_written(indent: int | None) -> None:
    value = {"count": -(1 << 63), "least": (1 << 64) - 1, "share": 0.1 + 0.2, "all": [1e-300, 2.5]}
    text = json.dumps(value | {"word": "two 22"}, indent=indent)
    matcher = matcher_of(SCHEMA)
    read = vocabulary()[0]
    for token in read.tokenize_bytes(text.encode()):
        assert token in ids_in(matcher.allowed()), text
        matcher.accept(token)
    assert matcher.is_over


def test_digits_in_strings_and_those_that_a_schema_demands_are_free() -> None:
    spelled = vocabulary()[2]
    text, ended = write(matcher_of({"type": "string", "pattern": "^[0-9]{40}$"}), b"7", [0])
    assert (ended, text) == (True, '"' + "7" * 40 + '"')
    text, ended = write(matcher_of({"type": "string", "maxLength": 60}), b"7", [0])
    assert "7" * 50 in text
    text, ended = write(matcher_of({"const": 10**30}), b"0", [0])
    assert (ended, json.loads(text)) == (True, 10**30)
    text, ended = write(matcher_of('start: /[0-9]{30}/ " " /[a-z0-9]{30}/', "lark"), b"7", [0])
    assert (ended, text) == (True, "7" * 30 + " " + "7" * 30)
    assert len(spelled) == Spelling.of(len(spelled), spelled.__getitem__).leading.size
