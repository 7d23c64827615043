import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.cid import Cid
from p2p.errors import InvalidNameRecord
from p2p.identity import Identity
from p2p.names import (
    MAX_RECORD_BYTES,
    decode_name,
    encode_name,
    name_key,
    newest,
    sign_name,
    validate_name,
)

CREATOR = Identity.from_secret(bytes(range(1, 33)))
OTHER = Identity.from_secret(bytes(range(2, 34)))
TARGET = Cid.of(b"a manifest")
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


@given(names, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
def test_a_signed_name_survives_the_wire(name, sequence, digest):
    record = sign_name(CREATOR, name, sequence, Cid(digest))
    assert validate_name(record.key, encode_name(record)) == record
    assert record.owner == CREATOR.peer_id
    assert len(encode_name(record)) <= MAX_RECORD_BYTES


def test_the_bytes_of_a_record_are_pinned():
    encoded = encode_name(sign_name(CREATOR, "law", 7, TARGET))
    assert encoded.hex() == GOLDEN


@given(st.binary(max_size=600))
def test_garbage_is_refused_by_name(data):
    with pytest.raises(InvalidNameRecord):
        decode_name(data)


@given(st.integers(0, 200), st.integers(1, 255))
def test_no_flipped_bit_passes(position, flip):
    encoded = bytearray(encode_name(sign_name(CREATOR, "law", 7, TARGET)))
    encoded[position % len(encoded)] ^= flip
    with pytest.raises(InvalidNameRecord):
        decode_name(bytes(encoded))


def test_a_record_stands_only_under_its_own_key():
    encoded = encode_name(sign_name(CREATOR, "law", 7, TARGET))
    for key in (
        name_key(OTHER.peer_id, "law"),
        name_key(CREATOR.peer_id, "medicine"),
        "/lorikeet/x/law",
        "",
    ):
        with pytest.raises(InvalidNameRecord, match="stands under"):
            validate_name(key, encoded)


def test_somebody_elses_signature_is_refused():
    mine = sign_name(CREATOR, "law", 7, TARGET)
    theirs = sign_name(OTHER, "law", 7, TARGET)
    forged = [1, CREATOR.public_key, "law", 7, TARGET.digest, theirs.signature]
    assert mine.signature != theirs.signature
    with pytest.raises(InvalidNameRecord, match="not the owner's"):
        decode_name(msgspec.msgpack.encode(forged))


def test_a_high_s_signature_and_a_longer_integer_are_refused():
    record = sign_name(CREATOR, "law", 7, TARGET)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high_s = (order - int.from_bytes(record.signature[32:64], "big")).to_bytes(32, "big")
    twisted = record.signature[:32] + high_s + bytes([record.signature[64] ^ 1])
    with pytest.raises(InvalidNameRecord, match="high s"):
        decode_name(
            msgspec.msgpack.encode([1, CREATOR.public_key, "law", 7, TARGET.digest, twisted])
        )
    wide = encode_name(record).replace(b"\xa3law\x07", b"\xa3law\xcc\x07")
    with pytest.raises(InvalidNameRecord, match="canonical"):
        decode_name(wide)


@pytest.mark.parametrize("name", ["", "Law", "a" * 65, "a/b", ".hidden", "ä", "a b", "law\n"])
def test_what_cannot_be_a_name_is_refused(name):
    with pytest.raises(InvalidNameRecord):
        sign_name(CREATOR, name, 1, TARGET)


def test_the_higher_sequence_wins_and_ties_are_decided_alike_everywhere():
    old, new, rival = (
        sign_name(CREATOR, "law", sequence, Cid.of(data))
        for sequence, data in ((1, b"a"), (9, b"b"), (9, b"c"))
    )
    assert newest([old, new]) == 1
    assert newest([new, old]) == 0
    first = [new, rival]
    second = [rival, new]
    assert first[newest(first)] == second[newest(second)]


GOLDEN = (
    "9601c4210284bf7562262bbd6940085748f3be6afa52ae317155181ece31b66351ccffa4b0a36c617707c420e59625a822497c164d60705eb3fd6975"
    "c375ca213b8140137a826a77790986a9c44148e2cb36c14e91f1460972f93beacd654d804c4fc416925af1156698ddc650b472cb39c68c950b8aef59"
    "755e7ae6ee3805173c2151f094830a9becf913573a4c00"
)
