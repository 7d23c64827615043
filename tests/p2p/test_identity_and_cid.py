import stat

import coincurve
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.bitswap.cid import parse_cid
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.cid import Cid
from p2p.errors import InvalidCid, InvalidIdentity, InvalidPeerId
from p2p.identity import Identity, peer_id_of, public_key_of


def test_a_peer_id_is_the_one_libp2p_makes_of_the_same_key():
    identity = Identity.from_secret(bytes(range(1, 33)))
    library = create_new_key_pair(identity.secret)
    assert identity.peer_id == ID.from_pubkey(library.public_key).to_base58()
    assert identity.peer_id.startswith("16Uiu2HA")
    assert identity.public_key == library.public_key.to_bytes()


def test_a_peer_id_gives_back_its_public_key():
    identity = Identity.generate()
    assert (
        public_key_of(identity.peer_id)
        == identity.public_key
        == coincurve.PrivateKey(identity.secret).public_key.format()
    )
    assert peer_id_of(identity.public_key) == identity.peer_id


@given(st.text(max_size=80))
def test_text_that_is_no_peer_id_is_refused_by_name(text):
    with pytest.raises(InvalidPeerId):
        public_key_of(text)


def test_a_peer_id_of_another_key_type_or_off_the_curve_is_refused():
    with pytest.raises(InvalidPeerId):
        public_key_of("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")  # ed25519
    with pytest.raises(InvalidPeerId, match="curve"):
        public_key_of(peer_id_of(b"\x02" + b"\xff" * 32))


def test_a_key_file_is_private_and_read_back(tmp_path):
    path = tmp_path / "deep" / "key"
    made = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path) == made
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    assert made.secret.hex() not in repr(made)


@pytest.mark.parametrize("content", [b"", b"zz", b"00" * 31, b"00" * 32, b"\xff\xfe"])
def test_a_damaged_key_file_is_named_and_kept(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidIdentity, match=r"not a key file|scalar"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_may_open_is_refused_with_the_mend(tmp_path, mode):
    path = tmp_path / "key"
    made = Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(InvalidIdentity, match=f"chmod 600 {path}"):
        Identity.load_or_create(path)
    path.chmod(0o400)
    assert Identity.load_or_create(path) == made


def test_a_cid_is_read_alike_by_another_implementation():
    cid = Cid.of(b"hello world")
    assert str(cid) == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    other = parse_cid(str(cid))
    assert other.multihash == b"\x12\x20" + cid.digest
    assert str(other.codec) == "raw"


@given(st.binary(max_size=100))
def test_a_cid_survives_its_text_form(data):
    cid = Cid.of(data)
    assert Cid.parse(str(cid)) == cid
    assert cid.matches(data)
    assert not cid.matches(data + b"x")


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 58),
    st.sampled_from("abcdefghijklmnopqrstuvwxyz234567A10=/ "),
)
def test_a_changed_text_is_refused_or_names_another_digest(digest, position, character):
    text = str(Cid(digest))
    changed = text[:position] + character + text[position + 1 :]
    try:
        assert (Cid.parse(changed).digest == digest) == (changed == text)
    except InvalidCid:
        assert changed != text


@given(st.text(max_size=80))
def test_other_text_is_refused(text):
    with pytest.raises(InvalidCid):
        Cid.parse(text)


def test_a_digest_of_another_size_is_no_cid():
    with pytest.raises(InvalidCid):
        Cid(b"short")
