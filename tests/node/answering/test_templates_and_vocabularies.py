"""Chats are laid out, and texts cut into tokens, as transformers does with the same files: over
templates and vocabularies that are shaped like published ones.
"""

# ruff: noqa: E501 (templates as they are published)
from __future__ import annotations

import functools
import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from node.answering.gguf_vocabulary import CUTS
from node.answering.tokenizer import BaseTokenizer, byte_letters, load_tokenizer
from node.api.answers import ChatMessage
from node.errors import BadRequest, ConfigError

transformers = pytest.importorskip("transformers", reason="transformers is only there for training")
pytestmark = pytest.mark.filterwarnings("ignore")

SPECIALS = ("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "[INST]", "[/INST]")
SPACE = "\u2581"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n'"
    " }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "a system turn where there is none": (
        "{%- if messages[0].role != 'system' -%}<|im_start|>system\nBe kind.<|im_end|>\n{%- endif -%}"
        + CHATML
    ),
    "headers, trimmed": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content ="
        " '<|start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if"
        " loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor"
        " %}{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
    ),
    "dates and tools": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "Today: " + date_string + "\\n" + system_message }}
{%- if tools is not none %}
    {{- "Functions:\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- message['role'] + '\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'assistant\\n' }}
{%- endif %}
""",
    "tools in xml": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- endif %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- if loop.last and ns.last_query_index < 0 %}{{- 'nobody asked' }}{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>' }}{%- endif %}
""",
    "turns must alternate": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') !="
        " (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate"
        " user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{"
        " '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{"
        " message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles"
        " are supported!') }}{% endif %}{% endfor %}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation"
        " %}{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{"
        " m.content }}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt"
        " %}<|im_start|>assistant\n{% endif %}"
    ),
    "generation, trimmed, setting outside": (
        "{% set ns = namespace(n=0) %}{%- for m in messages -%}{%- generation -%} {% set ns.n = ns.n"
        " + 1 %}{{ m.content }} {%- endgeneration -%}{%- endfor -%}{{ ns.n }}{{ unk_token }}"
    ),
    "break and continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index"
        " > 3 %}{% break %}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    ),
    "macros": (
        "{% macro turn(m, close=true) %}[{{ m.role|upper }}] {{ m.content|replace('a', 'A') }}{{"
        " '<|im_end|>' if close else '' }}{% endmacro %}{% for m in messages %}{{ turn(m) }}\n    {%"
        " if loop.last %}{{ turn(m, close=false) }}{% endif %}{% endfor %}"
    ),
    "json": (
        "{{ messages | tojson }}{{ {'<b>': 'é', 'z': [1, none, true]} | tojson(sort_keys=true,"
        " ensure_ascii=true) }}{{ documents }}{{ pad_token }}{{ nothing_of_that_name }}"
    ),
    "a list of roles": "{{ messages | map(attribute='role') | join(',') }}{{ messages[-1]['name'] }}",
    "wrong types": "{{ messages[0].content + 1 }}",
    "a dunder": "{{ messages.__class__.__mro__ }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "keeps a hidden name": "{% set ns = namespace(__class__=1) %}{{ ns }}",
    "divides by nothing": "{% if messages|length > 2 %}{{ 1 // 0 }}{% endif %}fine",
}  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Wetter für <Ort> & 'Zeit'",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]


def byte_level(folder: Path, template: Any = CHATML, **config: Any) -> Path:
    """A folder with a byte-level vocabulary."""
    tokenizer = Tokenizer(
        models.BPE(
            vocab={
                token: at
                for at, token in enumerate(
                    [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "he", "Ġt"]
                )
            },
            merges=[("t", "h"), ("h", "e"), ("Ġ", "t")],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    return write(folder, tokenizer, template, **config)


def write(folder: Path, tokenizer: Tokenizer, template: Any = CHATML, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False},
        "unk_token": "<unk>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def oracle_of(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))


@functools.cache
def both(template: str) -> tuple[BaseTokenizer, Any]:
    with tempfile.TemporaryDirectory() as folder:
        byte_level(Path(folder), TEMPLATES[template])
        return load_tokenizer(Path(folder)), oracle_of(Path(folder))


CHATS = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant"]),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from([" the ", "<|im_end|>", "a</think>\n\nb", "{{ 1 }}", "\n", "é🦜"]),
        ),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None, max_examples=25)
@given(chat=CHATS, with_tools=st.booleans())
def test_a_template_renders_as_with_transformers_or_refuses_with_it(
    template: str, chat: list[tuple[str, str]], with_tools: bool
) -> None:
    ours, oracle = both(template)
    turns = [{"role": role, "content": content} for role, content in chat]
    tools = TOOLS if with_tools else None
    messages = tuple(ChatMessage(**turn) for turn in turns)
    try:
        expected = oracle.apply_chat_template(
            turns, tools=tools, tokenize=False, add_generation_prompt=True
        )
    except Exception:  # whatever a template raises there
        with pytest.raises(BadRequest, match="refused these messages"):
            ours.render(messages, tools)
        return
    assert ours.render(messages, tools) == expected
    if expected:
        assert ours.encode_prompt(messages, tools) == oracle.apply_chat_template(
            turns, tools=tools, add_generation_prompt=True, return_dict=False
        )


