"""Holds a node's key: one secp256k1 key, whose public half is its peer id and, hashed, its Ethereum
address.

A peer id is the identity multihash of the public key, so `public_key_of(peer_id)` needs no lookup.
Knows no network.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import base58
import coincurve

from .errors import InvalidIdentity, InvalidPeerId

SECRET_BYTES = 32
PUBLIC_KEY_BYTES = 33
_PEER_ID_HEADER = bytes(
    (0x00, 37, 0x08, 0x02, 0x12, PUBLIC_KEY_BYTES)
)  # identity multihash of protobuf(Secp256k1, key)
_MAX_PEER_ID_CHARS = 64
OTHERS_MODE = 0o077
"""What nobody but the owner may do with a secret's file."""


@dataclass(frozen=True)
class Identity:
    """A node's key. `secret` is 32 bytes and never printed."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise InvalidIdentity(f"a secret is {SECRET_BYTES} bytes, not {len(self.secret)}")
        try:
            coincurve.PrivateKey(self.secret)
        except ValueError as error:
            raise InvalidIdentity(
                "the secret is not a valid secp256k1 scalar; generate a new key"
            ) from error

    @classmethod
    def generate(cls) -> Identity:
        """Make a fresh random key."""
        return cls(coincurve.PrivateKey().secret)

    @classmethod
    def from_secret(cls, secret: bytes) -> Identity:
        """Make the key with this secret."""
        return cls(bytes(secret))

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the key in this file, or make one (mode 0600) if there is none.

        The file holds the secret as one line of hex. Raises InvalidIdentity.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            return cls._create(path)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read the key in this file, which nobody else may read.

        Raises InvalidIdentity, FileNotFoundError.
        """
        check_private(path)
        try:
            text = path.read_text(encoding="ascii")
        except UnicodeDecodeError as error:
            raise InvalidIdentity(f"{path} is not a key file: it is not text") from error
        try:
            return cls(bytes.fromhex(text.strip()))
        except ValueError as error:
            raise InvalidIdentity(
                f"{path} is not a key file: {error}; restore it from a backup or remove it to get a"
                " new identity"
            ) from error

    @classmethod
    def _create(cls, path: Path) -> Identity:
        identity = cls.generate()
        try:
            write_private(path, identity.secret.hex() + "\n")
        except FileExistsError:  # somebody else made it meanwhile
            return cls.load(path)
        return identity

    @cached_property
    def public_key(self) -> bytes:
        """Return the compressed public key, 33 bytes."""
        return coincurve.PrivateKey(self.secret).public_key.format(compressed=True)

    @cached_property
    def peer_id(self) -> str:
        """Return the text that names this node in the network ("16Uiu2HA…")."""
        return peer_id_of(self.public_key)


def check_private(path: Path) -> None:
    """Raise InvalidIdentity when others may read this file, FileNotFoundError where none is."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS_MODE:
        raise InvalidIdentity(
            f"{path} holds a secret and has mode {mode:04o}: others on this machine may read it;"
            f" `chmod 600 {path}`, and make a new one if anybody else was here"
        )


def write_private(path: Path, text: str) -> None:
    """Write a new file of mode 0600 that is whole and on the disk when this returns.

    Raises FileExistsError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def peer_id_of(public_key: bytes) -> str:
    """Return the peer id of a compressed secp256k1 public key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidPeerId(
            f"a compressed public key is {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}"
        )
    return base58.b58encode(_PEER_ID_HEADER + public_key).decode()


def public_key_of(peer_id: str) -> bytes:
    """Return the compressed public key inside a peer id.

    Raises InvalidPeerId for anything but a valid secp256k1 key.
    """
    if len(peer_id) > _MAX_PEER_ID_CHARS:
        raise InvalidPeerId(f"{peer_id[:20]!r}… is too long for a peer id")
    try:
        raw = base58.b58decode(peer_id)
    except ValueError as error:
        raise InvalidPeerId(f"{peer_id!r} is not base58") from error
    public_key = raw[len(_PEER_ID_HEADER) :]
    if not raw.startswith(_PEER_ID_HEADER) or len(public_key) != PUBLIC_KEY_BYTES:
        raise InvalidPeerId(f"{peer_id!r} does not hold a secp256k1 key")
    try:
        coincurve.PublicKey(public_key)
    except ValueError as error:
        raise InvalidPeerId(f"the key in {peer_id!r} is not a point of the curve") from error
    if base58.b58encode(raw).decode() != peer_id:
        raise InvalidPeerId(f"{peer_id!r} is not the canonical form of a peer id")
    return public_key
