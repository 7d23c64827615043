"""Signs records whose last element is the signature over the others, and says who signed one.

A prefix that nothing else begins with keeps a signature from counting for another kind of record.
"""

from __future__ import annotations

import hashlib

import msgspec

from .codec import Record, encode
from .signing import Signer, recover


def sign_record(signer: Signer, draft: Record, domain: bytes) -> bytes:
    """Return a record's bytes under our signature; what the draft has in its place is replaced.

    Raises TypeError, OverflowError or UnicodeError for what has no canonical form.
    """
    signature = signer.sign_digest(_digest(draft, domain))
    last = draft.__struct_fields__[-1]
    return encode(msgspec.structs.replace(draft, **{last: signature}))


def signer_of(record: Record, domain: bytes) -> bytes:
    """Return the address of whoever signed a record. Raises BadSignature."""
    signature: bytes = msgspec.structs.astuple(record)[-1]
    return recover(_digest(record, domain), signature)


def _digest(record: Record, domain: bytes) -> bytes:
    unsigned = list(msgspec.structs.astuple(record)[:-1])
    return hashlib.sha256(domain + encode(unsigned)).digest()
