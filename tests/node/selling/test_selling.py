"""A node sells answers over HTTP: who pays gets them, and what they cost becomes an ordinary
receipt; who does not, or not rightly, gets nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from eth_account import Account

from node.answering.selling import _SoldCall
from node.doctor.running import examine_selling
from node.errors import EngineFailed
from proofs.hextext import to_hex
from proofs.signing import Signer
from tests.node.networks import Lab, open_lab, until
from tests.node.selling.shop import CHAT, PROMPT, payer, selling, told
from tests.node.tiny import make_adapter

pytest.importorskip("x402.mechanisms.evm.batch_settlement")

from x402 import x402Client
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme
from x402.mechanisms.evm.signers import EthAccountSignerWithRPC

REFUSED = "invalid_batch_settlement_evm_"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One chain for all tests of this file; each takes a volunteer of its own."""
    names = (
        *(f"volunteer {number}" for number in range(4)),
        "buyer",
        "stranger",
        "other",
        "aggregator",
    )
    with open_lab(tmp_path_factory.mktemp("lab"), chain_for=names) as lab:
        yield lab


async def test_the_official_python_client_pays_unchanged(lab: Lab) -> None:
    assert lab.chain is not None
    lab.bootstrap = ()
    everybody = {
        "aggregator": lab.identity("aggregator").peer_id,
        "watch_interval_s": 0.5,
        "grace_s": 1.0,
    }
    async with (
        lab.daemon("aggregator", role="aggregator", **everybody) as aggregator,
        selling(lab, "volunteer 0", **everybody) as (daemon, url),
    ):
        creator = lab.folder / "other" / "key"
        law = await daemon.push(make_adapter(lab.folder / "law", "law", 1), creator)
        signer = EthAccountSignerWithRPC(
            Account.from_key(lab.identity("buyer").secret), lab.chain.rpc
        )
        official = x402Client().register("eip155:31337", BatchSettlementEvmScheme(signer))
        official.set_spend_controls(False)  # it knows no development chain's dollar
        async with httpx.AsyncClient(
            base_url=url, transport=x402AsyncTransport(official), timeout=60
        ) as client:
            first = await client.post(CHAT, json=PROMPT | {"model": law.cid})
            assert first.status_code == 200, first.text
            facts = first.json()["lorikeet"]
            paid = told(first, "payment-response")
            assert paid["success"]
            assert int(paid["extra"]["chargedAmount"]) == facts["amount"] > 0
            served = paid["extensions"]["offer-receipt"]["info"]["receipt"]
            assert served["payload"]["payer"] == to_hex(lab.address("buyer"))
            second = await client.post(CHAT, json=PROMPT | {"max_tokens": 5})
            assert told(second, "payment-response")["transaction"] == ""
            streamed = []
            for _ in range(2):  # the second time it hears from a 402 what the first one cost
                async with client.stream("POST", CHAT, json=PROMPT | {"stream": True}) as third:
                    assert third.status_code == 200
                    lines = [line async for line in third.aiter_lines() if line]
                assert lines[-1] == "data: [DONE]"
                streamed.append(json.loads(lines[-2].removeprefix("data: "))["lorikeet"]["amount"])
        rows = await daemon.receipts()
        cost = [facts["amount"], second.json()["lorikeet"]["amount"], *streamed]
        assert [row.amount for row in rows][::-1] == cost
        assert rows[-1].digest == facts["receipt"]
        (channel,) = await daemon.channels()
        assert (channel.spent, channel.state) == (sum(cost), "open")

        async def is_settled() -> bool:
            credited = {row.address: row.credited for row in await aggregator.earnings()}
            creators = credited.get(to_hex(lab.address("other")), 0)
            return 0 < creators < facts["amount"] and sum(credited.values()) == sum(cost)

        await until(is_settled)


