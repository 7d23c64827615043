"""The aggregator's whole process, killed at known points of a post and started again: every epoch
is on the chain once.
"""

from __future__ import annotations

import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trio

from node.config import CONFIG_FILE, dump_config
from proofs.ledger import AggregatorLedger, Ledger, PostJournal
from tests.node.forked import forked_python
from tests.node.networks import Lab, open_lab, until
from tests.node.outsider import open_outsider

HELD_S = 60.0
POINTS = ("signed", "sent", "answered")  # … and the process dies before the next step


class Gate(ThreadingHTTPServer):
    """Stands before the chain's RPC.

    At `point` it falls silent for good: before a transaction goes on, before it is answered, or
    after.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, chain_rpc: str) -> None:
        super().__init__(("127.0.0.1", 0), GateHandler)
        self.chain_rpc = chain_rpc
        self.opened = threading.Event()
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def open(self) -> None:
        """Let everything through; what was held ends without an answer."""
        self.point = ""
        self.is_silent = False
        self.reached = False
        self.opened.set()

    def arm(self, point: str) -> None:
        self.opened = threading.Event()
        self.point = point

    def pass_on(self, body: bytes) -> bytes | None:
        """The chain's answer; None, late, when it is held back."""
        is_transaction = json.loads(body)["method"] == "eth_sendRawTransaction"
        if self.is_silent or (is_transaction and self.point == "signed"):
            return self._hold()
        answer = post(self.chain_rpc, body)
        if is_transaction and self.point == "sent":
            return self._hold()
        if is_transaction and self.point == "answered":
            self.is_silent = True
        return answer

    def _hold(self) -> None:
        opened = self.opened
        self.is_silent = True
        self.reached = True
        opened.wait(HELD_S)


class GateHandler(BaseHTTPRequestHandler):
    server: Gate

    def do_POST(self) -> None:
        answer = self.server.pass_on(self.rfile.read(int(self.headers["Content-Length"])))
        if answer is None:
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def open_gate(chain_rpc: str) -> Iterator[Gate]:
    with Gate(chain_rpc) as gate:
        thread = threading.Thread(target=gate.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield gate
        finally:
            gate.open()
            gate.shutdown()
            thread.join()


@contextmanager
def aggregator_process(lab: Lab, chain_rpc: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m node up` as aggregator, and its address on the network."""
    config = lab.config(
        "aggregator", role="aggregator", http_port=0, chain_rpc=(chain_rpc,), epoch_s=0.5
    )
    config.home.mkdir(parents=True, exist_ok=True)
    (config.home / CONFIG_FILE).write_text(dump_config(config))
    command = [forked_python(), "-m", "node", "up", "--home", str(config.home)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split("p2p=")[1].strip()
        finally:
            process.kill()


async def test_an_aggregator_killed_while_it_posts_posts_each_epoch_once(tmp_path: Path) -> None:
    with open_lab(tmp_path, chain_for=("outsider node", "outsider client", "aggregator")) as lab:
        assert lab.chain is not None
        with open_gate(lab.chain.rpc) as gate:
            async with open_outsider(lab) as outsider:
                await trio.to_thread.run_sync(outsider.claim_all)
                for number, point in enumerate(POINTS):
                    with aggregator_process(lab, gate.url) as (_, address):
                        peer_id = await outsider.host.connect(address, 60)
                        await until(lambda: outsider.chain.settlement.read().epoch == number)  # noqa: B023  # what the last one left undone
                        gate.arm(point)
                        assert await outsider.deliver(
                            peer_id, outsider.advance(tokens=number + 1)
                        ) == ["Accepted"]
                        await until(lambda: gate.reached)
                    assert outsider.chain.settlement.read().epoch == number + (point != "signed")
                    gate.open()
                    await until(lambda: not outsider.host.peers())
                with aggregator_process(lab, gate.url):
                    await until(lambda: last_posted(lab) == len(POINTS))
                headers = [posted.header for posted in outsider.chain.settlement.headers()]
                assert [header.epoch for header in headers] == [1, 2, 3]
                assert (headers[-1].num_receipts, headers[-1].payout_total) == (
                    3,
                    outsider.tip.cumulative,
                )
                assert num_transactions(lab.chain.rpc, lab.address("aggregator")) == len(POINTS)


def post(url: str, body: bytes) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HELD_S) as response:
        answer: bytes = response.read()
    return answer


def num_transactions(chain_rpc: str, sender: bytes) -> int:
    """How many transactions of this account are on the chain."""
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "eth_getTransactionCount",
        "params": ["0x" + sender.hex(), "latest"],
    }
    return int(json.loads(post(chain_rpc, json.dumps(request).encode()))["result"], 16)


def last_posted(lab: Lab) -> int:
    """What the aggregator's own books say."""
    ledger = Ledger(lab.folder / "aggregator" / "ledger.sqlite")
    try:
        assert AggregatorLedger(ledger).last_epoch() == len(POINTS)
        return PostJournal(ledger).last_posted()
    finally:
        ledger.close()
