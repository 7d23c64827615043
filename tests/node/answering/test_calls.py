"""Calls of tools, in every form that a family of models writes: what a grammar lets through, and
what is read back of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from engine.messages import MAX_GRAMMAR_CHARS, Grammar
from node.answering.call_grammar import bind
from node.answering.call_reader import CallReader, Piece
from node.answering.tools import FORMS, HERMES, LLAMA, MISTRAL, Form, as_turns, explained, form_of
from node.api.answers import CallDelta, ChatMessage, Tool, ToolCall, ToolChoice
from node.errors import BadRequest
from tests.node.tiny import SPECIALS

FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.mark or "llama")
TAGS = ("<tool_call>", "</tool_call>", "<think>")
CONTROLS = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "<|/tool_call|>")
TOOLS = (
    Tool(
        "weather",
        "How the weather is.",
        {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/Place"}, "days": {"type": "integer"}},
            "required": ["place"],
            "$defs": {"Place": {"type": "string"}},
        },
    ),
    Tool("stop.all"),
)
GOOD = [("weather", {"place": "Ö", "days": 3}), ("stop.all", {})]
AUTO = ToolChoice()
MUST = ToolChoice("required")


def vocabulary(*, with_tags: bool) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: at for at, token in enumerate([*SPECIALS, *letters])}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    if with_tags:
        tokenizer.add_special_tokens(list(CONTROLS))
        tokenizer.add_tokens([AddedToken(tag, special=False) for tag in TAGS])
    return tokenizer


PLAIN = vocabulary(with_tags=False)
TAGGED = vocabulary(with_tags=True)
READS = {
    id(one): llguidance.LLTokenizer(one.to_str(), n_vocab=one.get_vocab_size(), eos_token=[2])
    for one in (PLAIN, TAGGED)
}


def tags_of(tokenizer: Tokenizer, form: Form) -> dict[str, int]:
    names = [*TAGS, *(name for name in CONTROLS if name in form.markers)]
    found = {name: tokenizer.token_to_id(name) for name in names}
    return {name: at for name, at in found.items() if at is not None}


def written(form: Form, calls: Sequence[tuple[str, Any]]) -> str:
    each = [
        form.opening.replace("NAME", name) + json.dumps(given, ensure_ascii=False) + form.closing
        for name, given in calls
    ]
    return form.before + form.between.join(each) + form.after


def fits(grammar: Grammar | None, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the text may be a whole answer."""
    assert grammar is not None
    assert grammar.kind == "lark"
    source = llguidance.LLMatcher.grammar_from_lark(grammar.text)
    matcher = llguidance.LLMatcher(READS[id(tokenizer)], source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


def read(form: Form, *parts: str) -> list[Piece]:
    reader = CallReader(form, lambda: "id")
    pieces = [piece for part in parts for piece in reader.feed(part)]
    return pieces + reader.flush()


def gathered(pieces: Sequence[Piece]) -> tuple[str, list[tuple[str, str]]]:
    """All text, and all calls."""
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, CallDelta):
            assert bool(piece.id) == bool(piece.name) == (piece.index == len(calls))
            if piece.name:
                calls.append((piece.name, ""))
            name, so_far = calls[piece.index]
            calls[piece.index] = (name, so_far + piece.arguments)
    return "".join(piece for piece in pieces if isinstance(piece, str)), calls


# --- what may be written ---


@FORM
@pytest.mark.parametrize("tokenizer", [PLAIN, TAGGED], ids=["letters", "tags"])
def test_a_grammar_lets_text_and_right_calls_through_and_no_wrong_ones(
    form: Form, tokenizer: Tokenizer
) -> None:
    tags = tags_of(tokenizer, form)
    lead = "" if form is LLAMA else "Let me see. "
    auto = bind(form, TOOLS, AUTO, None, tags)
    must = bind(form, TOOLS, MUST, None, tags)
    one = bind(form, TOOLS, ToolChoice("required", is_parallel=False), None, tags)
    named = bind(form, TOOLS, ToolChoice("required", only="stop.all"), None, tags)
    for calls in (GOOD[:1], GOOD, GOOD * 8):
        assert fits(auto, tokenizer, lead + written(form, calls))
        assert fits(must, tokenizer, written(form, calls))
        assert fits(one, tokenizer, written(form, calls)) == (len(calls) == 1)
        assert not fits(named, tokenizer, written(form, calls))
    assert fits(named, tokenizer, written(form, GOOD[1:]))
    assert not fits(must, tokenizer, written(form, GOOD * 9))
    for text in ("", "It is {fine}.", "<think>well</think> yes", "a < b"):
        assert fits(auto, tokenizer, text)
        assert not fits(must, tokenizer, text)
    for wrong in (
        [("weather", {})],
        [("weather", {"place": 3})],
        [("weather", {"place": "x", "else": 1})],
        [("stop.all", {"a": 1})],
        [("wether", {"place": "x"})],
    ):
        assert not fits(auto, tokenizer, lead + written(form, wrong))
        assert not fits(must, tokenizer, written(form, wrong))


