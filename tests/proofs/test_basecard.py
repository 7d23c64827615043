"""A card and an index say one thing in one form, or are refused by the name of what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from typing import Any

import msgspec
import pytest
from eth_keys import keys
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.basecard import MAX_TEMPLATE_BYTES, BaseCard, Described, build_card, parse_card
from proofs.baseindex import (
    BLOCK_BYTES,
    MAX_INDEX_BYTES,
    BaseFile,
    BaseIndex,
    build_index,
    parse_index,
)
from proofs.codec import encode
from proofs.errors import BaseCardError, BaseIndexError
from proofs.manifest import File
from tests.golden import other
from tests.proofs.scene import signer
from tests.proofs.test_receipts import mutate

VECTOR = other.load("basecard")
ABOUT = Described(
    name="SmolLM2-135M",
    base=bytes([1]) * 32,
    format="gguf",
    licence="Apache-2.0",
    source="https://example.org/base",
    size_bytes=7,
    index=File("index", 9, [(bytes([2]) * 32, 9)]),
    tokenizer=File("tokenizer.json", 30, [(bytes([3]) * 32, 20), (bytes([4]) * 32, 10)]),
    tokenizer_hash=bytes([5]) * 32,
    template="{{ messages }}",
    tool_template="{{ tools }}",
    specials={"eos_token": "</s>", "bos_token": "<s>"},
    stop_ids=(7, 2, 7),
)
GOOD = build_card(signer("node"), ABOUT, 1_795_000_000)


def a_file(name: str, size: int = 5, num_digests: int | None = None) -> BaseFile:
    num_digests = -(-size // BLOCK_BYTES) if num_digests is None else num_digests
    return BaseFile(name, size, hashlib.sha256(name.encode()).digest() * num_digests)


FOLDER = [a_file(name) for name in ("config.json", "model.safetensors", "tokenizer.json")]


# --- cards ---


def test_a_card_says_what_was_put_in() -> None:
    card = parse_card(GOOD)
    assert (card.name, card.base, card.size) == (ABOUT.name, ABOUT.base, ABOUT.size_bytes)
    assert (card.index, card.tokenizer) == (ABOUT.index, ABOUT.tokenizer)
    assert card.stop_ids == [2, 7]
    assert card.specials == [("bos_token", "<s>"), ("eos_token", "</s>")]
    assert card.template_hash == hashlib.sha256(ABOUT.template.encode()).digest()
    assert card.signer_address == signer("node").address


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("schema", {"name": ""}),
        ("name", {"name": "../x"}),
        ("name", {"name": "x y"}),
        ("name", {"name": "ä"}),
        ("schema", {"base": bytes(31)}),
        ("schema", {"format": "pickle"}),
        ("schema", {"size_bytes": 0}),
        ("schema", {"stop_ids": range(17)}),
        ("schema", {"specials": {"x y": ""}}),
        ("schema", {"specials": {"x_token": "x" * 257}}),
        ("schema", {"specials": {f"t{number}": "" for number in range(33)}}),
        ("template", {"tool_template": "ä" * (MAX_TEMPLATE_BYTES // 2 + 1)}),
        ("schema", {"template": "x" * (MAX_TEMPLATE_BYTES + 1)}),
        ("template", {"template": "ä" * (MAX_TEMPLATE_BYTES // 2 + 1)}),
        ("files", {"index": File("tokenizer.json", 1, [(bytes(32), 1)])}),
        ("files", {"index": File("index", 2, [(bytes(32), 1)])}),
        ("files", {"tokenizer": File("../tokenizer.json", 1, [(bytes(32), 1)])}),
        (
            "files",
            {"index": File("index", 9 << 20, [(bytes(32), 1 << 20)] * 9)},
        ),
        ("size", {"tokenizer": File("tokenizer.json", 1200, [(bytes(32), 1)] * 1200),
                  "template": "x" * MAX_TEMPLATE_BYTES}),
    ],
)  # fmt: skip
def test_an_unacceptable_card_is_not_built_and_the_field_is_named(
    field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(BaseCardError) as caught:
        build_card(signer("node"), dataclasses.replace(ABOUT, **changes), 1)
    assert caught.value.field == field


def test_every_field_of_a_card_is_signed() -> None:
    card = parse_card(GOOD)
    changes: dict[str, Any] = {
        "name": "other",
        "base": bytes(32),
        "format": "safetensors",
        "licence": "MIT",
        "source": "",
        "size": 8,
        "index": File("index", 1, [(bytes(32), 1)]),
        "tokenizer": File("tokenizer.json", 1, [(bytes(32), 1)]),
        "tokenizer_hash": bytes(32),
        "template_hash": hashlib.sha256(b"").digest(),
        "tool_template": "",
        "specials": [],
        "stop_ids": [],
        "created_at": 0,
    }
    assert {*changes, "version", "template", "signer", "signature"} == set(
        BaseCard.__struct_fields__
    )
    for name, value in changes.items():
        also = {"template": ""} if name == "template_hash" else {}
        forged = encode(msgspec.structs.replace(card, **{name: value}, **also))
        with pytest.raises(BaseCardError, match="signature"):
            parse_card(forged)
    for name, value in {"version": 2, "signer": signer("mallory").public_key}.items():
        with pytest.raises(BaseCardError, match=f"{name}|signature"):
            parse_card(encode(msgspec.structs.replace(card, **{name: value})))
    with pytest.raises(BaseCardError, match="ascend"):
        parse_card(encode(msgspec.structs.replace(card, specials=card.specials[::-1])))
    with pytest.raises(BaseCardError, match="template"):
        parse_card(encode(msgspec.structs.replace(card, template="")))


@given(st.integers(0, 2**32))
@settings(max_examples=300)
def test_a_mutated_card_is_never_accepted(seed: int) -> None:
    data = mutate(GOOD, random.Random(seed))
    if data != GOOD:
        with pytest.raises(BaseCardError):
            parse_card(data)


@given(st.binary(max_size=500))
def test_random_bytes_are_neither_card_nor_index(data: bytes) -> None:
    with pytest.raises(BaseCardError):
        parse_card(data)
    with pytest.raises(BaseIndexError):
        parse_index(data)


# --- indexes ---


@given(st.permutations(FOLDER))
def test_the_same_files_have_the_same_index_in_whatever_order(files: list[BaseFile]) -> None:
    assert build_index(files) == build_index(FOLDER)


@given(st.integers(1, 5 * BLOCK_BYTES))
def test_blocks_fill_their_file(size: int) -> None:
    index = parse_index(build_index([a_file("base.gguf", size)]))
    sizes = [block for _, block in index.files[0].blocks]
    assert sum(sizes) == size == index.size_bytes
    assert set(sizes[:-1]) <= {BLOCK_BYTES}
    assert 0 < sizes[-1] <= BLOCK_BYTES
    assert index.format == "gguf"


@pytest.mark.parametrize(
    "names",
    [
        ("../base.gguf",),
        ("a/b.gguf",),
        ("a\\b.gguf",),
        ("..",),
        (".gguf",),
        ("-x.gguf",),
        ("base.gguf\n",),
        ("bäse.gguf",),
        ("base.bin",),
        ("a.gguf", "b.gguf"),
        ("a.gguf", "config.json", "tokenizer.json"),
        ("config.json", "tokenizer.json"),
        ("config.json", "model.safetensors"),
        ("config.json", "model.safetensors", "modeling.py", "tokenizer.json"),
        ("config.json", "model.safetensors", "model.safetensors", "tokenizer.json"),
        ("Model.safetensors", "config.json", "model.safetensors", "tokenizer.json"),
        ("config.json", "pytorch_model.bin", "tokenizer.json"),
        (f"{'x' * 124}.gguf",),
    ],
)
def test_names_that_no_base_has_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(BaseIndexError):
        build_index([a_file(name) for name in names])


@pytest.mark.parametrize(
    "file",
    [
        a_file("base.gguf", 5, num_digests=2),
        a_file("base.gguf", BLOCK_BYTES + 1, num_digests=1),
        BaseFile("base.gguf", 5, bytes(33)),
        BaseFile("base.gguf", 5, b""),
        BaseFile("base.gguf", 0, bytes(32)),
        BaseFile("base.gguf", (1 << 40) + 1, bytes(32)),
    ],
)
def test_sizes_that_do_not_add_up_are_refused(file: BaseFile) -> None:
    with pytest.raises(BaseIndexError):
        build_index([file])


def test_an_index_has_its_order_its_version_and_its_limit() -> None:
    for wrong, rule in (
        (encode(BaseIndex(1, FOLDER[::-1])), "order"),
        (encode(BaseIndex(2, FOLDER)), "version"),
        (bytes(MAX_INDEX_BYTES + 1), "size"),
        (build_index(FOLDER) + b"\xc0", "schema"),
    ):
        with pytest.raises(BaseIndexError) as caught:
            parse_index(wrong)
        assert caught.value.rule == rule
    vast = [a_file("tokenizer.json", (64 << 20) + 1), *FOLDER[:2]]
    with pytest.raises(BaseIndexError, match="limit"):
        build_index(vast)


@given(st.integers(0, 2**32))
def test_a_mutated_index_is_refused_or_lists_files_that_a_base_may_have(seed: int) -> None:
    data = mutate(build_index(FOLDER), random.Random(seed))
    try:
        index = parse_index(data)
    except BaseIndexError:
        return
    assert encode(index) == data
    assert all("/" not in file.name and file.name[0] != "." for file in index.files)
    assert all(sum(size for _, size in file.blocks) == file.size for file in index.files)


# --- the vector ---


def test_card_and_index_are_the_arrays_that_the_page_describes() -> None:
    fields = other.plain(VECTOR["fields"])
    assert other.pack(fields) == other.unhex(VECTOR["card"])
    signed = hashlib.sha256(b"lorikeet base card 1\0" + other.pack(fields[:-1])).digest()
    assert VECTOR["signed_digest"] == signed.hex()
    signature = fields[-1][:64] + bytes([fields[-1][64] - 27])
    found = keys.Signature(signature).recover_public_key_from_msg_hash(signed)
    assert found.to_compressed_bytes() == fields[16] == other.unhex(VECTOR["signer"]["public_key"])
    index = other.unhex(VECTOR["index"])
    assert other.pack(other.plain(VECTOR["index_fields"])) == index
    assert fields[7] == ["index", len(index), [[hashlib.sha256(index).digest(), len(index)]]]


def test_the_index_holds_the_blocks_of_the_files_cut_every_mib() -> None:
    contents = [b"{}", bytes(1 << 20) + b"the last block is shorter", b"{}"]
    for file, content in zip(VECTOR["index_fields"]["files"], contents, strict=True):
        blocks = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
        assert file["size"] == len(content)
        assert file["digests"] == "".join(hashlib.sha256(one).hexdigest() for one in blocks)
    assert VECTOR["fields"]["size"] == sum(map(len, contents))
    assert VECTOR["fields"]["base"] == hashlib.sha256(contents[1]).hexdigest()


def test_a_card_or_an_index_with_one_changed_byte_is_refused_or_another() -> None:
    card = other.unhex(VECTOR["card"])
    for form in (*other.longer_forms(card), card + b"\xc0", card[:-1]):
        with pytest.raises(BaseCardError):
            parse_card(form)
    index = other.unhex(VECTOR["index"])
    for form in (*other.longer_forms(index), index + b"\xc0", index[:-1]):
        with pytest.raises(BaseIndexError):
            parse_index(form)
