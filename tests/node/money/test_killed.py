"""A node and an aggregator that are killed at every step between a signature and a payout, and
started again: each served answer is paid, once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from node.api.answers import Ended
from node.config import CONFIG_FILE, Config, dump_config
from node.errors import NodeError
from proofs.ledger import Ledger, Outbox
from proofs.receipt import decode_body
from tests.node.forked import forked_python
from tests.node.networks import ask, open_lab, passing, until

from .dying import AGGREGATOR, NODE

LIVES_S = 1200
WINDOW_S = 120
NAMES = ("volunteer", "gateway", "aggregator")
QUICK: dict[str, Any] = {"watch_interval_s": 0.3, "grace_s": 1.0, "http_port": 0}


class Mortal:
    """One daemon's lives, each of which ends at the next of the points; the last one goes on."""

    def __init__(self, config: Config, points: Sequence[str]) -> None:
        config.home.mkdir(parents=True, exist_ok=True)
        (config.home / CONFIG_FILE).write_text(dump_config(config))
        self.points = list(points)
        self.home = config.home
        self.process: subprocess.Popen[str] | None = None

    def tend(self) -> None:
        """Give it another life where one has ended."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            assert self.process.returncode == -9, f"it ended otherwise: {self.process.returncode}"
            self.points.pop(0)
        point = self.points[0] if self.points else ""
        command = [forked_python(), "-m", "tests.node.money.dying", point, "up"]
        self.process = subprocess.Popen(
            [*command, "--home", str(self.home)], stdout=subprocess.DEVNULL, text=True
        )


@contextmanager
def mortals(*them: Mortal) -> Iterator[None]:
    try:
        yield
    finally:
        for one in them:
            if one.process is not None:
                one.process.kill()
                one.process.wait()


async def live_through(tmp_path: Path, node_dies: list[str], aggregator_dies: list[str]) -> None:
    with open_lab(tmp_path, chain_for=NAMES) as lab:
        assert lab.chain is not None
        chain = lab.chain.client(lab.identity("gateway").secret)
        earned_from = chain.token.balance_of(lab.address("volunteer"))
        everybody = QUICK | {"aggregator": lab.identity("aggregator").peer_id}
        async with lab.daemon("gateway", role="gateway", **everybody) as gateway:
            volunteer = Mortal(lab.config("volunteer", **everybody), node_dies)
            quick = {"epoch_s": 0.5}
            aggregator = Mortal(
                lab.config("aggregator", role="aggregator", **everybody | quick), aggregator_dies
            )
            finished: list[str] = []

            def note(ended: Ended) -> None:
                if ended.receipt is not None:  # its node may die behind its last token
                    finished.append(ended.receipt)

            with mortals(volunteer, aggregator):

                async def is_over() -> bool:
                    for one in (volunteer, aggregator):
                        one.tend()
                    with suppress(NodeError), trio.move_on_after(5):
                        note((await ask(gateway)).ended)
                    chain.rpc.call("evm_mine")
                    return not (volunteer.points or aggregator.points)

                await until(is_over, LIVES_S)
                with trio.fail_after(WINDOW_S):
                    while True:
                        with suppress(NodeError):
                            note((await ask(gateway)).ended)
                            break
                        await trio.sleep(0.5)

                pass_on = passing(chain.rpc)

                def is_paid() -> bool:
                    pass_on()
                    amounts = receipts_of(tmp_path / "volunteer")
                    earned = chain.token.balance_of(lab.address("volunteer")) - earned_from
                    assert earned <= sum(amounts.values()), "something is paid twice"
                    return finished[-1] in amounts and earned == sum(amounts.values())

                await until(is_paid, WINDOW_S)
            amounts = receipts_of(tmp_path / "volunteer")
            assert set(finished) <= set(amounts)
            assert chain.settlement.read().total_paid == sum(amounts.values())
        chain.close()


def receipts_of(home: Path) -> dict[str, int]:
    """What each receipt of a node is worth, by its digest."""
    ledger = Ledger(home / "ledger.sqlite")
    try:
        return {
            entry.digest.hex(): decode_body(entry.signed.body).amount
            for entry in Outbox(ledger).newest(1000)
        }
    finally:
        ledger.close()


@pytest.mark.timeout(600)
@pytest.mark.slow
async def test_each_answer_is_paid_once_though_its_node_and_aggregator_are_killed(
    tmp_path: Path,
) -> None:
    await live_through(tmp_path, ["a receipt is half written"], ["an epoch is sealed"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("node", "aggregator"), [(list(NODE), []), ([], list(AGGREGATOR))])
async def test_each_answer_is_paid_once_wherever_its_node_or_aggregator_is_killed(
    tmp_path: Path, node: list[str], aggregator: list[str]
) -> None:
    await live_through(tmp_path, node, aggregator)
