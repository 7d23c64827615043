"""A GGUF header says what was written, a hostile one is refused, a base has one identity."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base_files import base_id, parse_header, read_gguf_fields
from engine.errors import ModelError

U32 = 4
BOOL = 7
STRING = 8
ARRAY = 9
I64 = 11
CODES = {U32: "<I", BOOL: "<?", I64: "<q"}

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
scalars = st.one_of(
    st.tuples(st.just(U32), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just(BOOL), st.booleans()),
    st.tuples(st.just(I64), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just(STRING), texts),
)
arrays = st.one_of(
    st.tuples(st.just(ARRAY), st.tuples(st.just(STRING), st.lists(texts, max_size=5))),
    st.tuples(st.just(ARRAY), st.tuples(st.just(I64), st.lists(st.integers(-9, 9), max_size=5))),
)
headers = st.dictionaries(texts, st.one_of(scalars, arrays), max_size=5)


def pack_value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return struct.pack("<Q", len(value.encode())) + value.encode()
    if kind == ARRAY:
        inner, items = value
        head = struct.pack("<IQ", inner, len(items))
        return head + b"".join(pack_value(inner, item) for item in items)
    return struct.pack(CODES[kind], value)


def pack(fields: dict[str, tuple[int, Any]]) -> bytes:
    tensor = pack_value(STRING, "weight") + struct.pack("<I2QIQ", 2, 3, 5, 0, 64)
    return (
        struct.pack("<4sIQQ", b"GGUF", 3, 1, len(fields))
        + b"".join(
            pack_value(STRING, name) + struct.pack("<I", kind) + pack_value(kind, value)
            for name, (kind, value) in fields.items()
        )
        + tensor
    )


@given(fields=headers)
def test_a_header_says_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, tuple[int, Any]]
) -> None:
    path = tmp_path_factory.mktemp("header") / "base.gguf"
    path.write_bytes(pack(fields))
    assert read_gguf_fields(path) == {
        name: value[1] if kind == ARRAY else value for name, (kind, value) in fields.items()
    }
    header = parse_header(path.read_bytes(), "base.gguf")
    (tensor,) = header.tensors
    assert (tensor.name, tensor.shape, tensor.offset) == ("weight", (5, 3), 64)
    assert header.end == path.stat().st_size


@given(fields=headers, data=st.data())
def test_a_cut_header_is_refused_by_name(
    fields: dict[str, tuple[int, Any]], data: st.DataObject
) -> None:
    whole = pack(fields)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ModelError, match=r"base\.gguf"):
        parse_header(whole[:cut], "base.gguf")


@given(
    fields=headers,
    at=st.integers(4, 400),
    lie=st.sampled_from([0, 1, 1 << 21, (1 << 31) - 1, 1 << 62, (1 << 63) - 1, (1 << 64) - 1]),
)
def test_a_header_that_lies_is_read_or_refused_by_name(
    fields: dict[str, tuple[int, Any]], at: int, lie: int
) -> None:
    whole = pack(fields)
    changed = (whole[:at] + struct.pack("<Q", lie) + whole[at + 8 :])[: max(len(whole), 32)]
    try:
        header = parse_header(changed, "base.gguf")
    except ModelError as error:
        refusal = str(error)
    else:
        refusal = "base.gguf"
        assert header.end <= len(changed)
    assert "base.gguf" in refusal


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 40), "fields"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 0), "tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 9, 0, 0), "version 9"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 40), "a string of"),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
            + pack_value(STRING, "a")
            + struct.pack("<IIQ", ARRAY, STRING, 1 << 40),
            "an array of",
        ),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
            + pack_value(STRING, "a")
            + struct.pack("<IIQ", ARRAY, I64, 1 << 20),
            "leaves the file",
        ),
        (
            struct.pack("<4sIQQ", b"GGUF", 3, 0, 2)
            + 2 * (pack_value(STRING, "a") + struct.pack("<II", U32, 1)),
            "twice",
        ),
    ],
)
def test_every_bound_of_a_header_has_its_word(body: bytes, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        parse_header(body, "base.gguf")


def test_a_base_is_its_weights_and_of_several_files_their_names_too(tmp_path: Path) -> None:
    first = tmp_path / "a-00001-of-00002.safetensors"
    first.write_bytes(b"one")
    assert base_id(first) == base_id(tmp_path) == hashlib.sha256(b"one").digest()
    (tmp_path / "a-00002-of-00002.safetensors").write_bytes(b"two")
    digests = (hashlib.sha256(content).digest() for content in (b"one", b"two"))
    listed = b"".join(
        name + b"\0" + each
        for name, each in zip(
            (b"a-00001-of-00002.safetensors", b"a-00002-of-00002.safetensors"),
            digests,
            strict=True,
        )
    )
    assert base_id(tmp_path) == hashlib.sha256(listed).digest()


def test_a_base_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safetensors"):
        base_id(tmp_path)
    with pytest.raises(ModelError, match=r"absent\.gguf"):
        base_id(tmp_path / "absent.gguf")
    with pytest.raises(ModelError, match=r"absent\.gguf"):
        read_gguf_fields(tmp_path / "absent.gguf")
