"""Which of three real nodes is asked: the warm one, the idle one, the cheap one, the honest one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from engine.messages import Choosing, Sampling
from node.answering import quoting
from node.daemon import NodeDaemon
from node.wire.quote import PROTOCOL, AskQuote, FromNode, Quote, decode_answer, encode
from p2p.cid import Cid
from p2p.errors import P2pError
from tests.node.networks import Lab, ask, open_lab, until
from tests.node.tiny import make_adapter

NAMES = ("a", "b", "c")


@dataclass
class Three:
    """A client and three nodes that all provide one adapter, or the base."""

    client: NodeDaemon
    nodes: dict[str, NodeDaemon]
    law: Cid
    adapter: Path

    async def served_by(self, model: str = "law", **changes: object) -> str:
        answered = await ask(self.client, model=model, **changes)
        return next(
            name
            for name, node in self.nodes.items()
            if node.host.peer_id == answered.started.served_by
        )

    async def quote_of(self, name: str, adapter: bytes | None = None) -> FromNode:
        wanted = AskQuote(
            bytes.fromhex((await self.client.status()).base.split()[-1]),
            self.law.digest if adapter is None else adapter,
            [],
            prompt_tokens=5,
            max_tokens=8,
            prompt_price=100,
            completion_price=500,
        )
        return await ask_quote(self.client, self.nodes[name], wanted)

    async def are_provided(self, model: str, *names: str) -> None:
        """Wait until the network names these nodes."""
        base = (await self.client.status()).base.split()[-1]
        cid = Cid(bytes.fromhex(base)) if model == "base" else self.law
        wanted = {self.nodes[name].host.peer_id for name in names}

        async def are_named() -> bool:
            found = await self.client.host.dht.find_providers(cid)
            return wanted <= {each.peer_id for each in found}

        await until(are_named, 60)


async def ask_quote(client: NodeDaemon, node: NodeDaemon, wanted: AskQuote) -> FromNode:
    await client.host.connect(node.host.addresses[0], 60)
    async with client.host.open_stream(node.host.peer_id, PROTOCOL, 60) as stream:
        await stream.send(encode(wanted), 60)
        return decode_answer(await stream.receive(60))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_lab(tmp_path) as made:
        yield made


@asynccontextmanager
async def three(lab: Lab, **prices: int) -> AsyncIterator[Three]:
    """`prices`: what a token costs at a node, by its name; the others take 10 and 50."""
    creator = lab.identity("a").peer_id
    async with (
        lab.daemon("a", publishers=(creator,), **priced(prices, "a")) as a,
        lab.daemon("b", publishers=(creator,), **priced(prices, "b")) as b,
        lab.daemon("c", publishers=(creator,), **priced(prices, "c")) as c,
        lab.daemon("client", role="gateway", publishers=(creator,)) as client,
    ):
        folder = make_adapter(lab.folder / "law", "law", 5)
        info = await a.push(folder)
        nodes = dict(zip(NAMES, (a, b, c), strict=True))
        yield Three(client, nodes, Cid.parse(info.cid), folder)


def priced(prices: dict[str, int], name: str) -> dict[str, int]:
    price = prices.get(name)
    return {} if price is None else {"prompt_price": price, "completion_price": price}


async def test_a_node_says_where_an_adapter_is_and_what_it_is_at(lab: Lab) -> None:
    async with three(lab) as net:
        await net.nodes["b"].pull("law")
        found = {name: await net.quote_of(name) for name in NAMES}
        assert [type(each) for each in found.values()] == [Quote] * 3
        assert [each.residency for each in found.values()] == ["memory", "memory", "absent"]
        assert await net.served_by(node=net.nodes["b"].host.peer_id) == "b"
        warm = await net.quote_of("b")
        assert isinstance(warm, Quote)
        assert (warm.residency, warm.fetch_bytes, warm.running) == ("slot", None, 0)
        assert (warm.prompt_price, warm.completion_price) == (0, 0), "there is no chain"
        absent = await net.quote_of("c")
        assert isinstance(absent, Quote)
        size = next(one for one in await net.nodes["c"].adapters() if one.name == "law").size_bytes
        assert absent.fetch_bytes == size
        assert absent.first_token_ms > warm.first_token_ms
        stranger = await net.quote_of("c", adapter=b"?" * 32)
        assert isinstance(stranger, Quote)
        assert (stranger.residency, stranger.fetch_bytes) == ("absent", None)
        base = await net.quote_of("c", adapter=bytes(32))
        assert isinstance(base, Quote)
        assert base.residency == "slot"


async def test_of_three_the_warm_one_answers_and_once_it_is_busy_another(lab: Lab) -> None:
    async with three(lab) as net:
        await net.nodes["b"].pull("law")
        assert await net.served_by(node=net.nodes["b"].host.peer_id) == "b"
        # the files of `a` must be read again, and `c` would fetch them
        a = net.nodes["a"]
        assert a.engine is not None
        a.engine.release(net.law.digest)
        a.engine.load_now.load_ms.value = 120.0  # its disk is slow, and to fetch it is slower
        c = net.nodes["c"]
        assert c.engine is not None
        c.engine.load_now.find_ms.value = 2000.0
        await net.are_provided("law", "a", "b")
        found = {name: await net.quote_of(name) for name in NAMES}
        assert [each.residency for each in found.values()] == ["disk", "slot", "absent"]
        assert {await net.served_by() for _ in range(4)} == {"b"}

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(hold_open, net, "b", nursery.cancel_scope)

            async def is_busy() -> bool:
                quote = await net.quote_of("b")
                return isinstance(quote, Quote) and quote.running == 12

            await until(is_busy)
            await trio.sleep(2.1)  # what was quoted before is not fresh any more
            await net.served_by()
            assert await net.served_by() == "a"
            nursery.cancel_scope.cancel()


async def hold_open(net: Three, name: str, scope: trio.CancelScope) -> None:
    """Have a node make a long answer, slowly read."""
    node = net.nodes[name]
    assert node.engine is not None
    async with node.engine.generate(
        [5, 6, 7], None, Sampling(bytes(32), Choosing()), 1500, credit=2, stop_ids=[]
    ) as run:
        async for _ in run:
            pass


async def test_a_dear_node_is_left_alone(tmp_path: Path) -> None:
    names = (*NAMES, "client")
    with open_lab(tmp_path, chain_for=names) as lab:
        async with three(lab, a=90, b=40, c=90) as net:
            await net.are_provided("base", *NAMES)
            served = [await net.served_by("base") for _ in range(8)]
            assert served.count("b") >= 6, "on a busy machine a quote may come too late"
            row = (await net.nodes["b"].receipts())[0]
            assert row.amount == 40 * (5 + 8), "what was quoted was paid"


async def test_a_liar_about_residency_is_left_after_few_answers(lab: Lab) -> None:
    async with three(lab) as net:
        await net.nodes["b"].pull("law")
        await net.are_provided("law", "a", "b")

        async def lie(stream: object) -> None:
            await stream.receive(60)  # type: ignore[attr-defined]
            quote = Quote(
                "slot",
                None,
                0,
                0,
                tokens_outstanding=0,
                prompt_price=0,
                completion_price=0,
                first_token_ms=0,
                stands_ms=10_000,
                answers=64,
            )
            await stream.send(encode(quote), 60)  # type: ignore[attr-defined]

        liar = net.nodes["a"]
        liar.host.serve(PROTOCOL, lie)
        assert liar._catalogue is not None
        hold_guest = type(liar._catalogue).hold_guest

        async def hold_slowly(catalogue: object, cid: Cid) -> object:
            if catalogue is liar._catalogue:
                await trio.sleep(1.0)
            return await hold_guest(catalogue, cid)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(liar._catalogue), "hold_guest", hold_slowly)
            served = []
            for _ in range(5):
                served.append(await net.served_by())
                await trio.sleep(2.1)
        assert served.count("a") <= 2, served
        assert served[-2:] == ["b", "b"], served


async def test_a_peer_that_asks_too_often_or_says_what_is_no_question_is_cut_off(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quoting, "QUOTES_PER_SECOND", 0.1)  # however slowly it asks
    async with (
        lab.daemon("node") as node,
        lab.daemon("client", role="gateway") as client,
    ):
        wanted = AskQuote(b"?" * 32, bytes(32), [], 1, 1, prompt_price=0, completion_price=0)
        heard = [type(await ask_quote(client, node, wanted)).__name__]
        with pytest.raises(P2pError):
            async with client.host.open_stream(node.host.peer_id, PROTOCOL, 5) as stream:
                await stream.send(b"\x93junk", 60)
                await stream.receive(60)
        with pytest.raises(P2pError):
            async with client.host.open_stream(node.host.peer_id, PROTOCOL, 5) as stream:
                await stream.send(bytes(300), 60)
                await stream.receive(60)
        assert [each.what for each in node.telemetry.rejections] == ["message", "message"]
        with pytest.raises(P2pError):
            for _ in range(200):
                heard.append(type(await ask_quote(client, node, wanted)).__name__)
        assert set(heard) == {"NoQuote"}
        assert len(heard) >= 38
        with trio.fail_after(60):
            answered = await ask(client)
        assert answered.ended.completion_tokens == 8
