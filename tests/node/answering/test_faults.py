"""What happens when somebody vanishes, does not pay, or an engine dies in mid-answer."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from engine.messages import Choosing
from node.answering import service
from node.answering.remote import Call
from node.api.answers import CompletionEvent, CompletionRequest, Continued, Delta, Ended, Started
from node.config import CONFIG_FILE, dump_config
from node.daemon import NodeDaemon
from node.errors import NodeCheated, NodeError, NodeRefused, NodeVanished
from node.wire.channels import PayeeChannel, PayerChannel, Payment
from node.wire.client_session import ClientSession
from node.wire.metering import Deal
from p2p.cid import Cid
from proofs.receipt import Receipt
from tests.node.forked import forked_python
from tests.node.networks import Lab, ask, open_lab, serves, until
from tests.node.tiny import make_adapter

TRUE_RECEIPT = Deal.receipt


@pytest.fixture(scope="module")
def paid_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One chain for all tests of this file; each takes daemons of its own names."""
    names = tuple(f"{role} {number}" for role in ("volunteer", "gateway") for number in range(4))
    with open_lab(tmp_path_factory.mktemp("lab"), chain_for=names) as lab:
        yield lab


@asynccontextmanager
async def paid_pair(
    lab: Lab, number: int, **changes: Any
) -> AsyncIterator[tuple[NodeDaemon, NodeDaemon]]:
    """A volunteer and a gateway that know only each other."""
    lab.bootstrap = ()
    async with (
        lab.daemon(f"volunteer {number}", **changes) as volunteer,
        lab.daemon(f"gateway {number}", role="gateway") as gateway,
    ):
        yield volunteer, gateway


async def ask_until(
    daemon: NodeDaemon,
    do: Callable[[], Any],
    *,
    max_tokens: int = 900,
    seen: list[CompletionEvent] | None = None,
    **settings: Any,
) -> list[int]:
    """Begin a long answer and do something when its first tokens came; all its tokens."""
    done = False
    made: list[int] = []
    request = CompletionRequest("base", "hello", max_tokens=max_tokens, **settings)
    with trio.fail_after(60):
        async with daemon.complete(request) as events:
            async for event in events:
                if seen is not None:
                    seen.append(event)
                if isinstance(event, Delta):
                    made += event.token_ids
                    if not done:
                        done = True
                        do()
    return made


