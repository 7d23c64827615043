"""The tokenizer agrees with transformers on the real base, and streams text that never has to be
taken back.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from node.answering.tokenizer import BaseTokenizer, StopFinder, load_tokenizer
from node.api.answers import ChatMessage
from node.config import bundled_weights
from node.errors import BadRequest, ConfigError

TEXTS = (
    "Hello world",
    "don't  stop\n\n  now 12345 3.14",
    "naïve café — “quotes” 日本語 🦜🦜",
    "def f(x):\n\treturn x**2  # тест",
    " leading and trailing ",
    "²³½ ٣٤ Ⅷ",
)


@pytest.fixture(scope="module")
def tokenizer() -> BaseTokenizer:
    return _shared()


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="transformers is only there for training",
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("gguf_read_once")
def test_ids_and_chat_layout_equal_those_of_transformers(tokenizer: BaseTokenizer) -> None:
    import transformers

    path = bundled_weights()
    oracle = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    for text in TEXTS:
        assert oracle.decode(tokenizer.encode_prompt(text)) == text
        if not any(
            character.isnumeric() for character in text
        ):  # its GGUF reader forgets that this base splits digits
            assert tokenizer.encode_prompt(text) == oracle.encode(text, add_special_tokens=False)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    expected = oracle.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert tokenizer.render([ChatMessage(**turn) for turn in turns]) == expected


def test_digits_stand_alone(tokenizer: BaseTokenizer) -> None:
    assert len(tokenizer.encode_prompt("12345")) == 5


@given(cut=st.integers(1, 7), text=st.text(min_size=1, max_size=80))
def test_streamed_text_is_the_whole_text(cut: int, text: str) -> None:
    tokenizer = _shared()
    ids = tokenizer.encode_prompt(text)
    stream = tokenizer.detokenizer()
    pieces = [stream.feed(ids[at : at + cut]) for at in range(0, len(ids), cut)]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_long_answers_stream_exactly(tokenizer: BaseTokenizer) -> None:
    ids = tokenizer.encode_prompt("Öl 🦜 und 日本語, " * 60)
    stream = tokenizer.detokenizer()
    assert "".join(stream.feed([token]) for token in ids) + stream.flush() == tokenizer.decode(ids)


@given(text=st.text(alphabet="abS", max_size=40), cut=st.integers(1, 5))
def test_a_stop_string_cuts_wherever_the_pieces_break(text: str, cut: int) -> None:
    finder = StopFinder(("SaS", "bb"))
    shown = ""
    stopped = False
    for at in range(0, len(text), cut):
        piece, stopped = finder.feed(text[at : at + cut])
        shown += piece
        if stopped:
            break
    if not stopped:
        shown += finder.held
    ends = [at for at in (text.find("SaS"), text.find("bb")) if at >= 0]
    assert stopped == bool(ends)
    assert shown == (text[: min(ends)] if ends else text)


def test_an_unreadable_base_is_named() -> None:
    with pytest.raises(ConfigError, match="base_path"):
        load_tokenizer(bundled_weights().parent / "absent.gguf")


def test_an_empty_prompt_is_refused(tokenizer: BaseTokenizer) -> None:
    with pytest.raises(BadRequest):
        tokenizer.encode_prompt("")


@functools.cache
def _shared() -> BaseTokenizer:
    return load_tokenizer(bundled_weights())


def write_vocabulary(path: Path, pre: str, **fields: int | bool) -> None:
    """A GGUF file that is only a vocabulary: bytes, some merges, and one control token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("1", "2"), ("12", "3"), ("l", "l"), ("Ġ", "t")]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens = [*letters, *(one + other for one, other in merges), "<s>", "hello"]
    writer.add_token_list(tokens)
    writer.add_token_types([*[1] * (len(tokens) - 2), 3, 1])
    writer.add_token_merges([f"{one} {other}" for one, other in merges])
    writer.add_bos_token_id(int(fields.get("bos", len(tokens) - 2)))
    writer.add_eos_token_id(len(tokens) - 2)
    writer.add_add_bos_token(bool(fields.get("add_bos", False)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def pieces(tokenizer: BaseTokenizer, text: str) -> list[bytes]:
    return [tokenizer.spell(token) for token in tokenizer.encode_prompt(text)]


def test_each_family_cuts_words_and_digits_as_it_was_trained(tmp_path: Path) -> None:
    cut = {}
    for pre in ("llama-bpe", "qwen2", "smollm", "gpt-2"):
        write_vocabulary(tmp_path / pre, pre)
        cut[pre] = pieces(load_tokenizer(tmp_path / pre), "hello 1234")
    assert cut["llama-bpe"] == [b"hello", b" ", b"123", b"4"]
    assert cut["qwen2"] == [b"h", b"e", b"ll", b"o", b" ", b"1", b"2", b"3", b"4"]
    assert cut["smollm"] == [b"h", b"e", b"ll", b"o", b" ", b"1", b"2", b"3", b"4"]
    assert cut["gpt-2"] == [b"h", b"e", b"ll", b"o", b" ", b"123", b"4"]


def test_plain_text_gets_its_first_token_and_a_chat_only_the_template_s(tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "base", "llama-bpe", add_bos=True)
    assert pieces(load_tokenizer(tmp_path / "base"), "ll") == [b"<s>", b"ll"]


def test_every_token_of_the_real_base_spells_what_its_text_says(tokenizer: BaseTokenizer) -> None:
    for text in TEXTS:
        assert b"".join(pieces(tokenizer, text)).decode() == text


@pytest.mark.parametrize(
    ("pre", "fields", "word"),
    [("unheard-of", {}, "unheard-of"), ("qwen2", {"bos": 100_000}, "outside the vocabulary")],
)
def test_a_vocabulary_that_we_cannot_follow_is_refused(
    tmp_path: Path, pre: str, fields: dict[str, int], word: str
) -> None:
    write_vocabulary(tmp_path / "base", pre, **fields)
    with pytest.raises(ConfigError, match=word):
        load_tokenizer(tmp_path / "base")
