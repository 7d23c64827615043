"""Who and what all golden vectors speak about: one network, its keys, one channel, one adapter."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from node.money.addresses import address_of_peer
from node.wire.receipts import Taken
from p2p.blocks.limits import BLOCK_BYTES
from p2p.cid import Cid
from p2p.identity import Identity
from proofs.basecard import Described, build_card, parse_card
from proofs.baseindex import BLOCK_BYTES as BASE_BLOCK_BYTES
from proofs.baseindex import BaseFile, build_index, parse_index
from proofs.codec import encode
from proofs.digest import Network
from proofs.epoch import EpochHeader
from proofs.manifest import Contributor, File, build_manifest, parse_manifest
from proofs.origin import Ancestor, Attribution, DatanetVersion, Origin
from proofs.signing import Signer
from proofs.voucher import ChannelConfig, operator_salt

FOLDER = Path(__file__).parent


def secret(name: str) -> bytes:
    """A key that everybody knows: the sha-256 of a few words."""
    return hashlib.sha256(f"golden {name}".encode()).digest()


def account(number: int) -> bytes:
    """A made-up address."""
    return hashlib.sha256(b"account %d" % number).digest()[:20]


def cut(data: bytes) -> list[bytes]:
    """A file's blocks."""
    return [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]


def cut_base(data: bytes) -> list[bytes]:
    """The blocks of a base's file."""
    return [data[at : at + BASE_BLOCK_BYTES] for at in range(0, len(data), BASE_BLOCK_BYTES)]


NETWORK = Network(31_337, bytes.fromhex("5e" * 20), bytes.fromhex("70" * 20))
NODE = Signer(secret("node"))
CLIENT = Signer(secret("client"))
CREATOR = Signer(secret("creator"))
AGGREGATOR = Signer(secret("aggregator"))
OWNER = account(1)
BASE = hashlib.sha256(b"base").digest()
CONFIG = ChannelConfig(
    payer=CLIENT.address,
    payer_authorizer=CLIENT.address,
    receiver=NETWORK.settlement,
    receiver_authorizer=NODE.address,
    token=NETWORK.token,
    withdraw_delay=86_400,
    salt=operator_salt(NODE.address, bytes(range(12))),
)

FILES = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(BLOCK_BYTES) + b"the last block is shorter",
}
"""The golden adapter's files. No engine would take them."""
MANIFEST = build_manifest(
    CREATOR,
    name="law",
    adapter_version="1",
    base=BASE,
    tokenizer_hash=hashlib.sha256(b"tokenizer").digest(),
    template_hash=hashlib.sha256(b"template").digest(),
    licence="CC0-1.0",
    source="https://example.org/law",
    created_at=1_794_000_000,
    contributors=[
        Contributor(account(2), "Ann", "letters", "CC0-1.0", weight=2),
        Contributor(account(3), "Böll", "", "", weight=1),
    ],
    files=[
        File(name, len(data), [(Cid.of(block).digest, len(block)) for block in cut(data)])
        for name, data in FILES.items()
    ],
)
ADAPTER = hashlib.sha256(MANIFEST).digest()


def _attributed() -> bytes:
    """The golden adapter again, whose fees follow the text that an answer drew on: version 2."""
    law = parse_manifest(MANIFEST)
    names = ("name", "base", "tokenizer_hash", "template_hash", "licence", "source", "created_at")
    indexed = {"attribution.tokens": b"the tokens", "background.tokens": b"what everybody writes"}
    return build_manifest(
        CREATOR,
        **{name: getattr(law, name) for name in names},
        adapter_version="2",
        contributors=[*law.contributors, Contributor(account(4), "Copycat", "", "", weight=0)],
        files=[
            *law.files,
            *(
                File(name, len(data), [(Cid.of(data).digest, len(data))])
                for name, data in indexed.items()
            ),
        ],
        origin=Origin(
            recipe=hashlib.sha256(b"recipe").digest(),
            datanets=(DatanetVersion(*(hashlib.sha256(b"datanet").digest(), 7, bytes(32))),),
            attribution=Attribution(
                rule="ladder-1",
                background=hashlib.sha256(indexed["background.tokens"]).digest(),
                lambda_eighths=3,
                none_bits=8,
                r_bps=-390,
                lds_bps=4_000,
                answers=48,
                r_interval=(-4_600, 310),
                lds_interval=(2_600, 5_300),
            ),
            parents=(Ancestor(ADAPTER, 7_000), Ancestor(bytes(32), -3_000)),
        ),
    )


ATTRIBUTED_MANIFEST = _attributed()
ATTRIBUTED = hashlib.sha256(ATTRIBUTED_MANIFEST).digest()