async def test_what_is_not_paid_rightly_is_refused_and_nothing_is_served(lab: Lab) -> None:
    lab.bootstrap = ()
    async with (
        selling(lab, "volunteer 1") as (daemon, url),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        stranger = await payer(lab, client, "stranger", PROMPT)
        amount = int(stranger.accepted["amount"])
        other = Signer(lab.identity("other").secret)

        async def pay(payload: dict[str, Any], **accepted: Any) -> httpx.Response:
            return await client.post(
                CHAT, json=PROMPT, headers=stranger.header(payload, **accepted)
            )

        misfit = stranger.payload(config={"salt": bytes(32)})["voucher"]
        for reason, payload in {
            "cumulative_exceeds_balance": stranger.payload(),
            "voucher_signature": stranger.payload(signer=other),
            "cumulative_amount_mismatch": stranger.payload(amount=amount - 1),
            "channel_id_mismatch": stranger.payload() | {"voucher": misfit},
            "receiver_mismatch": stranger.payload(config={"receiver": bytes([1]) * 20}),
            "receiver_authorizer_mismatch": stranger.payload(
                config={"receiver_authorizer": stranger.signer.address}
            ),
            "token_mismatch": stranger.payload(config={"token": bytes([1]) * 20}),
            "withdraw_delay_mismatch": stranger.payload(config={"withdraw_delay": 900}),
            "deposit_below_min_deposit": stranger.payload(deposit=1),
            "deposit_transaction_failed": stranger.payload(config={"payer": other.address})
            | {"type": "deposit", "deposit": stranger.deposit(stranger.config, 50_000)},
        }.items():
            refused = await pay(payload)
            assert refused.status_code == 402, (reason, refused.text)
            said = told(refused, "payment-required")
            assert said["error"] == REFUSED + reason
            assert said["accepts"][0]["amount"] == str(amount)
        for accepted in ({"network": "eip155:1"}, {"scheme": "exact"}):
            assert (await pay(stranger.payload(), **accepted)).status_code == 400
        for text in ("!!", "e30=", "bnVsbA==", "W1tbW1s=", "AAAA", "a" * 12_000):
            bad = await client.post(CHAT, json=PROMPT, headers={"payment-signature": text})
            assert bad.status_code == 400, text
        huge = await client.post(CHAT, json=PROMPT, headers={"payment-signature": "a" * 40_000})
        assert huge.status_code == 400
        dear = await client.post(CHAT, json=PROMPT | {"max_tokens": 4_000})
        assert dear.status_code in (400, 402)
        for body in ({"n": 2}, {"lorikeet": {"node": "12D3KooW"}}, {"model": "nobody"}):
            assert (await client.post(CHAT, json=PROMPT | body)).status_code in (400, 404)
        assert (await client.get("/lorikeet/v1/status")).status_code == 404
        assert (await client.post("/v1/models")).status_code == 404
        assert daemon.telemetry.counters.get("tokens_sold", 0) == 0
        assert await daemon.receipts() == []


async def test_a_payment_buys_one_answer_and_a_client_that_leaves_pays_for_what_was_made(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    real = _SoldCall.next_tokens
    go_on = trio.Event()

    async def slowly(self: _SoldCall) -> Any:
        if len(self.sent) >= 3:
            await go_on.wait()
        return await real(self)

    async with (
        selling(lab, "volunteer 2") as (daemon, url),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        stranger = await payer(lab, client, "stranger", PROMPT)
        amount = int(stranger.accepted["amount"])
        opening = stranger.header(stranger.payload(deposit=200_000))
        first = await client.post(CHAT, json=PROMPT, headers=opening)
        assert first.status_code == 200, first.text
        stranger.charged = int(told(first, "payment-response")["extra"]["chargedAmount"])
        assert 0 < stranger.charged <= amount

        # The same header again, whatever it is asked for, buys nothing, and neither moves money.
        for again in (opening, stranger.header(stranger.payload(amount=amount))):
            replayed = await client.post(CHAT, json=PROMPT, headers=again)
            said = told(replayed, "payment-required")
            assert said["error"] == REFUSED + "cumulative_amount_mismatch"
            state = said["accepts"][0]["extra"]
            assert state["channelState"]["chargedCumulativeAmount"] == str(stranger.charged)
            assert state["voucherState"]["signedMaxClaimable"] == str(amount)
        usage = await client.get("/v1/usage/0x" + stranger.channel.hex())
        assert usage.json()["chargedCumulativeAmount"] == str(stranger.charged)
        assert usage.json()["balance"] == "200000"

        # While one answer comes, another is not paid by the same channel; who leaves pays the part.
        monkeypatch.setattr(_SoldCall, "next_tokens", slowly)
        paying = stranger.header(stranger.payload())
        streaming = PROMPT | {"stream": True}
        async with await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])) as left:
            request = client.build_request("POST", CHAT, json=streaming, headers=paying)
            await left.send_all(as_sent(request))
            heard = b""
            while b"data: " not in heard:
                heard += await left.receive_some()
            assert b"200" in heard.splitlines()[0]
            beside = await client.post(CHAT, json=PROMPT, headers=paying)
            assert told(beside, "payment-required")["error"] == REFUSED + "channel_busy"
        await until(lambda: daemon.telemetry.counters.get("answers_sold") == 2)
        part, whole = await daemon.receipts()
        assert part.tokens - whole.tokens < 0 < part.amount
        stranger.charged += part.amount

        # A fault of the engine costs nothing, and the same voucher pays for the next try.
        async def fail(self: _SoldCall) -> Any:
            if self.sent:
                raise EngineFailed("our fault")
            return await real(self)

        monkeypatch.setattr(_SoldCall, "next_tokens", fail)
        paying = stranger.header(stranger.payload())
        failed = await client.post(CHAT, json=PROMPT, headers=paying)
        assert failed.status_code == 500
        assert told(failed, "payment-response")["extra"]["chargedAmount"] == "0"
        monkeypatch.undo()
        third = await client.post(CHAT, json=PROMPT, headers=paying)
        assert third.status_code == 200
        stranger.charged += int(told(third, "payment-response")["extra"]["chargedAmount"])

        # The rest is given back on the payer's word, and not twice; then nothing is left to pay.
        wanting = stranger.header(stranger.payload(type="refund", amount=stranger.charged))
        back = await client.get(CHAT, headers=wanting)
        assert back.status_code == 200, back.text
        assert told(back, "payment-response")["amount"] == str(200_000 - stranger.charged)
        again = await client.get(CHAT, headers=wanting)
        assert told(again, "payment-required")["error"] == REFUSED + "refund_no_balance"
        empty = await client.post(CHAT, json=PROMPT, headers=stranger.header(stranger.payload()))
        assert told(empty, "payment-required")["error"] == REFUSED + "cumulative_exceeds_balance"
        assert sum(row.amount for row in await daemon.receipts()) == stranger.charged
        stranger.chain.close()


