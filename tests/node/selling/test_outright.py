"""Answers that strangers pay outright (x402's exact): a volunteer's own, whose receipts pay its
creators as always, and what a gateway without an engine buys and sells on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest
import trio
from eth_account import Account

from node.answering.selling import _SoldCall
from node.errors import EngineFailed
from proofs.chain.client import ChainClient, open_client
from proofs.chain.devchain import FUND_DOLLARS
from proofs.digest import checksummed
from proofs.hextext import from_hex, to_hex
from tests.node.networks import Lab, open_lab, until
from tests.node.selling.shop import CHAT, PROMPT, selling, told

pytest.importorskip("x402.mechanisms.evm.exact")

from x402 import x402Client
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.evm.exact import ExactEvmClientScheme, ExactEvmFacilitatorScheme
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

REFUSED = "invalid_exact_evm_"
STREAMED = PROMPT | {"stream": True}
DEAR: dict[str, Any] = {"prompt_price": 110, "completion_price": 510}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    people = ("buyer", "other", "facilitator", "aggregator")
    names = ("seller", "volunteer", "gateway", *people)
    with open_lab(tmp_path_factory.mktemp("lab"), chain_for=names) as lab:
        yield lab


def chain_of(lab: Lab, name: str) -> ChainClient:
    assert lab.chain is not None
    settlement = from_hex(lab.chain.settlement)
    return open_client(lab.chain.rpc, settlement, lab.identity(name).secret)


class Sent(httpx.AsyncHTTPTransport):
    """Remembers the last payment that went out."""

    payment = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.payment = request.headers.get("payment-signature", self.payment)
        return await super().handle_async_request(request)


def buying(
    lab: Lab, name: str, url: str, sent: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """The official client with somebody's key, which knows no scheme but exact."""
    scheme = ExactEvmClientScheme(Account.from_key(lab.identity(name).secret))
    official = x402Client().register("eip155:31337", scheme)
    official.set_spend_controls(False)  # it knows no development chain's dollar
    return httpx.AsyncClient(base_url=url, transport=x402AsyncTransport(official, sent), timeout=60)


