"""`from node.client import Client`: asks real daemons, believes no receipt, starts a gateway."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.api.answers import MixedIn
from node.client import (
    Answer,
    AsyncClient,
    Client,
    ClientError,
    FalseReceipt,
    Heard,
    Patience,
    check_receipt,
    question,
)
from node.config import Config, dump_config
from node.errors import EngineBusy
from tests.node.faces import shown
from tests.node.networks import open_lab
from tests.node.twin import WORDS, Twin, serve_twin


def test_a_question_says_what_was_said_and_no_more() -> None:
    body = question("law", "Hello?", {"max_tokens": 3, "node": "16Uiu2", "private": True})
    assert body["messages"] == [{"role": "user", "content": "Hello?"}]
    assert body["lorikeet"] == {"node": "16Uiu2", "private": True}
    assert "node" not in body
    assert body["max_tokens"] == 3
    assert "lorikeet" not in question("law", [{"role": "user", "content": "Hello?"}], {})


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    heard = Heard("law")
    heard.take('data: {"choices": [{"delta": {"content": "Half"}, "finish_reason": null}]}')
    with pytest.raises(ClientError, match="mid-answer") as caught:
        heard.finish(None)
    assert caught.value.text == "Half"


def test_an_answer_that_went_on_elsewhere_names_all_who_served_it() -> None:
    heard = Heard("law")
    heard.take('data: {"choices": [], "lorikeet": {"served_by": "first", "adapter": "law@1"}}')
    heard.take('data: {"choices": [], "lorikeet": {"continued": [{"served_by": "second"}]}}')
    heard.take("data: [DONE]")
    answer = heard.finish(None)
    assert answer.served_by == ("first", "second")
    assert answer.model == "law@1"


def test_patience_ends_and_is_for_what_passes_alone() -> None:
    busy = ClientError("no room", "busy")
    patience = Patience(60.0)
    assert [patience.pause_after(busy) for _ in range(5)] == [0.25, 0.5, 1.0, 2.0, 2.0]
    for error in (ClientError("no", "bad_request"), ClientError("", "busy", text="Half")):
        with pytest.raises(ClientError):
            patience.pause_after(error)
    with pytest.raises(ClientError):
        Patience(0.1).pause_after(busy)


async def test_the_same_under_trio_and_asyncio_and_in_a_thread() -> None:
    """The twin gives a receipt that is none, which a client must not believe."""

    async def by_asyncio(url: str) -> list[str]:
        async with AsyncClient(url=url) as client, client.stream("law", "Hello?") as stream:
            texts = []
            with pytest.raises(FalseReceipt):
                async for text in stream:
                    texts.append(text)
            return texts

    def by_thread(url: str) -> None:
        with Client(url=url) as client:
            assert [one.name for one in client.adapters()] == ["law"]
            with pytest.raises(ClientError) as caught:
                client.ask("nonsense", "Hello?")
            assert caught.value.code == "model_not_found"
            with pytest.raises(FalseReceipt) as false:
                client.ask("law", "Hello?", max_tokens=2)
            assert false.value.text == "The court"

    async with serve_twin(Twin(parents=(MixedIn("law", "bafkreilaw", 1.0),))) as url:
        async with AsyncClient(url=url) as client:
            with pytest.raises(FalseReceipt):
                await client.ask("law", "Hello?")
        texts = await trio.to_thread.run_sync(lambda: asyncio.run(by_asyncio(url)))
        assert texts == list(WORDS)
        await trio.to_thread.run_sync(by_thread, url)


async def test_a_node_without_room_is_asked_again(autojump_clock) -> None:
    twin = Twin(error=EngineBusy("no room"))
    async with serve_twin(twin) as url, AsyncClient(url=url, patience_s=60.0) as client:
        async with trio.open_nursery() as nursery:

            async def make_room() -> None:
                while len(twin.asked) < 3:  # noqa: ASYNC110
                    await trio.sleep(0.1)
                twin.error = None

            nursery.start_soon(make_room)
            async with client.stream("law", "Hello?") as stream:
                with pytest.raises(FalseReceipt):
                    [text async for text in stream]
        assert len(twin.asked) >= 4


async def test_an_answer_is_paid_and_its_receipt_is_of_it_alone(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("volunteer", "gateway")) as lab:
        async with lab.daemon("volunteer") as node, lab.daemon("gateway", role="gateway") as asker:
            home = tmp_path / "gateway"
            async with shown(asker, home), AsyncClient(home) as client:
                await check_answers(client, node.host.peer_id)


async def check_answers(client: AsyncClient, node: str) -> None:
    first = await client.ask("base", "hello", max_tokens=6, node=node)
    assert first.served_by == (node,)
    assert first.receipt is not None
    assert first.receipt.amount == first.amount > 0
    assert first.receipt.completion_tokens == first.completion_tokens
    second = await client.ask("base", "hello again", max_tokens=4)
    assert second.receipt is not None
    assert second.receipt.sequence == first.receipt.sequence + 1
    status = await client.status()
    data = await client._get(f"receipts/{first.receipt_digest}")
    assert check_receipt(data, status, first) == first.receipt
    settlement = status.settlement or {}
    for wrong in false_answers(first, second):
        with pytest.raises(FalseReceipt):
            check_receipt(data, status, wrong)
    with pytest.raises(FalseReceipt):
        check_receipt(data, replace(status, settlement={**settlement, "chain_id": 1}), first)
    with pytest.raises(FalseReceipt):
        check_receipt(data[:-1], status, first)


def false_answers(first: Answer, second: Answer) -> list[Answer]:
    return [
        second,
        replace(first, amount=first.amount - 1),
        replace(first, prompt_tokens=first.prompt_tokens + 1),
        replace(first, completion_tokens=first.completion_tokens + 1),
        replace(first, served_by=("16Uiu2HAm5aLk4e5sJV3Gt3ueBBjRKpzdSx8fAGzYHe6hVQKh1npX",)),
        replace(first, served_by=("nobody",)),
    ]


async def test_without_a_daemon_a_gateway_is_started_and_ends_with_the_block(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("volunteer"):
            home = tmp_path / "mine"
            with pytest.raises(ClientError, match="knows no network"):
                async with AsyncClient(home):
                    pass
            home.mkdir()
            config: Config = lab.config("mine", role="gateway")
            (home / "lorikeet.toml").write_text(dump_config(config))
            async with AsyncClient(home, patience_s=60.0) as client:
                assert (await client.status()).role == "gateway"
                answer = await client.ask("base", "hello", max_tokens=3)
                assert 1 <= answer.completion_tokens <= 3
                assert answer.receipt is None
                async with AsyncClient(home) as another:  # takes the one that runs
                    assert (await another.status()).peer_id == (await client.status()).peer_id
            assert not (home / "daemon.json").exists()
