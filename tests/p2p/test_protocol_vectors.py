"""What docs/protocols says in bytes is what the code does."""

import json
import re
from pathlib import Path

from p2p.blocks.limits import ABSENT, decode_request, encode_request
from p2p.cid import Cid
from p2p.lookup.messages import decode_answer, decode_lookup, decode_provider, encode
from p2p.names import validate_name
from p2p.wire import encode_frame

DOCS = Path(__file__).parents[2] / "docs" / "protocols"
GOLDEN = Path(__file__).parents[1] / "golden"


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


def test_the_vectors_of_the_lookup_protocol_hold():
    golden = json.loads((GOLDEN / "lookup.json").read_text())
    for asked, answer in golden["exchanges"]:
        lookup = decode_lookup(bytes.fromhex(asked["hex"]))
        assert (lookup.kind, lookup.key.hex()) == (asked["kind"], asked["key"])
        assert lookup.max_age_s == asked["max_age_s"]
        found = decode_answer(bytes.fromhex(answer["hex"]))
        for name in found.__struct_fields__:
            value = getattr(found, name)
            told = [one.hex() for one in value] if isinstance(value, list) else value
            assert told == answer[name]
        assert type(found).__name__ == answer["message"]
        for one in (lookup, found):
            assert encode(one).hex() in (asked["hex"], answer["hex"])
    named, who = golden["exchanges"][:2]
    record = validate_name(
        bytes.fromhex(named[0]["key"]).decode(), bytes.fromhex(named[1]["found"][0])
    )
    assert record.target is not None
    assert record.target.digest.hex() == who[0]["key"]
    provider = decode_provider(bytes.fromhex(who[1]["found"][0]))
    assert [provider.peer_id, provider.addresses] == [
        golden["provider"]["peer_id"],
        golden["provider"]["addresses"],
    ]
