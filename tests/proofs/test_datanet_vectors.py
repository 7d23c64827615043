"""The golden datanet is what a stranger computes from docs/protocols/datanet.md, with `msgpack` and
`eth_keys`; and no other bytes are read.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgpack
import pytest
from eth_keys import keys
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs.datanet.entries import parse_entry, parse_registration
from proofs.datanet.invite import read_token, write_token
from proofs.datanet.log import fold
from proofs.errors import DatanetError
from tests.golden import other

from .test_receipts import mutate

GOLDEN = other.load("datanet")
ROWS: list[dict[str, Any]] = GOLDEN["rows"]
ENTRIES = [other.unhex(row["hex"]) for row in ROWS]
KINDS = (
    "charter",
    "joining",
    "member",
    "claim",
    "contribution",
    "verdict",
    "withdrawal",
    "version",
)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def unhex(value: Any, name: str = "") -> Any:
    """A row's fields as the array that MessagePack carries."""
    texts = {"name", "purpose", "consent_words", "languages", "licences", "role", "title", "source"}
    texts |= {"licence", "language", "format", "cleaner", "decision", "code", "detail", "mend"}
    if isinstance(value, dict):
        return [unhex(part, key) for key, part in value.items()]
    if isinstance(value, list):
        return [unhex(part, name) for part in value]
    return other.unhex(value) if isinstance(value, str) and name not in texts else value


def address(public_key: bytes) -> bytes:
    found: bytes = keys.PublicKey.from_compressed_bytes(public_key).to_canonical_address()
    return found


def signed_by(domain: str, fields: list[Any], signature: bytes) -> bytes:
    return other.signer_of(
        sha(f"lorikeet {domain} 1".encode(), b"\0", other.pack(fields)), signature
    )


def test_every_kind_is_among_the_vectors() -> None:
    assert {row["kind"] for row in ROWS} == set(KINDS)


def test_entries_and_registrations_are_what_a_stranger_computes() -> None:
    author = {
        "charter": "owner",
        "joining": "person",
        "claim": "contributor",
        "contribution": "contributor",
    }
    previous = bytes(32)
    owner = address(other.unhex(ROWS[0]["entry"]["owner"]))
    for seq, row in enumerate(ROWS):
        fields = dict(row["entry"])
        if row["kind"] == "charter":
            fields["consent_words"] = fields["consent"]
            order = [key if key != "consent" else "consent_words" for key in row["entry"]]
            fields = {key: fields[key] for key in order}
        plain = unhex(fields)
        data = other.pack([row["kind"], *plain])
        assert data.hex() == row["hex"]
        key = other.unhex(row["entry"][author.get(row["kind"], "by")])
        assert signed_by(row["kind"], plain[:-1], plain[-1]) == address(key)
        place = unhex(row["registration"])
        assert other.pack(place).hex() == row["registration_hex"]
        assert place[:5] == [1, other.unhex(GOLDEN["datanet"]), seq, previous, sha(data)]
        assert signed_by("registration", place[:-1], place[-1]) == owner
        previous = sha(other.pack(place))
    assert sha(ENTRIES[0]).hex() == GOLDEN["datanet"]


def test_invitations_and_commitments_are_what_a_stranger_computes() -> None:
    owner = address(other.unhex(ROWS[0]["entry"]["owner"]))
    datanet = other.unhex(GOLDEN["datanet"])
    claims = {row["digest"]: row["entry"] for row in ROWS if row["kind"] == "claim"}
    for row in ROWS:
        entry = row["entry"]
        if row["kind"] == "joining":
            invitation = unhex(entry["invitation"])
            assert signed_by("invitation", invitation[:-1], invitation[-1]) == owner
            said = sha(b"lorikeet admission 1\0", datanet, other.unhex(entry["person"]))
            admitted = other.signer_of(said, other.unhex(entry["admission"]))
            assert admitted == address(invitation[2])
        if row["kind"] == "contribution":
            shown = other.pack([other.unhex(entry["contributor"]), unhex(entry["documents"])])
            salt = other.unhex(entry["salt"])
            commitment = sha(b"lorikeet commitment 1\0", salt, shown).hex()
            assert claims[entry["claim"]]["commitment"] == commitment