def test_of_several_templates_the_default_is_for_chats_and_another_for_tools(
    tmp_path: Path,
) -> None:
    named = [
        {"name": "tool_use", "template": "TOOLS {{ tools | length }}"},
        {"name": "default", "template": "PLAIN {{ messages | length }}"},
    ]
    byte_level(tmp_path / "list", named)
    byte_level(tmp_path / "files", "IGNORED")
    (tmp_path / "files" / "chat_template.jinja").write_text("PLAIN {{ messages | length }}")
    (tmp_path / "files" / "additional_chat_templates").mkdir()
    beside = tmp_path / "files" / "additional_chat_templates" / "tool_use.jinja"
    beside.write_text("TOOLS {{ tools | length }}")
    turns = [{"role": "user", "content": "hi"}]
    for kind in ("list", "files"):
        ours = load_tokenizer(tmp_path / kind)
        oracle = oracle_of(tmp_path / kind)
        for tools in (None, TOOLS):
            expected = oracle.apply_chat_template(turns, tools=tools, tokenize=False)
            assert ours.render([ChatMessage("user", "hi")], tools) == expected
        assert expected == "TOOLS 1"


def test_a_template_knows_today(tmp_path: Path) -> None:
    byte_level(tmp_path, "{{ strftime_now('%Y-%m-%d') }}")
    days = {datetime.now().strftime("%Y-%m-%d")}
    text = load_tokenizer(tmp_path).render([ChatMessage("user", "hi")])
    assert text in days | {datetime.now().strftime("%Y-%m-%d")}


def test_a_template_that_is_no_program_refuses_chats_and_nothing_else(tmp_path: Path) -> None:
    byte_level(tmp_path, "{% for m in messages %}")
    base = load_tokenizer(tmp_path)
    assert base.encode_prompt("the") == oracle_of(tmp_path).encode("the")
    with pytest.raises(BadRequest, match=r"chat template cannot be read: .*end of template"):
        base.render([ChatMessage("user", "hi")])


@pytest.mark.parametrize("given", [3, [1], [{"name": "default"}], {"default": 3}])
def test_what_is_no_template_is_refused_by_name(tmp_path: Path, given: Any) -> None:
    byte_level(tmp_path, given)
    with pytest.raises(ConfigError, match="chat_template"):
        load_tokenizer(tmp_path)


# --- vocabularies ---

PIECES = [
    *("<unk>", "<s>", "</s>"),
    *(f"<0x{byte:02X}>" for byte in range(256)),
    *(SPACE, "t", "h", "e", "a", "n", "d", "o", "w"),
    *(SPACE + "t", "th", "he", SPACE + "the", "an", SPACE + "a", "and", SPACE + "and", SPACE * 2),
]
SCORES = [0.0] * 259 + [-1000.0 - at for at in range(9)] + [-float(at) for at in range(9)]


def sentencepiece() -> Tokenizer:
    """What transformers' converter makes of PIECES."""
    from transformers.convert_slow_tokenizer import generate_merges

    vocab = {piece: at for at, piece in enumerate(PIECES)}
    merges = generate_merges(vocab, dict(zip(PIECES, SCORES, strict=True)))
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def sentencepiece_file(path: Path, **fields: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores(SCORES)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 18])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in fields.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def metaspace() -> Tokenizer:
    tokenizer = sentencepiece()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


def cut_short() -> Tokenizer:
    tokenizer = sentencepiece()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=12)
    return tokenizer


BUILDS = {"sentencepiece": sentencepiece, "metaspace": metaspace, "cut short": cut_short}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bos is not asked for": {"add_bos_token": False, "add_eos_token": True},
    "more tokens": {
        "added_tokens_decoder": {
            "277": {"content": "<tool>", "special": False, "normalized": True},
            "278": {"content": "<|late|>", "special": True, "lstrip": True},
        },
        "pad_token": "<|pad|>",
    },
    "named by the model": {
        "image_token": "<image>",
        "additional_special_tokens": ["<|a|>", "<|b|>"],
    },
}
TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=" thean", max_size=30),
    st.sampled_from(
        ["", " the and", "  the", "the<s>and", "<tool> x <|late|>", "<|pad|>", "日本 the", "<0x41>"]
    ),
)


@functools.cache
def pair(build: str, config: str) -> tuple[BaseTokenizer, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), BUILDS[build](), **CONFIGS[config])
        return load_tokenizer(folder), oracle_of(folder)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("build", BUILDS)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS)
def test_a_folder_s_vocabulary_cuts_texts_as_transformers_does(
    build: str, config: str, text: str
) -> None:
    ours, oracle = pair(build, config)
    if text:
        assert ours.encode_prompt(text) == oracle.encode(text)


