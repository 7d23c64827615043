"""A browser as a client of real nodes: the whole way of a question, in a real Chromium."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.answers import ChatMessage
from node.daemon import NodeDaemon
from node.http.server import listen, url_of
from node.http.web import serve_web
from p2p.cid import Cid
from proofs.attribution.background import Background
from proofs.attribution.credit import credit
from proofs.attribution.index import Index
from proofs.attribution.ladder import measure
from proofs.attribution.tokens import read_tokens
from proofs.manifest import parse_manifest
from proofs.receipt import decode_body, decode_receipt
from tests.node.answering.test_drawn_among_daemons import GREEDY, TOKENS, with_texts
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.tiny import make_adapter
from tests.page.browser import BROWSER, DEADLINE_S, needs_browser
from tests.proofs.chain.engines import ENGINES

HERE = Path(__file__).parent


async def play(scene: str, url: str, *more: str) -> dict[str, Any]:
    """Play a scene; its figures."""
    assert BROWSER is not None
    node, chromium = BROWSER
    with trio.fail_after(DEADLINE_S):
        done = await trio.run_process(
            [node, "scenes.mjs", scene, url, *more],
            cwd=HERE,
            env={**os.environ, "LORIKEET_CHROMIUM": chromium},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@asynccontextmanager
async def open_page(
    lab: Lab, name: str = "volunteer", **changes: Any
) -> AsyncIterator[tuple[NodeDaemon, str]]:
    """A volunteer with a page for everybody's browser, and where that is."""
    sock = listen("127.0.0.1", 0)
    place = f"127.0.0.1:{sock.getsockname()[1]}"
    async with (
        trio.open_nursery() as nursery,
        lab.daemon(name, web_listen=place, **changes) as volunteer,
    ):
        nursery.start_soon(serve_web, volunteer, sock, None, volunteer.bank)
        yield volunteer, url_of(sock)
        nursery.cancel_scope.cancel()


async def push_with_texts(volunteer: NodeDaemon, folder: Path) -> tuple[Index, Background]:
    """Push an adapter whose answers stand in what two people wrote; their index, and what is
    nobody's.
    """
    make_adapter(folder, "law", 5)
    cid = Cid.parse((await volunteer.push(folder)).cid)
    prompt = (ChatMessage("user", "May the President pardon?"),)  # as the page will ask
    answered = await ask(volunteer, prompt, model=str(cid), max_tokens=TOKENS, choosing=GREEDY)
    manifest = parse_manifest(await volunteer.block(cid.digest.hex()))
    tokens, background = with_texts(folder, manifest.tokenizer_hash, answered.token_ids)
    await volunteer.push(folder)
    return Index.build(read_tokens(tokens)), Background.build(read_tokens(background))


async def tell_when_measuring(volunteer: NodeDaemon, told: Path) -> None:
    """Make a file once the node can say what an answer draws on: after its first question."""
    await until(lambda: "indexes_opened" in volunteer.telemetry.counters, DEADLINE_S)
    await trio.Path(told).touch()


@needs_browser
async def test_a_browser_finds_an_adapter_by_its_name_and_is_answered(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with open_page(lab) as (volunteer, url):
            await volunteer.push(make_adapter(tmp_path / "law", "law", 5))
            figures = await play("free", url)
    assert figures["tokens"] > 0
    assert figures["finish"]["receipt"] is None


@needs_browser
async def test_a_browser_pays_as_tokens_come_and_what_broke_off_is_settled_when_it_is_back(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "wallet")) as lab:
        async with open_page(lab) as (volunteer, url):
            index, background = await push_with_texts(volunteer, tmp_path / "law")
            told = tmp_path / "measuring"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_when_measuring, volunteer, told)
                secret = lab.identity("wallet").secret.hex()
                figures = await play("paid", url, secret, str(told))
            receipts = await volunteer.receipts()
            (broken,) = [one for one in receipts if one.sequence == 2]
            shown = await volunteer.receipt(broken.digest)
            (whole,) = [one for one in receipts if one.sequence == 3]
            settled = decode_body(decode_receipt(await volunteer.receipt(whole.digest)).body)
    said = figures["said"]
    bits = measure(index, background, said["before"], said["ids"]).bits
    assert settled.drawn == (credit(bits, 8, 32),)
    assert sum(one["amount"] for one in figures["split"]) == whole.amount
    assert sorted(one.sequence for one in receipts) == [1, 2, 3]
    assert all(one.is_cosigned for one in receipts)
    body = decode_body(decode_receipt(shown).body)
    assert 0 < body.completion_tokens <= 32  # what was paid ahead, and no more
    spent = sum(one.amount for one in receipts)
    assert spent == figures["spent"] + broken.amount
    assert figures["back"] == f"{(50_000 - spent) / 1_000_000:.6f} DEVUSD"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("anvil", ENGINES)
async def test_a_channel_comes_back_by_the_wallet_alone_and_the_chain_has_counted_the_money(
    anvil: str | None, tmp_path: Path
) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "wallet"), anvil=anvil) as lab:
        assert lab.chain is not None
        secret = lab.identity("wallet").secret
        chain = lab.chain.client(secret)
        had = chain.token.balance_of(chain.address)
        async with open_page(lab) as (volunteer, url):
            await volunteer.push(make_adapter(tmp_path / "law", "law", 5))
            figures = await play("alone", url, secret.hex(), lab.chain.rpc)
            spent = sum(one.amount for one in await volunteer.receipts())
            (channel,) = await volunteer.channels()
            state = chain.channels.read(bytes.fromhex(channel.channel))
        has = chain.token.balance_of(chain.address)
        chain.close()
    assert spent == figures["spent"] > 0
    assert figures["back"] == f"{(50_000 - spent) / 1_000_000:.6f} DEVUSD"
    assert had - has == spent  # the rest is the wallet's again
    assert state.balance == state.total_claimed == spent  # and this the node's


@needs_browser
async def test_an_answer_goes_on_at_another_node_when_the_first_is_lost(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with open_page(lab) as (_, url), open_page(lab, "other") as (_, other):
            figures = await play("failover", url, other)
    assert 2 < figures["after"] < figures["tokens"]