async def test_a_client_that_vanishes_signs_when_it_comes_back(
    paid_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with paid_pair(paid_lab, 0) as (volunteer, gateway):
        real = Call.next_tokens

        async def crash(self: Call) -> Any:
            tokens = await real(self)
            if self._session.num_tokens > 3:
                raise NodeError("our own crash")
            return tokens

        with monkeypatch.context() as patch:
            patch.setattr(Call, "next_tokens", crash)
            with pytest.raises(NodeError, match="our own crash"):
                await ask(gateway, max_tokens=200)
        await until(lambda: volunteer.telemetry.counters.get("clients_vanished"))
        assert await volunteer.receipts() == []
        answered = await ask(gateway, max_tokens=5)
        broken, whole = sorted(await volunteer.receipts(), key=lambda row: row.sequence)
        assert 3 < broken.tokens - 5 <= 36
        assert whole.digest == answered.ended.receipt
        assert {row.digest for row in await gateway.receipts()} == {broken.digest, whole.digest}


async def test_a_client_that_leaves_politely_pays_for_what_it_got(paid_lab: Lab) -> None:
    async with paid_pair(paid_lab, 1) as (volunteer, gateway):
        async with gateway.complete(CompletionRequest("base", "hello", max_tokens=900)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        await until(volunteer.receipts)
        (row,) = await volunteer.receipts()
        assert row.tokens < 900
        stopped = await ask(
            gateway, max_tokens=50, stop=(answer_part(await ask(gateway, max_tokens=50)),)
        )
        assert stopped.ended.reason == "stop"
        assert stopped.ended.completion_tokens < 50


def answer_part(answered: Any) -> str:
    return str(answered.text[4:6])


async def test_a_node_stops_when_it_is_not_paid(
    paid_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with paid_pair(paid_lab, 2, unpaid_deadline_s=0.5) as (volunteer, gateway):
        await ask(gateway, max_tokens=2)

        def pay_less(self: PayerChannel, key: int, limit: int) -> Payment:
            payment = real_pay(self, key, limit - 1)
            pay = type(payment.pay)(limit, payment.pay.amount, payment.pay.signature)
            return Payment(pay, payment.persist)

        real_pay = PayerChannel.pay
        with monkeypatch.context() as patch:
            patch.setattr(PayerChannel, "pay", pay_less)
            with pytest.raises(NodeRefused, match="does not cover") as refused:
                await ask(gateway, max_tokens=100)
            assert refused.value.code == "payment_required"

        def pay_once(self: ClientSession, now: float) -> None:
            """Keep the rest of the money."""
            if not self.num_tokens:
                real_ahead(self, now)

        real_ahead = ClientSession._pay
        with monkeypatch.context() as patch:
            patch.setattr(ClientSession, "_pay", pay_once)
            with pytest.raises(NodeRefused, match="no voucher came"):
                await ask(gateway, max_tokens=100)
        await ask(gateway, max_tokens=2)
        tokens = [
            row.tokens - 5
            for row in sorted(await volunteer.receipts(), key=lambda row: row.sequence)
        ]
        assert tokens == [2, 32, 2]


def bill_more(self: Deal, *told: Any) -> Receipt:
    """A receipt in which all is true but what follows of two tokens that were not sent."""
    true = TRUE_RECEIPT(self, *told)
    claimed = true.completion_tokens + 2
    amount = self.cost(claimed)
    return msgspec.structs.replace(
        true,
        completion_tokens=claimed,
        amount=amount,
        cumulative=true.cumulative - true.amount + amount,
    )


async def test_a_client_signs_nothing_that_it_did_not_count(
    paid_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with paid_pair(paid_lab, 3) as (_, gateway):
        real_draft = PayeeChannel.draft

        def draft_other(
            self: PayeeChannel, key: int, deal: Any, answer_ids: list[int], *rest: Any
        ) -> Any:
            return real_draft(self, key, deal, [*answer_ids[:-1], 7], *rest)

        with monkeypatch.context() as patch:
            patch.setattr(PayeeChannel, "draft", draft_other)
            with pytest.raises(NodeCheated, match="answer_commitment"):
                await ask(gateway, max_tokens=3)
        assert gateway.telemetry.counters["answers_rejected"] == 1

        def draft_more(self: PayeeChannel, *told: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(Deal, "receipt", bill_more)
                return real_draft(self, *told)

        stop = Choosing(1.0, logit_bias=[(2, 100.0)])
        with monkeypatch.context() as patch:
            patch.setattr(PayeeChannel, "draft", draft_more)
            with pytest.raises(NodeCheated, match="completion_tokens than this answer: 3, not 1"):
                await ask(gateway, max_tokens=8, choosing=stop)
        assert gateway.telemetry.counters["answers_rejected"] == 2
        [caught] = gateway.peers()
        assert caught.weight < 0.01
        assert caught.against == "caught 1 x at what it signed or sent", "so soon, one fault"


async def test_an_engine_killed_in_mid_answer_goes_on_when_it_is_up_again(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("volunteer") as volunteer,
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            engine = volunteer.engine
            assert engine is not None

            def kill() -> None:
                assert engine.pid is not None
                os.kill(engine.pid, signal.SIGKILL)

            warm = Choosing(1.0, presence_penalty=0.5)
            long: dict[str, Any] = {"max_tokens": 900, "choosing": warm, "seed": 3}
            whole = (await ask(volunteer, **long)).token_ids
            assert await ask_until(volunteer, kill, **long) == whole
            greedy = Choosing(0.0)
            whole = (await ask(gateway, max_tokens=900, choosing=greedy)).token_ids
            assert await ask_until(gateway, kill, choosing=greedy) == whole
            assert (await ask(gateway)).ended.completion_tokens == 8


async def test_an_answer_survives_the_death_of_its_node(tmp_path: Path) -> None:
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("bootstrap", role="bootstrap"),
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            with node_process(lab, "one") as one, node_process(lab, "two") as two:
                nodes = {peer_id: process for process, peer_id in (one, two)}
                for peer_id in nodes:
                    await until(lambda peer_id=peer_id: serves(gateway, peer_id), 90)
                greedy = Choosing(0.0, frequency_penalty=0.3)
                long: dict[str, Any] = {"max_tokens": 900, "choosing": greedy}
                whole = await ask(gateway, **long)
                seen: list[CompletionEvent] = []

                def kill() -> None:
                    assert isinstance(seen[0], Started)
                    nodes[seen[0].served_by].kill()

                made = await ask_until(gateway, kill, seen=seen, **long)
            assert made == whole.token_ids
            (moved,) = (event for event in seen if isinstance(event, Continued))
            assert isinstance(seen[0], Started)
            assert moved.served_by != seen[0].served_by
            assert 0 < moved.after_tokens < len(made)
            assert isinstance(seen[-1], Ended)
            assert seen[-1].completion_tokens == len(made)


async def test_an_adapter_whose_files_broke_is_fetched_again_from_whoever_has_it(
    tmp_path: Path,
) -> None:
    with open_lab(tmp_path) as lab:
        async with lab.daemon("keeper", role="gateway") as keeper:
            async with lab.daemon("volunteer") as volunteer:
                info = await volunteer.push(make_adapter(tmp_path / "law", "law", 1))
                await keeper.pull(info.cid)
                expected = (await ask(volunteer, model="law")).token_ids
                home = lab.config("volunteer").home
                [weights] = home.rglob("adapters/*/adapter_model.safetensors")
                whole = weights.read_bytes()
                weights.write_bytes(whole[:-100])
                engine = volunteer.engine
                assert engine is not None
                assert engine.pid is not None
                os.kill(engine.pid, signal.SIGKILL)
                await until(
                    lambda: not engine.serves(Cid.parse(info.cid).digest)
                )  # the engine that came up in its place refuses them
                assert (await ask(volunteer, model="law")).token_ids == expected
                assert weights.read_bytes() == whole
                weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            async with lab.daemon("volunteer") as volunteer:
                assert (await ask(volunteer, model=info.cid)).token_ids == expected
                assert weights.read_bytes() == whole


async def test_a_node_killed_in_mid_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RESUME_DEADLINE_S", 1.0)
    with open_lab(tmp_path) as lab:
        async with (
            lab.daemon("bootstrap", role="bootstrap"),
            lab.daemon("gateway", role="gateway") as gateway,
        ):
            with node_process(lab, "victim") as (process, peer_id):
                await until(lambda: serves(gateway, peer_id))
                with pytest.raises(NodeVanished, match=peer_id):
                    await ask_until(gateway, process.kill, node=peer_id)
            with trio.fail_after(60), pytest.raises(NodeVanished):
                await ask(gateway, node=peer_id)


class node_process:  # noqa: N801
    """`python -m node up` in its own process."""

    def __init__(self, lab: Lab, name: str) -> None:
        config = lab.config(name, http_port=0)
        config.home.mkdir(parents=True, exist_ok=True)
        (config.home / CONFIG_FILE).write_text(dump_config(config))
        self.peer_id = lab.identity(name).peer_id
        self.command = [forked_python(), "-m", "node", "up", "--home", str(config.home)]

    def __enter__(self) -> tuple[subprocess.Popen[bytes], str]:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self.process, self.peer_id

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