@functools.cache
def from_gguf(begins_with_space: bool = True) -> BaseTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        fields = {} if begins_with_space else {"add_space_prefix": False}
        return load_tokenizer(sentencepiece_file(Path(folder) / "base.gguf", **fields))


@settings(deadline=None)
@given(text=TEXTS)
def test_a_sentencepiece_vocabulary_in_gguf_cuts_texts_as_its_folder_does(text: str) -> None:
    if text:
        assert from_gguf().encode_prompt(text) == sentencepiece().encode(text).ids


@settings(deadline=None)
@given(text=TEXTS, cut=st.integers(0, 30), step=st.integers(1, 3))
def test_an_answer_goes_on_where_the_prompt_ended_with_every_space_kept(
    text: str, cut: int, step: int
) -> None:
    for base in (from_gguf(), from_gguf(begins_with_space=False), pair("metaspace", "plain")[0]):
        if not text:
            continue
        ids = base.encode_prompt(text)[1:]
        cut = min(cut, len(ids))
        stream = base.detokenizer()
        said = "".join(stream.feed(ids[at : at + step]) for at in range(cut, len(ids), step))
        said += stream.flush()
        if "\ufffd" not in base.decode(ids[:cut]) + base.decode(ids[cut:]):
            assert said == base.decode(ids[cut:])
            assert base.decode(ids[:cut]) + said == base.decode(ids)


@settings(deadline=None)
@given(text=TEXTS)
def test_the_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    base = from_gguf(begins_with_space=False)
    if text:
        spelled = b"".join(base.spell(token) for token in base.encode_prompt(text)[1:])
        assert spelled == text.encode()


def test_sentencepiece_without_scores_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "base.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="a score for each"):
        load_tokenizer(tmp_path / "base.gguf")


# --- what ends an answer ---


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (None, None, {1}),
        ({"eos_token_id": 4}, None, {1, 4}),
        ({"eos_token_id": [4, 5]}, {"eos_token_id": 7}, {1, 4, 5, 7}),
        ({"eos_token_id": None}, {"eos_token_id": [6, 6, 9_999_999, -1, True]}, {1, 6}),
        ({}, {}, {1}),
    ],
)
def test_every_id_that_the_base_s_files_name_ends_an_answer(
    tmp_path: Path, config: Any, generation: Any, ends: set[int]
) -> None:
    byte_level(tmp_path)
    for name, raw in (("config.json", config), ("generation_config.json", generation)):
        if raw is not None:
            (tmp_path / name).write_text(json.dumps(raw))
    im_end = 4  # a token of that name ends an answer wherever it is
    assert set(load_tokenizer(tmp_path).stop_ids) == ends | {im_end}


def test_more_ends_than_a_request_carries_are_refused(tmp_path: Path) -> None:
    byte_level(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [*range(30)]}))
    with pytest.raises(ConfigError, match="30 tokens"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_settings_file_that_is_none_is_named(tmp_path: Path, name: str, text: str) -> None:
    byte_level(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        load_tokenizer(tmp_path)


def test_a_gguf_file_ends_answers_at_every_token_that_means_an_end(tmp_path: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|"]
    writer = gguf.GGUFWriter(tmp_path / "base.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([*[1] * len(letters), 3, 3, 3, 1])
    writer.add_token_merges(["< |"])
    writer.add_eos_token_id(len(letters))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert load_tokenizer(tmp_path / "base.gguf").stop_ids == (256, 257, 258)


def test_merges_that_contradict_the_vocabulary_are_refused_in_one_line(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "base.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["t", "h"])
    writer.add_token_merges(["t h"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="there is no token 'th'"):
        load_tokenizer(tmp_path / "base.gguf")


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("qwen2", ["it", "'s", " HelloWorld", " ", "1", "2", "3", "4", "/\n\n"]),
        ("llama-bpe", ["it", "'s", " HelloWorld", " ", "123", "4", "/\n\n"]),
        ("smaug-bpe", ["it", "'s", " HelloWorld", " ", "123", "4", "/\n\n"]),
        ("tekken", ["it", "'s", " Hello", "World", " ", "1", "2", "3", "4", "/\n\n"]),
        ("gpt-4o", ["it's", " Hello", "World", " ", "123", "4", "/\n\n"]),
        ("starcoder", ["it", "'s", " HelloWorld", " ", "1", "2", "3", "4", "/", "\n\n"]),
        ("gpt-2", ["it", "'s", " HelloWorld", " 1234", "/", "\n\n"]),
    ],
)
def test_each_pre_tokenizer_cuts_words_as_it_is_published(pre: str, words: list[str]) -> None:
    cut = CUTS[pre].build().pre_tokenize_str("it's HelloWorld 1234/\n\n")
    letters = byte_letters()
    assert [bytes(letters[each] for each in word).decode() for word, _ in cut] == words
