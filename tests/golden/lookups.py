"""One of every message of the lookup protocol, by field and by bytes."""

from __future__ import annotations

from typing import Any

from p2p.cid import Cid
from p2p.identity import Identity
from p2p.lookup.kinds import NAME, PROVIDERS
from p2p.lookup.messages import BUSY, Found, Lookup, Message, Provider, Refused, encode
from p2p.names import encode_name, sign_name

from .world import MANIFEST, named, secret

SEQUENCE = 1_794_000_007


def lookups() -> dict[str, Any]:
    """A name that is found, providers that are found, a name that nobody knows, a busy node."""
    creator = Identity(secret("creator"))
    node = Identity(secret("node"))
    record = sign_name(creator, "law", SEQUENCE, Cid.of(MANIFEST))
    unknown = Lookup(NAME, f"/lorikeet/{creator.peer_id}/tax".encode(), max_age_s=0)
    provider = Provider(
        node.peer_id,
        [
            f"/ip4/192.0.2.1/tcp/4101/p2p/{node.peer_id}",
            f"/dns4/node.example.org/tcp/443/tls/ws/p2p/{node.peer_id}",
        ],
    )
    return {
        "exchanges": [
            _exchange(
                Lookup(NAME, record.key.encode(), max_age_s=600), Found(31, [encode_name(record)])
            ),
            _exchange(
                Lookup(PROVIDERS, Cid.of(MANIFEST).digest, max_age_s=600),
                Found(0, [encode(provider)]),
            ),
            _exchange(unknown, Found(0, [])),
            _exchange(unknown, Refused(BUSY, "the search took too long")),
        ],
        "provider": {
            "peer_id": provider.peer_id,
            "addresses": provider.addresses,
            "hex": encode(provider).hex(),
        },
    }


def _exchange(asked: Message, answer: Message) -> list[dict[str, Any]]:
    return [
        {"message": type(one).__name__, **named(one), "hex": encode(one).hex()}
        for one in (asked, answer)
    ]
