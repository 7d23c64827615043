"""Every decoder of a peer's bytes reads or refuses whatever comes, by its own errors alone, in
little time and memory; and none is left out.
"""

from __future__ import annotations

import inspect
import random
import re
from pathlib import Path

import pytest

from p2p.gossip import Verdict
from p2p.hardening import dht_protocol
from tests.p2p.helpers import open_hosts

from .decoders import DECODERS, LIBRARY, Decoder, entries
from .mutate import spoil
from .run import Finding, Fuzzer, kept, try_input

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 12.0
SEED = 1  # the same inputs each time: others are scripts/fuzz's
NAMED = {decoder.name: decoder for decoder in DECODERS}
_OURS = re.compile(r'"(/lorikeet/[a-z-]+/\d+)"')
_TOPIC = re.compile(r'^[A-Z_]*TOPIC = "([a-z]+)"$', re.MULTILINE)


def sources() -> str:
    """What the product says, whole."""
    folders = [ROOT / name for name in ("node", "p2p")]
    return "\n".join(path.read_text() for each in folders for path in sorted(each.rglob("*.py")))


def test_every_protocol_and_topic_in_the_source_has_a_decoder_here() -> None:
    text = sources()
    said = set(_OURS.findall(text)) | set(_TOPIC.findall(text))
    assert len(said) >= 8, "the source is read as it is written"
    assert said <= entries(), "give tests/fuzz/decoders.py an entry for each of these"


async def test_every_protocol_that_a_host_serves_has_an_entry() -> None:
    async with open_hosts(1, network="lorikeet-devnet") as (host,):
        await host.gossip.subscribe("adapters", lambda data, from_peer: Verdict.ACCEPT)
        served = set(host._library.protocols_served())
    assert dht_protocol("lorikeet-devnet") in served
    assert served - entries() == set()


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda one: one.name)
async def test_what_is_spoilt_here_was_valid_before(decoder: Decoder) -> None:
    """Else everything would be refused at the door, and nothing be tried."""
    num_read = 0
    for data in decoder.valid():
        try:
            value = decoder.read(data)
            value = await value if inspect.isawaitable(value) else value
        except decoder.errors:
            continue
        num_read += 1
        if decoder.write is not None:
            assert decoder.write(value) == data
    assert num_read * 2 >= len(decoder.valid()) or decoder.name == "WebSocket, answered"


@pytest.mark.parametrize("finding", list(kept()), ids=lambda one: f"{one.decoder}: {one.what[:50]}")
async def test_what_once_went_wrong_stays_mended(finding: Finding) -> None:
    again = await try_input(NAMED[finding.decoder], finding.data, finding.seed)
    assert again is None, str(again)


async def test_spoilt_messages_are_read_or_refused() -> None:
    found = await Fuzzer(SEED).run(SECONDS)
    assert not found, "\n".join(["scripts/fuzz keeps these as vectors:", *map(str, found)])


async def test_a_decoder_that_errs_is_caught() -> None:
    """Four ways of going wrong, each of which the search must see."""

    def deep(data: bytes) -> object:
        return [deep(data[1:])] if data[:1] == b"x" else None

    wrong = {
        "raised": lambda data: data[1000],
        "other bytes": lambda data: data.lower(),
        "MiB of memory": lambda data: bytes(64 << 20),
        "RecursionError": lambda data: deep(b"x" * 5000),
    }
    for what, read in wrong.items():
        write = bytes if what == "other bytes" else None
        bad = Decoder(what, read, (ValueError,), lambda: [b"ABC"], write=write)
        found = await Fuzzer(1, [bad]).run(0.3)
        assert any(what in one.what for one in found), (what, found)


def test_a_seed_gives_the_same_inputs_again() -> None:
    for decoder in DECODERS:
        seeds = decoder.valid()
        once, again = (
            [spoil(random.Random(number), seeds, decoder.form) for number in range(5)]
            for _ in range(2)
        )
        assert once == again


def test_the_library_s_own_protocols_have_conversations() -> None:
    assert all(isinstance(make(), list) for make in LIBRARY.values())
