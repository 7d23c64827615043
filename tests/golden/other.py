"""What a stranger computes from the vectors, with `msgpack` and `eth_account`, not our code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import msgpack
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_keys import keys
from eth_utils import keccak

# Fields that are text; every other string in a vector's fields is bytes in hex.
TEXTS = {"name", "adapter_version", "licence", "source", "rule"}  # of a manifest
TEXTS |= {"format", "template", "tool_template", "specials"}  # of a base's card
TEXTS |= {"kind", "text", "code", "message", "reason", "timings"}  # of the infer protocol
TEXTS |= {"residency"}  # of the quote protocol


def load(name: str) -> Any:
    """The vectors of one file."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


def unhex(text: str) -> bytes:
    """Bytes."""
    return bytes.fromhex(text)


def plain(value: Any, key: str = "") -> Any:
    """A vector's fields as the plain array that MessagePack carries."""
    if isinstance(value, dict):
        return [plain(part, name) for name, part in value.items()]
    if isinstance(value, list):
        return [plain(part, key) for part in value]
    if isinstance(value, str) and key not in TEXTS:
        return unhex(value)
    return value


def pack(value: Any) -> bytes:
    """MessagePack as the package of that name writes it."""
    packed: bytes = msgpack.packb(value)
    return packed


def typed(
    domain: tuple[str, int, str],
    name: str,
    fields: dict[str, str],
    *values: Any,
    version: str = "1",
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """EIP-712 data: domain (name, chain id, contract), types, message."""
    about = {
        "name": domain[0],
        "version": version,
        "chainId": domain[1],
        "verifyingContract": "0x" + domain[2],
    }
    types = {name: [{"name": field, "type": kind} for field, kind in fields.items()]}
    return about, types, dict(zip(fields, values, strict=True))


def digest_of(data: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> str:
    """What is signed."""
    signable = encode_typed_data(*data)
    return keccak(b"\x19" + signable.version + signable.header + signable.body).hex()


def sign(secret: str, data: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]) -> str:
    """The one signature."""
    return bytes(Account.sign_typed_data(unhex(secret), *data).signature).hex()


def receipt_data(network: dict[str, Any], body: str) -> tuple[Any, Any, Any]:
    """What node and client sign of a receipt."""
    fields = msgpack.unpackb(unhex(body))
    return typed(
        ("Lorikeet", network["chain_id"], network["settlement"]),
        "Receipt",
        {
            "channelId": "bytes32",
            "sequence": "uint64",
            "cumulative": "uint128",
            "payouts": "bytes32",
            "body": "bytes32",
        },
        *(fields[3], fields[4], fields[18], fields[22], hashlib.sha256(unhex(body)).digest()),
        version="2",
    )


def promise_data(network: dict[str, Any], body: str, deadline: int) -> tuple[Any, Any, Any]:
    """What the aggregator signs when it takes a receipt."""
    fields = msgpack.unpackb(unhex(body))
    return typed(
        ("Lorikeet", network["chain_id"], network["settlement"]),
        "Promise",
        {
            "channelId": "bytes32",
            "sequence": "uint64",
            "cumulative": "uint128",
            "body": "bytes32",
            "deadline": "uint64",
        },
        *(fields[3], fields[4], fields[18], hashlib.sha256(unhex(body)).digest(), deadline),
        version="2",
    )


def voucher_data(network: dict[str, Any], channel: str, amount: int) -> tuple[Any, Any, Any]:
    """What a payer signs of a voucher."""
    domain = ("x402 Batch Settlement", network["chain_id"], network["channels"])
    fields = {"channelId": "bytes32", "maxClaimableAmount": "uint128"}
    return typed(domain, "Voucher", fields, unhex(channel), amount)


def divide(amount: int, weights: Sequence[int]) -> list[int]:
    """The largest remainder, in exact fractions."""
    exact = [Fraction(amount * weight, sum(weights)) for weight in weights]
    parts = [floor(part) for part in exact]
    left = amount - sum(parts)
    largest = sorted(range(len(exact)), key=lambda place: (parts[place] - exact[place], place))
    return [part + (place in largest[:left]) for place, part in enumerate(parts)]


Shares = list[tuple[bytes, int, int]]  # address, role, basis points
USUAL = {
    "shares.node": 6_000,
    "shares.creator": 2_500,
    "attribution.most-lambda": 8,
    "fees.least-for-a-share": 100,
}


def blended(weights: list[int], eighths: int, drawn: list[list[int]]) -> list[int]:
    """By what contributors divide their part: their weights, or ten-thousandths of which so many
    eighths follow what was drawn on.
    """
    if not drawn:
        return weights
    parts = dict(drawn)
    mine = [Fraction(parts.get(place, 0), sum(parts.values())) for place in range(len(weights))]
    exact = [
        Fraction(eighths, 8) * own + Fraction(8 - eighths, 8) * Fraction(weight, sum(weights))
        for own, weight in zip(mine, weights, strict=True)
    ]
    whole = 8 * sum(weights) * sum(parts.values())
    return divide(10_000, [int(part * whole) for part in exact])


def shares(
    owner: bytes,
    creator: bytes | None,
    contributors: list[tuple[bytes, int]],
    eighths: int = 0,
    drawn: Sequence[Any] = (),
    values: dict[str, int] = USUAL,
) -> Shares:
    """Who shares a fee by these parameters; no creator is the bare base."""
    node, made = values["shares.node"], values["shares.creator"]
    eighths = min(eighths, values["attribution.most-lambda"])
    rows = {(owner, 0): 10_000 if creator is None else node}
    if creator is not None:
        rows[creator, 1] = made if contributors else 10_000 - node
    weights = [weight for _, weight in contributors]
    for who, part in zip(
        (who for who, _ in contributors),
        divide(10_000 - node - made, blended(weights, eighths, list(drawn)))
        if contributors
        else [],
        strict=True,
    ):
        if part:
            rows[who, 2] = rows.get((who, 2), 0) + part
    return [(who, role, bps) for (who, role), bps in sorted(rows.items())]


def manifest_shares(
    owner: bytes,
    manifest: bytes | None,
    drawn: Sequence[Any] = (),
    values: dict[str, int] = USUAL,
) -> Shares:
    """Who shares a fee for the adapter with this manifest; None is the bare base. `drawn` has the
    places of contributors with their parts.
    """
    if manifest is None:
        return shares(owner, None, [], values=values)
    fields = msgpack.unpackb(manifest)
    creator = keys.PublicKey.from_compressed_bytes(fields[8]).to_canonical_address()
    people = [(row[0], row[4]) for row in fields[10]]
    return shares(owner, creator, people, eighths_of(fields), drawn, values=values)


def eighths_of(fields: list[Any]) -> int:
    """A manifest's λ."""
    attribution = fields[12][2] if fields[0] == 2 else None
    return attribution[2] if attribution else 0


def num_parties(owner: bytes, manifest: bytes | None, values: dict[str, int] = USUAL) -> int:
    """How many may share a fee for the adapter with this manifest, whatever is drawn on."""
    rows = {(who, role) for who, role, _ in manifest_shares(owner, manifest, values=values)}
    fields = msgpack.unpackb(manifest) if manifest else None
    if fields and min(eighths_of(fields), values["attribution.most-lambda"]):
        rows |= {(person[0], 2) for person in fields[10]}
    return len(rows)


def cocktail_shares(owner: bytes, cocktail: bytes) -> Shares:
    """Who shares a fee for this cocktail: its parents' shares by their weights."""
    return parents_shares(owner, msgpack.unpackb(cocktail)[1])


def merged_shares(owner: bytes, manifest: bytes, drawn: Sequence[Any] = ()) -> Shares:
    """The same for an adapter that was merged of others."""
    return parents_shares(owner, msgpack.unpackb(manifest)[13], drawn)


def parents_shares(owner: bytes, parents: Sequence[Any], drawn: Sequence[Any] = ()) -> Shares:
    """Parents' shares by their weights; `drawn` has a list for each parent."""
    rows: dict[tuple[bytes, int], int] = {}
    for place, (manifest, weight) in enumerate(parents):
        for who, role, part in manifest_shares(owner, manifest, drawn[place] if drawn else ()):
            rows[who, role] = rows.get((who, role), 0) + part * abs(weight)
    return [(who, role, part) for (who, role), part in sorted(rows.items())]


def awards(amount: int, rows: Shares) -> dict[bytes, int]:
    """What each account gets of a fee, in the shares' order."""
    found: dict[bytes, int] = {}
    for (who, _, _), part in zip(rows, divide(amount, [row[2] for row in rows]), strict=True):
        if part:
            found[who] = found.get(who, 0) + part
    return found


def sum_root(leaves: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """A sum tree's root over (sum, content), written down naively."""
    if not leaves:
        return 0, bytes(32)
    if len(leaves) == 1:
        amount, content = leaves[0]
        return amount, keccak(b"\0" + content)
    half = max(1 << bit for bit in range(20) if 1 << bit < len(leaves))
    (left, left_hash), (right, right_hash) = sum_root(leaves[:half]), sum_root(leaves[half:])
    joined = left.to_bytes(16, "big") + left_hash + right.to_bytes(16, "big") + right_hash
    return left + right, keccak(b"\1" + joined)


def sum_commitment(leaves: list[tuple[int, bytes]]) -> bytes:
    """What a receipt or a header names of a sum tree."""
    total, root = sum_root(leaves)
    return keccak(b"\2" + len(leaves).to_bytes(8, "big") + total.to_bytes(16, "big") + root)


def payouts_commitment(paid: dict[bytes, int]) -> bytes:
    """What a receipt names as payouts: accounts in the order of their first payment."""
    return sum_commitment(
        [(amount, who + amount.to_bytes(16, "big")) for who, amount in paid.items()]
    )


def signer_of(digest: bytes, signature: bytes) -> bytes:
    """The address that signed."""
    found = keys.Signature(signature[:64] + bytes([signature[64] - 27]))
    address: bytes = found.recover_public_key_from_msg_hash(digest).to_canonical_address()
    return address


def longer_forms(data: bytes) -> Iterator[bytes]:
    """The same values written otherwise: each integer, text, byte string, array and float, one at
    a time, in a longer head, and each float in the ways that lose nothing.
    """
    offset = 0
    while offset < len(data):
        head, size = _head(data, offset)
        end = offset + size
        for other in _others(data[offset : offset + head], data[offset + head : end]):
            yield data[:offset] + other + data[end:]
        offset = end


def _head(data: bytes, offset: int) -> tuple[int, int]:
    """Bytes of the head of the item that stands here, and of head and content together. The
    items of an array follow it.
    """
    first = data[offset]
    if first < 0x80 or first in (0xC0, 0xC2, 0xC3) or 0x90 <= first < 0xA0 or first >= 0xE0:
        return 1, 1
    if 0xA0 <= first < 0xC0:
        return 1, 1 + (first & 0x1F)
    width = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2, 0xDC: 2}.get(first)
    if width is None:
        return 1, 1 + _NUMBERS[first]
    content = int.from_bytes(data[offset + 1 : offset + 1 + width], "big")
    return 1 + width, 1 + width + (0 if first == 0xDC else content)


_NUMBERS = {0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def _others(head: bytes, content: bytes) -> Iterator[bytes]:
    first = head[0]
    if first < 0x80:
        yield b"\xcc" + head
    elif 0x90 <= first < 0xA0:
        yield b"\xdc\0" + bytes([first & 0xF])
    elif 0xA0 <= first < 0xC0:
        yield b"\xd9" + bytes([len(content)]) + content
    elif first in (0xC4, 0xD9):
        yield bytes([first + 1, 0]) + head[1:] + content
    elif first in (0xC5, 0xDA, 0xDC):
        yield bytes([first + 1, 0, 0]) + head[1:] + content
    elif first >= 0xE0:
        yield b"\xd0" + head
    elif first in (0xD0, 0xD1, 0xD2):
        yield bytes([first + 1]) + b"\xff" * len(content) + content  # negative ones alone are there
    elif first in (0xCC, 0xCD, 0xCE):
        yield bytes([first + 1]) + bytes(len(content)) + content
    elif first == 0xCB:
        number = msgpack.unpackb(head + content)
        if msgpack.unpackb(single := msgpack.packb(number, use_single_float=True)) == number:
            yield single
        if number.is_integer():
            yield msgpack.packb(int(number))