async def test_a_volunteer_is_paid_outright_and_its_receipt_pays_as_always(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    chain = chain_of(lab, "buyer")
    sent = Sent()
    async with (
        selling(lab, "seller") as (daemon, url),
        buying(lab, "buyer", url, sent) as client,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as plain,
    ):
        first = await client.post(CHAT, json=PROMPT)
        assert first.status_code == 200, first.text
        paid = told(first, "payment-response")
        assert (paid["success"], paid["payer"]) == (True, to_hex(chain.address))
        assert paid["transaction"]
        served = paid["extensions"]["offer-receipt"]["info"]["receipt"]["payload"]
        assert served["payer"] == to_hex(chain.address)
        spent = int(paid["amount"])
        assert chain.token.balance_of(chain.address) == FUND_DOLLARS - spent
        facts = first.json()["lorikeet"]
        assert 0 < facts["amount"] <= spent
        (receipt,) = await daemon.receipts()
        assert (receipt.digest, receipt.amount) == (facts["receipt"], facts["amount"])
        async with client.stream("POST", CHAT, json=STREAMED) as second:
            assert second.status_code == 200
            assert [line async for line in second.aiter_lines() if line][-1] == "data: [DONE]"
        (channel,) = await daemon.channels()  # both went through one of its own
        assert channel.spent == sum(one.amount for one in await daemon.receipts())

        # The same transfer buys nothing again, and one that is not right moves nothing.
        had = chain.token.balance_of(chain.address)
        shown = json.loads(base64.b64decode(sent.payment))
        for reason, changes in {
            "transaction_simulation_failed": {},
            "payload_authorization_value_mismatch": {"value": "1"},
            "payload_recipient_mismatch": {"to": to_hex(bytes([1]) * 20)},
            "payload_authorization_valid_before": {"validBefore": "7"},
        }.items():
            refused = await plain.post(CHAT, json=PROMPT, headers=changed(shown, changes))
            assert refused.status_code == 402, refused.text
            assert told(refused, "payment-required")["error"] == REFUSED + reason
        odd = changed(shown, {"nonce": "0x"})
        assert (await plain.post(CHAT, json=PROMPT, headers=odd)).status_code == 400

        # A fault of the engine costs nothing: what was paid comes back.
        async def fail(self: _SoldCall) -> Any:
            raise EngineFailed("our fault")

        monkeypatch.setattr(_SoldCall, "next_tokens", fail)
        failed = await client.post(CHAT, json=PROMPT)
        assert failed.status_code == 500
        back = told(failed, "payment-response")
        assert (back["success"], back["errorReason"]) == (False, "given_back")
        await until(lambda: chain.token.balance_of(chain.address) == had)
        assert daemon.telemetry.counters["transfers_taken"] == 3
    chain.close()


def changed(shown: dict[str, Any], changes: dict[str, str]) -> dict[str, str]:
    """A payment's header with other fields in its authorization."""
    payload = shown["payload"]
    authorization = payload["authorization"] | changes
    given = shown | {"payload": payload | {"authorization": authorization}}
    return {"payment-signature": base64.b64encode(json.dumps(given).encode()).decode()}


@contextmanager
def official_facilitator(lab: Lab) -> Iterator[tuple[str, list[str]]]:
    """x402's own facilitator, with somebody's gas, over HTTP: where, and what it sent for whom."""
    assert lab.chain is not None
    signer = FacilitatorWeb3Signer(to_hex(lab.identity("facilitator").secret), lab.chain.rpc)
    scheme = ExactEvmFacilitatorScheme(signer)
    payers: list[str] = []

    class Settles(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert (self.path, asked["x402Version"]) == ("/settle", 2)
            done = scheme.settle(
                PaymentPayload.model_validate(asked["paymentPayload"]),
                PaymentRequirements.model_validate(asked["paymentRequirements"]),
            )
            payers.append(done.payer or "")
            data = done.model_dump_json(by_alias=True).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Settles) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", payers
        finally:
            server.shutdown()
            thread.join()


async def test_a_gateway_sells_what_it_buys_for_more_than_it_pays_through_a_facilitator(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.bootstrap = ()
    buyer, chain = chain_of(lab, "other"), chain_of(lab, "gateway")
    with official_facilitator(lab) as (facilitator, payers):
        await sell_on(lab, buyer, chain, facilitator, monkeypatch)
    assert payers == [checksummed(buyer.address)] * 2
    buyer.close()
    chain.close()


async def sell_on(
    lab: Lab,
    buyer: ChainClient,
    chain: ChainClient,
    facilitator: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = DEAR | {"role": "gateway", "facilitator": facilitator}
    async with (
        lab.daemon("volunteer") as volunteer,
        selling(lab, "gateway", **settings) as (gateway, url),
        buying(lab, "other", url) as client,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as plain,
    ):
        (accepted,) = told(await plain.post(CHAT, json=PROMPT), "payment-required")["accepts"]
        assert (accepted["scheme"], accepted["payTo"]) == ("exact", checksummed(chain.address))
        answer = await client.post(CHAT, json=PROMPT)
        assert answer.status_code == 200, answer.text
        price = int(accepted["amount"])
        assert answer.json()["lorikeet"]["amount"] == price
        assert buyer.token.balance_of(buyer.address) == FUND_DOLLARS - price
        (receipt,) = await gateway.receipts()
        assert receipt.counterparty == to_hex(lab.address("volunteer"))
        assert 0 < receipt.amount < price
        (channel,) = await gateway.channels()
        has = await trio.to_thread.run_sync(chain.token.balance_of, chain.address)
        assert has == FUND_DOLLARS + price - channel.balance
        assert (await plain.get(CHAT)).status_code == 404

        def fail(*_: Any, **__: Any) -> Any:
            raise EngineFailed("its fault")

        monkeypatch.setattr(volunteer.engine, "generate", fail)
        failed = await client.post(CHAT, json=PROMPT)
        assert failed.status_code >= 500, failed.text
        assert told(failed, "payment-response")["errorReason"] == "given_back"
        await until(lambda: buyer.token.balance_of(buyer.address) == FUND_DOLLARS - price)
