"""What docs/protocols says in bytes is what the code does."""

import re
from pathlib import Path

from p2p.blocks.limits import ABSENT, decode_request, encode_request
from p2p.cid import Cid
from p2p.names import validate_name
from p2p.wire import encode_frame

DOCS = Path(__file__).parents[2] / "docs" / "protocols"


def test_the_vector_of_the_block_protocol_holds():
    text = (DOCS / "blocks.md").read_text()
    written = re.findall(r"^    [→←] ([0-9a-f ]+(?:\n {5,}[0-9a-f ]+)*)$", text, re.MULTILINE)
    frames = [bytes.fromhex(lines) for lines in written]
    wanted = [Cid.of(b"hello world"), Cid.of(b"x")]
    assert frames == [
        encode_frame(encode_request(wanted)),
        encode_frame(b"hello world"),
        encode_frame(ABSENT),
    ]
    assert decode_request(frames[0][4:]) == wanted
    assert str(wanted[0]) in text


def test_the_vector_of_the_name_records_holds():
    text = (DOCS / "names.md").read_text()
    key = re.search(r"^    key    (\S+)$", text, re.MULTILINE).group(1)
    record = bytes.fromhex(re.search(r"^    record ([0-9a-f\s]+)$", text, re.MULTILINE).group(1))
    found = validate_name(key, record)
    assert (found.name, found.sequence, found.target) == ("law", 7, Cid.of(b"a manifest"))
