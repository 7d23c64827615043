"""A daemon whose Ethereum node goes mad, falls silent, lies or forgets, one after the other: it
says what is wrong, lives, and works again when the node does.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio

from node.daemon import NodeDaemon
from node.errors import ConfigError
from node.wire.receipts import MAX_DELIVERED
from proofs.chain.devchain import open_chain
from tests.node.networks import open_lab, until
from tests.node.outsider import Outsider, flood, open_outsider

Mode = Callable[[Any, Any], Any]  # what was asked, what the chain answered
FEW_BLOCKS = 20


class Proxy(ThreadingHTTPServer):
    """Stands before a chain; `mode` turns its answers into others, None hands them on, and where
    it gives None nothing is answered at all.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode: Mode | None = None
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, body: bytes) -> bytes | None:
        request = urllib.request.Request(self.target, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answered:
            data: bytes = answered.read()
        if self.mode is None:
            return data
        changed = self.mode(json.loads(body), json.loads(data))
        return None if changed is None else json.dumps(changed).encode()


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_POST(self) -> None:
        answer = self.server.answer(self.rfile.read(int(self.headers["content-length"])))
        if answer is None:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def open_proxy(target: str) -> Iterator[Proxy]:
    with Proxy(target) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()


def always(result: object) -> Mode:
    return lambda _, answer: {**answer, "result": result}


def instead(results: dict[str, object]) -> Mode:
    """Other results of these methods."""

    def mode(asked: Any, answer: Any) -> Any:
        method = asked["method"]
        return {**answer, "result": results[method]} if method in results else answer

    return mode


def slowly(_: Any, answer: Any) -> Any:
    time.sleep(0.1)  # the node's own time, not the test's
    return answer


def few_blocks(asked: Any, answer: Any) -> Any:
    if asked["method"] == "eth_getLogs":
        first, last = (int(asked["params"][0][name], 16) for name in ("fromBlock", "toBlock"))
        if last - first >= FEW_BLOCKS:
            message = f"query exceeds max block range of {FEW_BLOCKS}"
            return {
                "jsonrpc": "2.0",
                "id": answer["id"],
                "error": {"code": -32602, "message": message},
            }
    return answer


MODES: dict[str, Mode] = {
    "null": always(None),
    "a word": always("many"),
    "a number": always(5),
    "a list": always([]),
    "an object": always({"number": None}),
    "no JSON-RPC": lambda *_: [],
    "an error": lambda *_: {"error": {"code": -32603, "message": "internal error"}},
    "an error of no kind": lambda *_: {"error": "closed"},
}

NOTHING = "0x"
FAULTS: dict[str, tuple[Mode, str]] = {
    "down": (lambda *_: None, "no answer"),
    "of another chain": (instead({"eth_chainId": "0x1", "eth_call": NOTHING}), "contract at"),
    "without our contracts": (instead({"eth_call": NOTHING, "eth_getLogs": []}), "contract at"),
    "dear": (instead({"eth_maxPriorityFeePerGas": hex(10**18)}), "max_tip_gwei"),
    "slow": (slowly, ""),
    "limited to few blocks of logs": (few_blocks, ""),
}


async def test_whatever_its_ethereum_node_says_the_daemon_lives(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("aggregator",)) as lab:
        assert lab.chain is not None
        with open_proxy(lab.chain.rpc) as proxy:
            settings = {"role": "aggregator", "chain_rpc": (proxy.url,), "epoch_s": 0.2}
            async with lab.daemon("aggregator", **settings) as daemon:
                for name, mode in MODES.items():
                    proxy.mode = mode
                    await until(lambda: bool(daemon.telemetry.troubles))
                    settlement = (await daemon.status()).settlement
                    assert settlement is not None
                    assert settlement["troubles"], name
                    proxy.mode = None
                    await until(lambda: not daemon.telemetry.troubles, 60)


@pytest.mark.slow
async def test_receipts_are_sealed_after_each_fault_of_the_ethereum_node(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator")
    with open_lab(tmp_path, chain_for=names) as lab:
        assert lab.chain is not None
        with open_proxy(lab.chain.rpc) as proxy:
            settings: dict[str, Any] = {"role": "aggregator", "chain_rpc": (proxy.url,)}
            async with (
                lab.daemon("aggregator", epoch_s=0.3, watch_interval_s=0.3, **settings) as daemon,
                open_outsider(lab) as outsider,
            ):
                peer_id = await outsider.host.connect(daemon.host.addresses[0], 60)
                await trio.to_thread.run_sync(outsider.claim_all)
                for _ in range(2 * FEW_BLOCKS):
                    outsider.chain.rpc.call("evm_mine")
                log = tmp_path / "aggregator" / "log"
                for name, (mode, words) in FAULTS.items():
                    before = len(log.read_text())
                    proxy.mode = mode
                    if name == "dear":  # noticed when something is to be sent
                        await deliver_next(outsider, peer_id)
                    if words:
                        await until(lambda: is_told(daemon, words))  # noqa: B023
                        assert_told_once(log.read_text()[before:])
                        proxy.mode = None
                    await deliver_next(outsider, peer_id)
                    await until(lambda: is_all_posted(outsider), 60)
                    proxy.mode = None
                    await until(lambda: not daemon.telemetry.troubles, 60)

                aggregator = lab.address("aggregator")
                with open_chain(aggregator, [lab.address(name) for name in names]) as anew:
                    assert anew.settlement == lab.chain.settlement
                    proxy.target = anew.rpc
                    await until(lambda: is_told(daemon, "started anew"))
                    proxy.target = lab.chain.rpc
                await deliver_next(outsider, peer_id)
                await until(lambda: is_all_posted(outsider), 60)
                await until(lambda: not daemon.telemetry.troubles, 60)


async def test_two_hundred_unclaimed_channels_delay_nobody_over_a_slow_node(tmp_path: Path) -> None:
    names = ("outsider node", "outsider client", "aggregator")
    with open_lab(tmp_path, chain_for=names) as lab:
        assert lab.chain is not None
        with open_proxy(lab.chain.rpc) as proxy:
            settings: dict[str, Any] = {"role": "aggregator", "chain_rpc": (proxy.url,)}
            async with open_outsider(lab) as outsider:
                await trio.to_thread.run_sync(outsider.claim_all)
                unclaimed = await trio.to_thread.run_sync(flood, outsider.network, 200)
                for life in (1, 2):
                    lab.bootstrap = ()
                    proxy.mode = None
                    async with lab.daemon("aggregator", epoch_s=0.3, **settings) as daemon:
                        proxy.mode = slowly
                        peer_id = await outsider.host.connect(daemon.host.addresses[0], 60)
                        for first in range(0, len(unclaimed), MAX_DELIVERED):
                            some = unclaimed[first : first + MAX_DELIVERED]
                            answers = await outsider.deliver(peer_id, *some)
                            assert answers == ["Rejected"] * len(some)
                        epoch = outsider.chain.settlement.last_epoch()
                        await deliver_next(outsider, peer_id)
                        await until(lambda: is_all_posted(outsider), 60)
                        assert outsider.chain.settlement.last_epoch() == epoch + 1
                        assert outsider.chain.settlement.read().num_receipts == life


async def deliver_next(outsider: Outsider, peer_id: str) -> None:
    """Have the aggregator take the channel's next receipt, however often it must be shown."""
    envelope = outsider.advance(tokens=1)

    async def is_taken() -> bool:
        return await outsider.deliver(peer_id, envelope) == ["Accepted"]

    await until(is_taken)


def is_all_posted(outsider: Outsider) -> bool:
    return outsider.chain.settlement.read().payout_total == outsider.tip.cumulative


def is_told(daemon: NodeDaemon, words: str) -> bool:
    return any(words in trouble for trouble in daemon.telemetry.troubles.values())


def assert_told_once(log: str) -> None:
    """Each part says the same trouble once, however often it tries."""
    told = [line.split(" ", 2)[2] for line in log.splitlines() if "not now" in line]
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chain_id": 1}, "chain id 1"),
        ({"channels": "0x" + "11" * 20}, "channels 0x1111"),
        ({"token": "0x" + "11" * 20}, "token 0x1111"),
        ({"settlement": "0x" + "11" * 20}, "no Settlement contract"),
    ],
)
async def test_addresses_that_are_not_the_contracts_are_refused_at_the_start(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with (
        open_lab(tmp_path, chain_for=("aggregator",)) as lab,
        pytest.raises(ConfigError, match=words),
    ):
        async with lab.daemon("aggregator", role="aggregator", **changes):
            pass


async def test_a_chain_that_was_started_anew_is_told_at_the_start(tmp_path: Path) -> None:
    with open_lab(tmp_path / "first", chain_for=("aggregator",)) as lab:
        home = lab.config("aggregator").home
        async with lab.daemon("aggregator", role="aggregator"):
            pass
    with (
        open_lab(tmp_path / "second", chain_for=("aggregator",)) as lab,
        pytest.raises(ConfigError, match=r"started anew.*new --home"),
    ):
        async with lab.daemon("aggregator", role="aggregator", home=home):
            pass
