"""A base's card is had from any node by its digest, and one that stands alone loses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from node.bases.cards import KIND, Cards, by_consent
from p2p.lookup.messages import PROTOCOL, Found, Lookup, Refused, decode_answer, encode
from p2p.peers import PeerAddress
from proofs.basecard import BaseCard, build_card, parse_card
from proofs.manifest import File
from tests.node.networks import open_lab, until
from tests.proofs.scene import signer
from tests.proofs.test_basecard import ABOUT


def told(name: str, index: int, created_at: int) -> tuple[bytes, BaseCard]:
    blocks = [(bytes([index]) * 32, 9)]
    data = build_card(
        signer(name), replace(ABOUT, index=File("index", 9, blocks)), created_at=created_at
    )
    return data, parse_card(data)


OLDER, NEWER = told("node", 1, 5), told("client", 1, 7)
ALONE = told("mallory", 2, 1)


@given(st.permutations([OLDER, NEWER, ALONE]))
def test_the_index_that_most_have_comes_first_and_its_oldest_card(
    cards: list[tuple[bytes, BaseCard]],
) -> None:
    assert by_consent(cards) == [OLDER[0], NEWER[0], ALONE[0]]
    assert by_consent([*cards, ALONE]) == [ALONE[0], OLDER[0], NEWER[0]], (
        "two against two: the older"
    )
    assert by_consent([]) == []


async def test_any_node_answers_what_a_bases_card_is(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("bootstrap", role="bootstrap") as bootstrap,
            lab.daemon("first") as first,
            lab.daemon("client", role="gateway") as client,
        ):
            base = bytes.fromhex(first.base().digest)
            cards = Cards(client.host)

            async def ask(key: bytes) -> Found | Refused:
                peer = PeerAddress(bootstrap.host.peer_id)
                async with client.host.open_stream(peer.peer_id, PROTOCOL, 60) as stream:
                    await stream.send(encode(Lookup(KIND, key, 0)), 60)
                    return decode_answer(await stream.receive(60))

            async def is_found() -> bool:
                return await cards.find(base) == [first.base_card()]

            await until(is_found)
            found = await ask(base)
            assert isinstance(found, Found)
            assert found.found == [first.base_card()]
            nothing = await ask(bytes(32))
            assert isinstance(nothing, Found)
            assert nothing.found == []
            refused = await ask(b"law")
            assert isinstance(refused, Refused)
            assert refused.code == "malformed"
            assert await cards.find(bytes(32)) == []
