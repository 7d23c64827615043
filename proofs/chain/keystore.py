"""Reads and writes a secret key as an Ethereum keystore (Web3 Secret Storage, version 3): JSON,
encrypted with a password, as wallets everywhere do.

Knows no file.
"""

from __future__ import annotations

import json
from typing import Any

from .errors import KeystoreError

SCRYPT_ROUNDS = 1 << 15
"""What one try at the password costs: 32 MiB and some 0.1 s. Wallets use up to 2^18."""


def is_keystore(text: str) -> bool:
    """Whether a file holds a keystore, to tell it from a bare key."""
    return text.lstrip().startswith("{")


def decrypt_key(text: str, password: str) -> bytes:
    """The 32 bytes of a keystore's secret. KeystoreError when it is none, or not this password."""
    from . import depth  # noqa: F401  # takes most of a second: who has a bare key need not wait
    from eth_account import Account  # isort: skip

    try:
        return bytes(Account.decrypt(json.loads(text), password))
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise KeystoreError(f"the keystore does not open: {error}; check the password") from error


def encrypt_key(secret: bytes, password: str) -> str:
    """A keystore for this secret."""
    from . import depth  # noqa: F401
    from eth_account import Account  # isort: skip

    keystore: dict[str, Any] = Account.encrypt(secret, password, iterations=SCRYPT_ROUNDS)
    return json.dumps(keystore)