def as_sent(request: httpx.Request) -> bytes:
    """A request as it goes over a socket."""
    lines = [f"{request.method} {request.url.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.content


async def test_a_channel_that_is_being_withdrawn_pays_no_answer(lab: Lab) -> None:
    lab.bootstrap = ()
    async with (
        selling(lab, "volunteer 3") as (daemon, url),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client,
    ):
        said = await examine_selling(replace(daemon.config, sell=url.removeprefix("http://")))
        assert (said.part, said.state) == ("selling", "ok")
        assert (await examine_selling(daemon.config)).state == "wrong", "nobody answers at port 0"
        prices = (await client.get("/v1/prices")).json()
        assert prices["completion_token"] == str(daemon.config.completion_price)
        leaver = await payer(lab, client, "other", PROMPT)
        await trio.to_thread.run_sync(leaver.chain.channels.deposit, leaver.config, 100_000)
        ask_back = leaver.chain.channels.initiate_withdraw
        await trio.to_thread.run_sync(ask_back, leaver.config, 100_000)
        for payload in (leaver.payload(), leaver.payload(deposit=50_000)):
            refused = await client.post(CHAT, json=PROMPT, headers=leaver.header(payload))
            assert told(refused, "payment-required")["error"] == REFUSED + "channel_not_found"
            assert "withdrawal" in refused.json()["error"]["message"]
        assert "tokens_sold" not in daemon.telemetry.counters
        leaver.chain.close()