@FORM
def test_an_answer_that_calls_nothing_follows_its_own_schema(form: Form) -> None:
    schema = Grammar("json_schema", '{"type": "array", "items": {"type": "integer"}}')
    expression = Grammar("regex", "a/b|c")
    tags = tags_of(TAGGED, form)
    either = bind(form, TOOLS, AUTO, schema, tags)
    assert fits(either, TAGGED, "[1, 2]")
    assert fits(either, TAGGED, written(form, GOOD))
    assert not fits(either, TAGGED, "some text")
    assert fits(bind(form, TOOLS, AUTO, expression, tags), TAGGED, "a/b")
    assert bind(form, TOOLS, ToolChoice("none"), schema, tags) == schema
    assert bind(form, (), AUTO, None, tags) is None


@FORM
def test_white_space_in_arguments_is_bounded(form: Form) -> None:
    must = bind(form, TOOLS, MUST, None, {})
    call = written(form, [("weather", {"place": "x"})])
    assert fits(must, PLAIN, call.replace('{"place"', '{\n  "place"'))
    assert not fits(must, PLAIN, call.replace('{"place"', "{" + "\n" * 21 + '"place"'))


@FORM
def test_tools_too_long_for_a_grammar_are_bound_by_their_names(form: Form) -> None:
    long = {"type": "object", "properties": {"x" * 600: {"type": "string"}}}
    tools = [Tool(f"tool_{number}", parameters=long) for number in range(100)]
    must = bind(form, tools, MUST, None, {})
    assert must is not None
    assert len(must.text) <= MAX_GRAMMAR_CHARS
    assert fits(must, PLAIN, written(form, [("tool_7", {"any": [1]})]))
    assert not fits(must, PLAIN, written(form, [("tool_100", {})]))
    names = [Tool("n" * 100 + str(number)) for number in range(500)]
    with pytest.raises(BadRequest, match="limit is"):
        bind(form, names, MUST, None, {})


# --- what is read ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(
        st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True),
        st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    ),
    min_size=1,
    max_size=4,
)


def cut(text: str, places: Sequence[int]) -> list[str]:
    edges = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


@FORM
@settings(deadline=None, max_examples=15, derandomize=True)
@given(calls=CALLS, places=st.lists(st.integers(0, 1000), max_size=12), lead=st.booleans())
def test_calls_are_read_back_wherever_their_text_is_cut(
    form: Form, calls: list[tuple[str, Any]], places: list[int], lead: bool
) -> None:
    before = "I look.\n" if lead and form is not LLAMA else ""
    text, found = gathered(read(form, *cut(before + written(form, calls), places)))
    assert text == before.strip()
    assert [(name, json.loads(given)) for name, given in found] == calls


@FORM
@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    text=st.lists(
        st.sampled_from(
            [*'{}[]",:;\\ \n', "name", "arguments", "call", "é", "1", *TAGS, *CONTROLS]
        ),
        max_size=20,
    ).map("".join),
    places=st.lists(st.integers(0, 1000), max_size=8),
)
def test_whatever_is_written_is_read_alike_however_it_is_cut(
    form: Form, text: str, places: list[int]
) -> None:
    assert gathered(read(form, *cut(text, places))) == gathered(read(form, text))


