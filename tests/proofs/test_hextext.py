from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.hextext import from_hex, to_hex


@given(data=st.binary(max_size=40))
def test_what_is_written_is_read_with_or_without_its_mark(data: bytes) -> None:
    assert from_hex(to_hex(data)) == from_hex(data.hex()) == data


@pytest.mark.parametrize("text", ["0xabc", "0xzz", "lorikeet"])
def test_what_is_no_hexadecimal_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        from_hex(text)
