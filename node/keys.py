"""A daemon's keys, each for one thing, and where they lie.

    key               operator: the peer id, what receipts and vouchers are signed with. Hot.
    payer.key         holds the fee tokens and the gas with which this node pays others
    aggregator.key    posts headers and signs promises, at an aggregator
    owner             an address alone (lorikeet.toml); its key need not be on this machine

Where one of the files is missing, the operator's key stands in for it. A file holds a bare key in
hex, and then nobody else may read it, or an Ethereum keystore. Knows no daemon.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2p.errors import InvalidIdentity
from p2p.identity import Identity, check_private, write_private
from proofs.chain.errors import KeystoreError
from proofs.chain.keystore import decrypt_key, encrypt_key, is_keystore

from .errors import ConfigError

PASSWORD_VARIABLE = "LORIKEET_PASSWORD"
PRIVATE_UMASK = 0o077


@dataclass(frozen=True)
class KeyFiles:
    """Where one daemon's keys lie, and the file with the password of those that are encrypted;
    None where LORIKEET_PASSWORD says it.
    """

    operator: Path
    payer: Path
    aggregator: Path
    password: Path | None = None


@dataclass(frozen=True)
class Keys:
    """One daemon's keys; secrets are 32 bytes and never printed."""

    operator: Identity
    payer: bytes = field(repr=False)
    aggregator: bytes = field(repr=False)


def load_keys(files: KeyFiles) -> Keys:
    """Read every key there is; make the operator's where there is none. ConfigError says which file
    is wrong, and the mend.
    """

    def ask_password() -> str:
        return read_password(files.password)

    try:
        operator = (
            read_key(files.operator, ask_password)
            if files.operator.exists()
            else Identity.load_or_create(files.operator)
        )
        payer, aggregator = (
            read_key(path, ask_password).secret if path.exists() else operator.secret
            for path in (files.payer, files.aggregator)
        )
    except (InvalidIdentity, OSError) as error:
        raise ConfigError(str(error)) from error
    return Keys(operator, payer, aggregator)


def read_key(path: Path, ask_password: Callable[[], str]) -> Identity:
    """The key in a file, bare or encrypted. InvalidIdentity, ConfigError."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not is_keystore(text):
        return Identity.load(path)
    try:
        return Identity.from_secret(decrypt_key(text, ask_password()))
    except KeystoreError as error:
        raise ConfigError(f"{path}: {error}") from error


def choose_key(files: KeyFiles, key: Path | None) -> Identity:
    """The key in a file that somebody named, else the home's own. InvalidIdentity, ConfigError."""
    if key is None:
        return load_keys(files).operator
    return read_key(key, lambda: read_password(files.password))


def make_key(path: Path, password: str | None) -> Identity:
    """Make a key where there is none: encrypted when there is a password. The key that is there,
    otherwise.
    """
    if path.exists():
        return read_key(path, lambda: password or read_password(None))
    if password is None:
        return Identity.load_or_create(path)
    identity = Identity.generate()
    write_private(path, encrypt_key(identity.secret, password) + "\n")
    return identity


def read_password(path: Path | None) -> str:
    """The password of the encrypted keys. ConfigError when there is none."""
    if path is None:
        stated = os.environ.get(PASSWORD_VARIABLE)
        if stated is None:
            raise ConfigError(
                f"a key is encrypted: set {PASSWORD_VARIABLE}, or password_file to a file that"
                " holds its password"
            )
        return stated
    try:
        check_private(path)
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (InvalidIdentity, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password_file: {error}") from error


@contextmanager
def hold_key(peer_id: str) -> Iterator[None]:
    """One daemon per key on this machine, whatever its home: two would sign different receipts for
    one place, which is what cheats are convicted of. The kernel drops the lock with the process.
    """
    folder = Path(tempfile.gettempdir()) / f"lorikeet-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise ConfigError(f"{folder} belongs to somebody else; set TMPDIR to a folder of yours")
    with (folder / f"{peer_id}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another daemon on this machine runs with the key of {peer_id}; end it, or make a"
                " new home with `lorikeet init --home …`: two daemons must not share a key"
            ) from None
        yield