@FORM
@settings(deadline=None, max_examples=12, derandomize=True)
@given(text=st.text(st.characters(exclude_characters="{<["), max_size=40))
def test_text_without_calls_comes_through_whole(form: Form, text: str) -> None:
    assert gathered(read(form, text)) == (text, [])


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, 'x <tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', '{"a": 1}'),
        (HERMES, 'x <tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', '{"a": 1}'),
        (HERMES, 'x <tool_call>\n{"name": "f"}\n</tool_call>', "{}"),
        (HERMES, 'x <tool_call>{"name":"f","arguments":null}</tool_call>', "{}"),
        (HERMES, 'x <tool_call>{"name":"f","parameters":{"a":1}}', '{"a":1}'),
        (HERMES, 'x<tool_call>[{"name":"f","arguments":{}, "id": "z}"}]</tool_call>', "{}"),
        (MISTRAL, 'x[TOOL_CALLS] [ {"name": "f", "arguments": {"a": "]"}, "id": 9}]', '{"a": "]"}'),
        (MISTRAL, 'x[TOOL_CALLS]{"name": "f", "arguments": {}}', "{}"),
    ],
)  # fmt: skip
def test_what_models_do_to_a_call_is_forgiven(form: Form, text: str, expected: str) -> None:
    assert gathered(read(form, text)) == ("x", [("f", expected)])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call> is a tag",
        "a <tool_call>",
        '{"colour": "red"}',
        '<tool_call>{"colour": "red"}</tool_call>',
        '<tool_call>{"name": "f", "argum',
        "<tool",
        " \n ",
    ],
)
def test_what_turns_out_to_be_no_call_is_text(text: str) -> None:
    said, calls = gathered(read(HERMES, *text))
    assert (said, calls) == (text, [])


def test_arguments_are_handed_on_before_they_are_whole() -> None:
    reader = CallReader(HERMES, lambda: "id")
    reader.feed('<tool_call>\n{"name": "f", "arguments": {"a"')
    assert reader.feed(': "b') == [CallDelta(0, ': "b')]
    assert reader.feed("") == []


def test_the_form_follows_from_the_template() -> None:
    assert form_of("{{ tools }}<tool_call>", knows_tools=True) is HERMES
    assert form_of("{{ tools }}[TOOL_CALLS]", knows_tools=True) is MISTRAL
    assert form_of("{{ tools }}", knows_tools=True) is LLAMA
    assert form_of("<|python_tag|>", knows_tools=False) is HERMES


# --- what a template is given ---

TURNS = (
    ChatMessage("user", "Hot?"),
    ChatMessage("assistant", "I look.", (ToolCall("call_12345", "weather", '{"place": "Bonn"}'),)),
    ChatMessage("tool", "31", tool_call_id="call_12345"),
)


def test_templates_get_arguments_as_objects_and_ids_as_they_take_them() -> None:
    turns: Sequence[Mapping[str, Any]] = as_turns(TURNS, HERMES)
    called = turns[1]["tool_calls"][0]
    assert called["function"] == {"name": "weather", "arguments": {"place": "Bonn"}}
    assert called["id"] == turns[2]["tool_call_id"] == "call_12345"
    short = as_turns(TURNS, MISTRAL)
    assert short[1]["tool_calls"][0]["id"] == short[2]["tool_call_id"]
    assert len(short[2]["tool_call_id"]) == 9
    assert "tool_calls" not in turns[0]


def test_a_base_without_tools_in_its_template_is_told_of_them_in_plain_turns() -> None:
    told = explained((ChatMessage("system", "Be brief."), *TURNS), TOOLS)
    assert [turn.role for turn in told] == ["system", "user", "assistant", "user"]
    assert told[0].content.startswith("Be brief.\n\n")
    assert '"name": "weather"' in told[0].content
    assert gathered(read(HERMES, told[2].content)) == (
        "I look.",
        [("weather", '{"place": "Bonn"}')],
    )
    assert told[3].content == "<tool_response>\n31\n</tool_response>"
    assert not any(turn.tool_calls or turn.tool_call_id for turn in told)
    assert explained(TURNS[:1], ()) == TURNS[:1]
    several = explained((*TURNS, ChatMessage("tool", "12", tool_call_id="c2")), ())
    assert [turn.role for turn in several] == ["user", "assistant", "user"]
    assert several[2].content == (
        "<tool_response>\n31\n</tool_response>\n<tool_response>\n12\n</tool_response>"
    )
