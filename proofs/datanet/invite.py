"""Writes and reads invitations: a signed word of the owner's or a curator's, and the secret with
which its holder shows that it was given to him. Asks nobody.

A token is the invitation, the secret and where the datanet is to be had, in one word. Whoever has
it can join as often as it says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated

import msgspec

from ..codec import Digest, NotCanonical, Record, encode
from ..codec import decode as decode_record
from ..errors import BadSignature, DatanetError
from ..signing import Signer, address_of, recover
from .entries import FORM, Invitation, check_invitation, sign_invitation

PREFIX = "datanet1-"
MAX_TOKEN_CHARS = 4_096
CHECKSUM_BYTES = 6
MAX_ADDRESSES = 8

_ADMISSION = b"lorikeet admission 1\0"


class Token(Record, frozen=True):
    """What a newcomer is handed. `secret` is empty, and `invitation` None, where the datanet is
    open to all.
    """

    datanet: Digest
    name: Annotated[str, msgspec.Meta(max_length=64)]
    sequencer: Annotated[str, msgspec.Meta(max_length=128)]
    addresses: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=256)]],
        msgspec.Meta(max_length=MAX_ADDRESSES),
    ]
    invitation: Invitation | None
    secret: Annotated[bytes, msgspec.Meta(max_length=32)]


def invite(signer: Signer, datanet: bytes, secret: bytes, *, uses: int, until: int) -> Invitation:
    """Sign an invitation for whoever holds this fresh secret."""
    draft = Invitation(
        FORM,
        datanet,
        Signer(secret).public_key,
        uses,
        until=until,
        by=signer.public_key,
        signature=bytes(65),
    )
    return sign_invitation(signer, draft)


def admit(secret: bytes, datanet: bytes, person: bytes) -> bytes:
    """Return the admission of one person: of no use to whoever copies it out of the log."""
    return Signer(secret).sign_digest(_digest(datanet, person))


def check_admission(invitation: Invitation, admission: bytes, person: bytes) -> None:
    """Raise DatanetError unless this invitation admits this person. Knows no role and no time."""
    check_invitation(invitation)
    try:
        is_his = recover(_digest(invitation.datanet, person), admission) == address_of(
            invitation.key
        )
    except BadSignature as error:
        raise DatanetError("invited", str(error), "ask for another invitation") from error
    if not is_his:
        raise DatanetError(
            "invited", "the invitation was given to somebody else", "ask for one of your own"
        )


def write_token(token: Token) -> str:
    """Write a token as one word."""
    body = encode(token)
    return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")


def read_token(text: str) -> Token:
    """Read a token. Raises DatanetError that says what is wrong with it."""
    text = text.strip()
    if not text.startswith(PREFIX) or len(text) > MAX_TOKEN_CHARS:
        raise DatanetError(
            "token",
            f"an invite to a datanet begins with {PREFIX} and has at most {MAX_TOKEN_CHARS}"
            f" characters; this one begins with {text[:12]!r}",
            "copy all of it, in one line",
        )
    coded = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        body = raw[:-CHECKSUM_BYTES]
        if raw[len(body) :] != _checksum(body):
            raise ValueError("its checksum is wrong")
        return decode_record(body, _TOKEN, MAX_TOKEN_CHARS)
    except (binascii.Error, ValueError, NotCanonical) as error:
        raise DatanetError(
            "token", f"the invite is damaged: {error}", "copy all of it, in one line"
        ) from None


def _digest(datanet: bytes, person: bytes) -> bytes:
    return hashlib.sha256(_ADMISSION + datanet + person).digest()


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + body).digest()[:CHECKSUM_BYTES]


_TOKEN = msgspec.msgpack.Decoder(Token)
