"""`lorikeet base` says which base is here, what it waits for, and gives the card."""

from __future__ import annotations

import json
from pathlib import Path

from node.cli.invite import join
from node.config import load_config
from node.invite import read_invite, write_invite
from proofs.basecard import parse_card
from tests.golden.world import BASE_CARD
from tests.node.cli.test_commands import lorikeet, point_home_at
from tests.node.twin import BASE, Twin, serve_twin

CARD, OTHER_CARD = f"bafkrei{'a' * 52}", f"bafkrei{'b' * 52}"
SHARED = {"network": "mine", "base": "ab" * 32}


async def test_base_show_says_where_the_base_came_from(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        shown = (await lorikeet(tmp_path, "base", "show")).stdout.decode()
        as_json = json.loads((await lorikeet(tmp_path, "base", "show", "--json")).stdout)
    for said in (
        BASE.name,
        BASE.digest,
        BASE.path,
        BASE.card,
        BASE.signer,
        "other nodes",
        "98.0 MB",
    ):
        assert said in shown
    assert as_json["card"] == BASE.card
    assert as_json["waits_for"] == ""


async def test_what_a_daemon_waits_for_is_shown_wherever_one_looks(tmp_path: Path) -> None:
    waiting = "fetching smol, 43.0 of 98.4 MB (43 %), 20.5 MB/s, 3 s left"
    async with serve_twin(Twin(waiting=waiting)) as url:
        point_home_at(tmp_path, url)
        for command in (("base", "show"), ("status",), ("ps",)):
            done = await lorikeet(tmp_path, *command)
            assert done.returncode == 0
            assert waiting in done.stdout.decode(), command


async def test_base_card_gives_the_signed_bytes_or_all_that_they_say(tmp_path: Path) -> None:
    async with serve_twin(Twin()) as url:
        point_home_at(tmp_path, url)
        data = (await lorikeet(tmp_path, "base", "card")).stdout
        said = json.loads((await lorikeet(tmp_path, "base", "card", "--json")).stdout)
    assert data == BASE_CARD
    card = parse_card(data)
    assert said["card"] == data.hex()
    assert (said["name"], said["base"]) == (card.name, card.base.hex())
    assert said["index"]["blocks"] == [[card.index.blocks[0][0].hex(), card.index.size]]


def test_a_token_carries_the_card_and_an_old_one_is_read_too(tmp_path: Path) -> None:
    assert read_invite(write_invite(SHARED | {"base_card": CARD}))["base_card"] == CARD
    old = write_invite(SHARED)
    assert "base_card" not in read_invite(old)
    join(tmp_path, old)
    assert load_config(tmp_path, {}).base_card == ""
    for given, kept in ((CARD, CARD), (OTHER_CARD, OTHER_CARD), ("", OTHER_CARD)):
        join(tmp_path, write_invite(SHARED | {"base_card": given}))
        config = load_config(tmp_path, {})
        assert (config.base_card, config.base) == (kept, SHARED["base"])
