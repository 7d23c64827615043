"""A folder with a SentencePiece model alone is read as SentencePiece reads it, and as transformers
does where the two differ.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.answering.gguf_vocabulary import read_gguf_vocabulary
from node.answering.sentencepiece_model import (
    BadModelError,
    Model,
    build_tokenizer,
    merges_of,
    parse_model,
)
from node.answering.tokenizer import load_tokenizer, read_vocabulary
from node.errors import ConfigError

VECTORS = json.loads((Path(__file__).parent / "sentencepiece_vectors.json").read_text())["models"]
RAW = {each["name"]: base64.b64decode(each["model"]) for each in VECTORS}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda each: str(each["name"]))
def test_texts_get_the_ids_that_sentencepiece_gives_them(vector: dict[str, Any]) -> None:
    tokenizer = build_tokenizer(parse_model(base64.b64decode(vector["model"])))
    for each in vector["texts"]:
        ids = tokenizer.encode(each["text"], add_special_tokens=False).ids
        assert ids == each["ids"], each["text"]
        assert tokenizer.decode(ids) == each["text"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "text", ["<s>a control token</s> inside", " begins with a space", "[INST] what [/INST] x", "a"]
)
def test_control_tokens_and_spaces_are_those_of_transformers(legacy: bool, text: str) -> None:
    from transformers import LlamaTokenizer

    model = parse_model(RAW["bpe"])
    vocabulary = {piece: at for at, piece in enumerate(model.pieces)}
    oracle = LlamaTokenizer(
        vocab=vocabulary, merges=merges_of(vocabulary, model.scores), legacy=legacy
    )
    oracle.add_tokens(["[INST]"])
    ours = build_tokenizer(model, prefix_everywhere=legacy)
    assert ours.encode(text, add_special_tokens=False).ids == oracle.encode(
        text, add_special_tokens=False
    )


def write_folder(folder: Path, raw: bytes, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(raw)
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return folder


def test_a_folder_with_a_model_alone_has_its_tokens_and_those_added(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {
            "1": {"content": "<s>", "special": True},
            "420": {"content": "<|user|>", "special": True},
            "421": {"content": "<|end|>", "special": True},
        },
        "eos_token": "<|end|>",
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    tokenizer = load_tokenizer(write_folder(tmp_path / "base", RAW["bpe"], config))
    assert tokenizer.specials["bos_token"] == "<s>"
    assert 421 in tokenizer.stop_ids
    ids = tokenizer.encode_prompt("<|user|>the same")
    assert ids[:2] == [1, 420]
    assert tokenizer.decode(ids[2:]).strip() == "the same"
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    assert load_tokenizer(tmp_path / "base").encode_prompt("the same")[0] != 1


def test_what_a_card_carries_gives_the_ids_of_the_folder_s_own_files(tmp_path: Path) -> None:
    """Nodes that fetch the base, and the engine's grammars, have this tokenizer.json only."""
    config = {"added_tokens_decoder": {"420": {"content": "<|user|>", "special": True}}}
    own = load_tokenizer(write_folder(tmp_path / "base", RAW["bpe"], config))
    own.save(tmp_path / "tokenizer.json")
    carried = read_vocabulary((tmp_path / "tokenizer.json").read_bytes(), tmp_path)
    for text in ("<|user|>the same", " and  two", "Grüße, 東京 🦜", "</s>x"):
        ids = own.encode_prompt(text)
        assert list(carried.encode(text).ids) == ids
        assert carried.decode(ids[1:], skip_special_tokens=False)
    shutil.copy(tmp_path / "tokenizer.json", tmp_path / "base" / "tokenizer.json")
    again = load_tokenizer(tmp_path / "base")
    assert again.encode_prompt("<|user|>the same") == own.encode_prompt("<|user|>the same")


def test_added_tokens_of_an_older_folder_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "base", RAW["bpe"])
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 420}))
    assert 420 in load_tokenizer(folder).stop_ids


def test_an_added_token_that_cannot_have_its_id_is_refused(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {"500": {"content": "<|user|>", "special": True}}}
    with pytest.raises(ConfigError, match=r"'<\|user\|>' the id 500, which does not follow"):
        load_tokenizer(write_folder(tmp_path / "base", RAW["bpe"], config))


def test_a_broken_model_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.model cannot be read: it is truncated"):
        load_tokenizer(write_folder(tmp_path / "base", RAW["bpe"][:-7]))


@given(
    raw=st.binary(max_size=300)
    | st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=8)).map(
        lambda each: RAW["bpe"][: each[0]] + each[1] + RAW["bpe"][each[0] + len(each[1]) :]
    )
)
@settings(deadline=None, max_examples=60)
def test_only_one_error_comes_out_of_a_spoilt_model(raw: bytes) -> None:
    try:
        model = parse_model(raw)
    except BadModelError:
        return
    assert isinstance(model, Model)
    assert len(model.pieces) == len(model.scores) == len(model.kinds)


def test_a_gguf_file_s_unigram_vocabulary_is_the_model_s(tmp_path: Path) -> None:
    model = parse_model(RAW["unigram_bytes"])
    found = read_gguf_vocabulary(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": list(model.pieces),
            "tokenizer.ggml.scores": list(model.scores),
            "tokenizer.ggml.token_type": list(model.kinds),
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )
    vector = next(each for each in VECTORS if each["name"] == "unigram_bytes")
    for each in vector["texts"]:
        assert found.tokenizer.encode(each["text"], add_special_tokens=False).ids == each["ids"]
    assert found.ends == (2,)