def test_versions_are_what_a_stranger_computes() -> None:
    """The first has both, Ben's copy of Ann's letter hers; the second what is left."""
    registered = {row["digest"]: other.unhex(row["registration_hex"]) for row in ROWS}
    contributions = {row["digest"]: row["entry"] for row in ROWS if row["kind"] == "contribution"}
    versions = [row["entry"] for row in ROWS if row["kind"] == "version"]
    for version, expected in zip(versions, GOLDEN["held_out"], strict=True):
        seen = set[str]()
        listed = []
        for digest in version["contributions"]:
            entry = contributions[digest]
            beacon = sha(registered[entry["claim"]])
            lot = lambda what, beacon=beacon: sha(b"lorikeet held out 1\0", beacon, what)  # noqa: E731
            names = [document["digest"] for document in entry["documents"]]
            share = 10 * int.from_bytes(lot(b"")[:8], "big") < len(names) % 10 * 2**64
            order = sorted(range(len(names)), key=lambda n: lot(other.unhex(names[n])))
            chosen = order[: len(names) // 10 + share]
            held = sorted(n + 1 for n in chosen if names[n] not in seen)
            seen.update(names)
            if held:
                listed.append([digest, held])
        assert listed == expected
        data = other.pack([[other.unhex(digest), held] for digest, held in listed])
        assert version["held_out"] == (sha(data).hex() if listed else "00" * 32)
        assert sum(total["documents"] for total in version["totals"]) == len(seen)


def test_the_golden_log_folds() -> None:
    rows = [(other.unhex(row["registration_hex"]), other.unhex(row["hex"])) for row in ROWS]
    state = fold(rows)
    assert [one.version.number for one in state.versions] == [1, 2]
    (before, after) = GOLDEN["standing_weights"]
    assert before[1:] == after  # Ann's weighs nothing any more


def test_a_token_reads_back() -> None:
    token = read_token(GOLDEN["token"])
    assert write_token(token) == GOLDEN["token"]
    assert token.secret.hex() == GOLDEN["secrets"]["invitation"]


@pytest.mark.parametrize("change", [-1, 1, "x", "cut", "lorikeet1-abc"])
def test_a_damaged_token_says_what_to_do(change: Any) -> None:
    text = GOLDEN["token"]
    damaged = {"cut": text[:-9], "x": text[:40] + "x" + text[41:]}.get(change, str(change))
    with pytest.raises(DatanetError, match="copy all of it"):
        read_token(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_forms_are_not_read(kind: str) -> None:
    number = next(number for number, row in enumerate(ROWS) if row["kind"] == kind)
    for data in list(other.longer_forms(ENTRIES[number]))[:200]:
        with pytest.raises(DatanetError, match=r"canonical|schema"):
            parse_entry(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 32))
def test_no_changed_byte_is_read_as_somebodys_word(seed: int) -> None:
    dice = random.Random(seed)
    data = dice.choice(ENTRIES)
    changed = mutate(data, dice)
    if changed != data:
        with pytest.raises(DatanetError) as caught:
            parse_entry(changed)
        assert caught.value.mend
    place = other.unhex(dice.choice(ROWS)["registration_hex"])
    try:
        parse_registration(mutate(place, dice))
    except DatanetError as error:
        assert error.code in ("size", "schema", "canonical")  # noqa: PT017


def test_hidden_characters_do_not_get_into_a_record() -> None:
    for hidden in ("\u202e", "\U000e0041", "\x1b", "\u2066", "\x85"):
        fields = msgpack.unpackb(ENTRIES[1])
        fields[4] = "Ann" + hidden
        with pytest.raises(DatanetError, match="hidden character"):
            parse_entry(msgpack.packb(fields))