BASE_FILES = {
    "config.json": b"{}",
    "model.safetensors": bytes(BASE_BLOCK_BYTES) + b"the last block is shorter",
    "tokenizer.json": b"{}",
}
"""The golden base's files. No engine would take them."""
BASE_INDEX = build_index(
    BaseFile(name, len(data), b"".join(Cid.of(block).digest for block in cut_base(data)))
    for name, data in BASE_FILES.items()
)
BASE_CARD = build_card(
    NODE,
    Described(
        name="Tiny-1",
        base=hashlib.sha256(BASE_FILES["model.safetensors"]).digest(),
        format="safetensors",
        licence="Apache-2.0",
        source="https://example.org/tiny",
        size_bytes=sum(map(len, BASE_FILES.values())),
        index=File("index", len(BASE_INDEX), [(Cid.of(BASE_INDEX).digest, len(BASE_INDEX))]),
        tokenizer=File("tokenizer.json", 2, [(Cid.of(b"{}").digest, 2)]),
        tokenizer_hash=hashlib.sha256(b"{}").digest(),
        template="{{ messages[0].content }}",
        tool_template="",
        specials={"bos_token": "<s>", "eos_token": "<|im_end|>"},
        stop_ids=[0, 2],
    ),
    created_at=1_794_000_000,
)


def party(name: str) -> dict[str, str]:
    """One key in all its spellings."""
    identity = Identity.from_secret(secret(name))
    return {
        "secret": identity.secret.hex(),
        "public_key": identity.public_key.hex(),
        "peer_id": identity.peer_id,
        "address": address_of_peer(identity.peer_id).hex(),
    }


def network() -> dict[str, Any]:
    """What signatures are bound to."""
    return {
        "chain_id": NETWORK.chain_id,
        "settlement": NETWORK.settlement.hex(),
        "token": NETWORK.token.hex(),
        "channels": NETWORK.channels.hex(),
    }


def named(value: Any) -> Any:
    """A value as JSON shows it: structs by their fields' names, bytes as hex."""
    if isinstance(value, msgspec.Struct):
        return {name: named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, bytes):
        return value.hex()
    return [named(part) for part in value] if isinstance(value, list | tuple) else value


def named_taken(taken: Taken) -> dict[str, Any]:
    """What an aggregator answers, each outcome with its name."""
    return {
        "outcomes": [
            {"outcome": type(outcome).__name__, **named(outcome)} for outcome in taken.outcomes
        ]
    }


def named_header(header: EpochHeader) -> dict[str, str]:
    """A header by field, with its hash; numbers as decimal strings."""
    fields = {
        name: value.hex() if isinstance(value, bytes) else str(value)
        for name, value in vars(header).items()
    }
    return {**fields, "hash": header.hash.hex()}


def manifest() -> dict[str, Any]:
    """The golden adapter's manifest, by field and byte by byte."""
    about = parse_manifest(MANIFEST)
    unsigned = [getattr(about, name) for name in about.__struct_fields__[:-1]]
    return {
        "creator": party("creator"),
        "contents": {
            "adapter_config.json": "{}",
            "adapter_model.safetensors": "262144 zero bytes, then: the last block is shorter",
        },
        "fields": named(about),
        "signed_digest": hashlib.sha256(b"lorikeet manifest 1\0" + encode(unsigned)).hexdigest(),
        "manifest": MANIFEST.hex(),
        "cid": str(Cid.of(MANIFEST)),
    }


def manifest_two() -> dict[str, Any]:
    """A manifest of version 2, by field and byte by byte."""
    about = parse_manifest(ATTRIBUTED_MANIFEST)
    unsigned = [getattr(about, name) for name in about.__struct_fields__[:-1]]
    return {
        "creator": party("creator"),
        "fields": named(about),
        "signed_digest": hashlib.sha256(b"lorikeet manifest 2\0" + encode(unsigned)).hexdigest(),
        "manifest": ATTRIBUTED_MANIFEST.hex(),
        "cid": str(Cid.of(ATTRIBUTED_MANIFEST)),
    }


def base_card() -> dict[str, Any]:
    """The golden base's index and card, by field and byte by byte."""
    card = parse_card(BASE_CARD)
    unsigned = [getattr(card, name) for name in card.__struct_fields__[:-1]]
    return {
        "signer": party("node"),
        "contents": {
            "config.json": "{}",
            "model.safetensors": "1048576 zero bytes, then: the last block is shorter",
            "tokenizer.json": "{}",
        },
        "index_fields": named(parse_index(BASE_INDEX)),
        "index": BASE_INDEX.hex(),
        "fields": named(card),
        "signed_digest": hashlib.sha256(b"lorikeet base card 1\0" + encode(unsigned)).hexdigest(),
        "card": BASE_CARD.hex(),
        "cid": str(Cid.of(BASE_CARD)),
    }
