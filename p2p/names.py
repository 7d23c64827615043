"""Signs and checks names: "this creator's `law` is now that manifest", "`law@2` is that one", or is
withdrawn.

Pure codec and validator; the DHT carries the bytes (docs/protocols/names.md). Does not know what a
target holds, nor whether a newer record exists.

A record is one canonical msgpack array [1, public key, name, sequence, target, signature]; whoever
holds it can check it alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import coincurve
import msgspec

from .cid import Cid
from .errors import InvalidInput, InvalidNameRecord
from .identity import PUBLIC_KEY_BYTES, Identity, peer_id_of, public_key_of

NAMESPACE = "lorikeet"
VERSION = 1
MAX_RECORD_BYTES = 512
MAX_SEQUENCE = (1 << 64) - 1
MAX_AHEAD_S = 24 * 3600
"""A sequence is the Unix time of its signing, or one more than the last: one that is further ahead
of the reader's clock is not believed, else a clock that ran wild would end a name for good."""
SIGNATURE_BYTES = 65
VERSION_MARK = "@"
_NAME = re.compile(r"(?=.{1,64}\Z)[a-z0-9][a-z0-9._-]*(@[a-z0-9][a-z0-9._-]*)?")
_DOMAIN = b"lorikeet name record\n"
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


@dataclass(frozen=True)
class NameRecord:
    """An owner's statement about one name; `target` None: it means nothing any more.

    Made by `sign_name` or `decode_name`, so its signature holds.
    """

    owner: str  # peer id
    name: str
    sequence: int
    target: Cid | None
    signature: bytes

    @property
    def key(self) -> str:
        """Return the key under which the DHT keeps it."""
        return name_key(self.owner, self.name)


def check_name(name: str) -> str:
    """Return the name if it is valid: 1 to 64 of a-z 0-9 . _ - that begin with a letter or digit,
    and one @ before a version, if any.

    Raises InvalidNameRecord.
    """
    if not _NAME.fullmatch(name):
        raise InvalidNameRecord(
            f"{name[:80]!r} is no name: use 1 to 64 of a-z, 0-9, '.', '_', '-', first a letter or"
            " digit; a version stands behind an '@'"
        )
    return name


def version_name(name: str, version: str) -> str:
    """Return the name of one version ("law@2"). Raises InvalidNameRecord where none can be."""
    return check_name(f"{name}{VERSION_MARK}{version}")


def name_key(owner: str, name: str) -> str:
    """Return the DHT key of a name."""
    return f"/{NAMESPACE}/{owner}/{check_name(name)}"


def sign_name(identity: Identity, name: str, sequence: int, target: Cid | None) -> NameRecord:
    """Sign that `name` is `target` from `sequence` on; None withdraws it."""
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise InvalidNameRecord(f"sequence {sequence} is outside 0 … 2^64-1")
    digest = _digest(_body(identity.public_key, check_name(name), sequence, target))
    signature = coincurve.PrivateKey(identity.secret).sign_recoverable(digest, hasher=None)
    return NameRecord(identity.peer_id, name, sequence, target, signature=signature)


def encode_name(record: NameRecord) -> bytes:
    """Return the record's canonical bytes."""
    return _pack(
        [
            *_body(public_key_of(record.owner), record.name, record.sequence, record.target),
            record.signature,
        ]
    )


def decode_name(data: bytes) -> NameRecord:
    """Decode a record and check its size, form and signature. Raises InvalidNameRecord."""
    if len(data) > MAX_RECORD_BYTES:
        raise InvalidNameRecord(f"{len(data)} bytes are over the limit of {MAX_RECORD_BYTES}")
    try:
        fields = msgspec.msgpack.decode(data, type=_Fields)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidNameRecord(
            f"not [1, public key, name, sequence, target, signature]: {error}"
        ) from error
    record = _from_fields(fields)
    if encode_name(record) != data:
        raise InvalidNameRecord("not the canonical bytes of the record")
    return record


class _Fields(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    public_key: bytes
    name: str
    sequence: int
    target: bytes
    signature: bytes


def _from_fields(fields: _Fields) -> NameRecord:
    if (
        len(fields.public_key) != PUBLIC_KEY_BYTES
        or len(fields.signature) != SIGNATURE_BYTES
        or not 0 <= fields.sequence <= MAX_SEQUENCE
    ):
        raise InvalidNameRecord("a key, sequence or signature has the wrong size")
    try:
        target = Cid(fields.target) if fields.target else None
    except InvalidInput as error:
        raise InvalidNameRecord(str(error)) from error
    body = _body(fields.public_key, check_name(fields.name), fields.sequence, target)
    _check_signature(_digest(body), fields.signature, fields.public_key)
    return NameRecord(
        peer_id_of(fields.public_key),
        fields.name,
        fields.sequence,
        target,
        signature=fields.signature,
    )


def validate_name(key: str, value: bytes) -> NameRecord:
    """Return the record in `value` if it belongs under `key`. Raises InvalidNameRecord."""
    record = decode_name(value)
    if record.key != key:
        raise InvalidNameRecord(f"a record for {record.key} stands under {key[:200]}")
    return record


def check_date(record: NameRecord, now: float) -> None:
    """Raise InvalidNameRecord for a record from the future. `now` in Unix seconds."""
    if record.sequence > now + MAX_AHEAD_S:
        raise InvalidNameRecord(
            f"{record.name!r} has sequence {record.sequence}, which is"
            f" {record.sequence - now:.0f} s ahead of this clock; {MAX_AHEAD_S} are believed"
        )


def newest(records: Sequence[NameRecord]) -> int:
    """Return the index of the record that wins: highest sequence, then highest bytes, so that all
    nodes choose alike.
    """
    return max(
        range(len(records)),
        key=lambda index: (records[index].sequence, encode_name(records[index])),
    )


def _check_signature(digest: bytes, signature: bytes, public_key: bytes) -> None:
    # The other half of s signs the same; two byte strings for one statement would both be
    # "canonical".
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise InvalidNameRecord("the signature has a high s")
    try:
        signer = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception as error:  # coincurve raises ValueError and bare Exception for bad signatures
        raise InvalidNameRecord("the signature is malformed") from error
    if signer.format(compressed=True) != public_key:
        raise InvalidNameRecord("the signature is not the owner's")


def _body(public_key: bytes, name: str, sequence: int, target: Cid | None) -> list[object]:
    return [VERSION, public_key, name, sequence, target.digest if target else b""]


def _digest(body: list[object]) -> bytes:
    return sha256(_DOMAIN + _pack(body)).digest()


def _pack(value: list[object]) -> bytes:
    return msgspec.msgpack.encode(value)
