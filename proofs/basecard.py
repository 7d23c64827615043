"""Signs and checks a base's card: what a client must know of a base to speak with nodes that
compute on it, and where all its bytes are.

Normative text: docs/protocols/basecard.md.

Decides what a well-formed card is. A signature says who wrote it, not that it is true: a base is
what its digest says, so a card counts for the digest that the reader wants, and the files that it
leads to must hash to that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated

import msgspec

from .baseindex import MAX_INDEX_BYTES, Format
from .codec import Amount, Digest, NotCanonical, PublicKey, Record, Signature, decode
from .errors import BadSignature, BaseCardError
from .manifest import File, Text
from .signed import sign_record, signer_of
from .signing import Signer, address_of

VERSION = 1
MAX_CARD_BYTES = 64 << 10
MAX_TEMPLATE_BYTES = 32 << 10
MAX_TOKENIZER_BYTES = 64 << 20
MAX_STOP_IDS = 16  # as the infer protocol carries
MAX_SPECIALS = 32
INDEX_FILE = "index"
TOKENIZER_FILE = "tokenizer.json"

_DOMAIN = b"lorikeet base card 1\0"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)

Template = Annotated[str, msgspec.Meta(max_length=MAX_TEMPLATE_BYTES)]
Special = tuple[
    Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")],
    Annotated[str, msgspec.Meta(max_length=256)],
]
"""What a template finds under a name: ("bos_token", "<s>")."""
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class BaseCard(Record, frozen=True, dict=True):
    """A base's signed description. `signer` is a compressed public key; `created_at` is in Unix
    seconds; `size` is that of all its files together, in bytes.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    base: Digest
    format: Format
    licence: Text
    source: Text
    size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 50)]
    index: File
    tokenizer: File
    tokenizer_hash: Digest
    template_hash: Digest
    template: Template
    tool_template: Template
    specials: Annotated[list[Special], msgspec.Meta(max_length=MAX_SPECIALS)]
    stop_ids: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_STOP_IDS)]
    created_at: Amount
    signer: PublicKey
    signature: Signature

    @cached_property
    def signer_address(self) -> bytes:
        """Return the address of whoever signed it."""
        return address_of(self.signer)


@dataclass(frozen=True)
class Described:
    """What a card says of a base, but for who says it and when."""

    name: str
    base: bytes
    format: Format
    licence: str
    source: str
    size_bytes: int
    index: File
    tokenizer: File
    tokenizer_hash: bytes
    template: str
    tool_template: str
    specials: Mapping[str, str]
    stop_ids: Sequence[int]


def build_card(signer: Signer, about: Described, created_at: int) -> bytes:
    """Write and sign a card. Raises BaseCardError when nobody would accept it."""
    try:
        draft = BaseCard(
            version=VERSION,
            name=about.name,
            base=about.base,
            format=about.format,
            licence=about.licence,
            source=about.source,
            size=about.size_bytes,
            index=about.index,
            tokenizer=about.tokenizer,
            tokenizer_hash=about.tokenizer_hash,
            template_hash=hashlib.sha256(about.template.encode()).digest(),
            template=about.template,
            tool_template=about.tool_template,
            specials=sorted(about.specials.items()),
            stop_ids=sorted(set(about.stop_ids)),
            created_at=created_at,
            signer=signer.public_key,
            signature=bytes(65),
        )
        data = sign_record(signer, draft, _DOMAIN)
    except (TypeError, OverflowError, UnicodeError) as error:
        raise BaseCardError("schema", str(error)) from error
    parse_card(data)
    return data


def parse_card(data: bytes) -> BaseCard:
    """Read a card from bytes nobody vouched for: bounded, canonical, consistent, signed by whom it
    names.

    Raises BaseCardError.
    """
    try:
        card = decode(data, _DECODER, MAX_CARD_BYTES)
    except NotCanonical as error:
        raise BaseCardError(error.rule, str(error)) from error
    if card.version != VERSION:
        raise BaseCardError("version", f"{card.version} is unknown; this node reads {VERSION}")
    if not _NAME.fullmatch(card.name):
        raise BaseCardError("name", f"{card.name!r} has other than letters, digits, '.', '_', '-'")
    _check_file(card.index, INDEX_FILE, MAX_INDEX_BYTES)
    _check_file(card.tokenizer, TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    for template in (card.template, card.tool_template):
        num_bytes = len(template.encode())
        if num_bytes > MAX_TEMPLATE_BYTES:
            raise BaseCardError("template", f"{num_bytes} bytes; the limit is {MAX_TEMPLATE_BYTES}")
    if hashlib.sha256(card.template.encode()).digest() != card.template_hash:
        raise BaseCardError("template", "it does not hash to template_hash")
    if any(one >= other for (one, _), (other, _) in pairwise(card.specials)):
        raise BaseCardError("specials", "their names do not ascend")
    if any(one >= other for one, other in pairwise(card.stop_ids)):
        raise BaseCardError("stop_ids", "they do not ascend")
    _check_signature(card)
    return card


def _check_file(file: File, name: str, max_bytes: int) -> None:
    if file.name != name:
        raise BaseCardError("files", f"{file.name!r} stands where {name!r} belongs")
    if file.size > max_bytes:
        raise BaseCardError("files", f"{name} has {file.size} bytes; the limit is {max_bytes}")
    total = sum(size for _, size in file.blocks)
    if total != file.size:
        raise BaseCardError(
            "files", f"the blocks of {name} have {total} bytes together, not {file.size}"
        )


def _check_signature(card: BaseCard) -> None:
    try:
        signer = signer_of(card, _DOMAIN)
        named = card.signer_address
    except BadSignature as error:
        raise BaseCardError("signature", str(error)) from error
    if signer != named:
        raise BaseCardError("signature", f"made by {signer.hex()}, not by {named.hex()}")


_DECODER = msgspec.msgpack.Decoder(BaseCard)

__all__ = ["BaseCard", "BaseCardError", "Described", "build_card", "parse_card"]
