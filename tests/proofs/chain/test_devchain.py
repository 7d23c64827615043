"""The development chain as a process: its line of JSON, its end, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from eth_utils.address import to_checksum_address

from proofs.chain.client import ChainClient
from proofs.chain.devchain import FUND_DOLLARS, FUND_LORI, FUND_WEI, open_chain
from proofs.chain.evm import Call, MemoryChain
from proofs.chain.serve import MAX_REQUEST_BYTES, ChainServer, serve_rpc
from tests.processes import ending
from tests.proofs.chain.engines import ENGINES
from tests.proofs.chain.world import (
    NAMES,
    START,
    TERMS,
    World,
    address,
    memory_world,
    secret,
)


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    command = [sys.executable, "-m", "proofs.chain.devchain", *arguments]
    pipe = subprocess.PIPE
    with ending(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)) as process:
        yield process, json.loads(process.stdout.readline())


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


@pytest.mark.parametrize("anvil", ENGINES)
@pytest.mark.parametrize("end", ["SIGTERM", "stdin"])
def test_it_ends_on_signals_and_when_its_parent_is_gone(anvil: str | None, end: str):
    with started(*(["--anvil", anvil] if anvil else [])) as (process, line):
        assert is_listening(line["rpc"])
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, end))
        assert process.wait(60) == 0
        assert not is_listening(line["rpc"])


@pytest.mark.parametrize("anvil", ENGINES[1:])
def test_a_killed_devchain_takes_its_anvil_along(anvil: str):
    with started("--anvil", anvil) as (process, line):
        process.kill()
        until = time.monotonic() + 60
        while is_listening(line["rpc"]):
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("anvil", ENGINES)
def test_it_funds_whom_it_is_told_and_obeys_the_aggregator_it_is_told(anvil: str | None):
    with open_chain(address("somebody"), [address("funded")], anvil) as chain:
        assert chain.aggregator == "0x" + address("somebody").hex()
        assert chain.aggregator_key is None
        client = chain.client(chain.secrets()[0])
        for account in (address("funded"), address("somebody"), client.address):
            assert client.token.balance_of(account) == FUND_DOLLARS
            assert lori_of(client, account) == FUND_LORI
            assert client.rpc.web3.eth.get_balance(to_checksum_address(account)) == FUND_WEI
        client.close()
    assert not is_listening(chain.rpc), "nothing is left when the context ends"


def lori_of(client: ChainClient, account: bytes) -> int:
    return client.rpc.read("LorikeetToken", client.deployment.lori, "balanceOf", account)[0]


def test_a_client_that_was_killed_is_no_trouble_of_the_chains(capsys: pytest.CaptureFixture[str]):
    server = ChainServer(MemoryChain(31337, {}, {}), 0)
    try:
        for error, is_told in ((ConnectionResetError(), False), (ValueError("ours"), True)):
            try:
                raise error
            except (ConnectionError, ValueError):
                server.handle_error(None, ("127.0.0.1", 1))
            assert ("Traceback" in capsys.readouterr().err) == is_told
    finally:
        server.server_close()


def test_it_refuses_what_is_too_large_malformed_or_unknown():
    with serve_rpc(MemoryChain(31337, {}, {})) as url, httpx.Client(base_url=url) as http:
        assert http.post("/", content=b"x" * (MAX_REQUEST_BYTES + 1)).status_code == 413
        assert http.post("/", content=b"{").status_code == 400
        assert (
            http.post("/", json={"id": 7, "method": "eth_mining", "params": []}).json()["error"][
                "code"
            ]
            == -32601
        )
        assert (
            http.post("/", json={"id": 7, "method": "eth_getBalance", "params": ["zz"]}).json()[
                "error"
            ]["code"]
            == -32602
        )
        assert (
            http.post(
                "/", json={"id": 7, "method": "eth_sendRawTransaction", "params": ["0x02c0"]}
            ).json()["error"]["code"]
            == -32000
        )
        answers = http.post("/", json=[{"id": 1, "method": "eth_chainId"}, 5]).json()
        assert answers[0]["result"] == "0x7a69"
        assert answers[1]["error"]["code"] == -32600


def test_what_looks_at_the_clock_is_asked_anew_as_time_passes_and_nothing_else():
    world, chain = memory_world()
    world.earn(1000)
    posted = world.post(world.next_header())
    settlement = world.client("anybody").settlement
    chain.mine()  # nothing of this head is known yet
    tried: list[Call] = []
    run = chain._try

    def note(call: Call, height: int | None):
        tried.append(call)
        return run(call, height)

    chain._try = note
    for _ in range(2):
        assert settlement.last_epoch() == 1
        assert not settlement.is_final(posted)
    assert len(tried) == 2
    chain.clock = lambda: START + TERMS.window + 60
    assert settlement.last_epoch() == 1
    assert len(tried) == 2
    assert settlement.is_final(posted)
    assert len(tried) == 3
    world.earn(1000)
    assert settlement.last_epoch() == 1
    assert tried.count(tried[0]) == 2, "after each block anew"


def test_web3_can_speak_to_it(served: World):
    from web3 import HTTPProvider, Web3

    web3 = Web3(HTTPProvider(served.rpc.url))
    account = web3.eth.account.from_key(secret("anybody"))
    base = web3.eth.get_block("latest").baseFeePerGas
    tip = web3.eth.max_priority_fee
    fields = {
        "to": account.address,
        "value": 1,
        "nonce": 0,
        "gas": 21_000,
        "chainId": web3.eth.chain_id,
    }
    signed = account.sign_transaction(
        {**fields, "maxFeePerGas": 2 * base + tip, "maxPriorityFeePerGas": tip}
    )
    receipt = web3.eth.wait_for_transaction_receipt(
        web3.eth.send_raw_transaction(signed.raw_transaction), timeout=60
    )
    assert receipt.status == 1
    assert web3.eth.get_block("latest").transactions == [receipt.transactionHash]
    assert len(
        web3.eth.get_logs(
            {"fromBlock": 0, "address": Web3.to_checksum_address(served.deployment.token)}
        )
    ) >= len(NAMES)
