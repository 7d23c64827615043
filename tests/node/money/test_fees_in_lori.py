"""A network whose fees are paid in its own token: an answer from its deposit to its claim, by the
same programs; and nodes that another settlement contract pays stand beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from node.api.status import CoinInfo
from node.daemon import NodeDaemon
from node.errors import NodeRefused
from node.money.book import ChannelBook
from proofs.chain.client import ChainClient, open_client
from proofs.chain.deploy import DEVELOPMENT_TERMS, deploy_dev_dollar, deploy_settlement
from proofs.chain.devchain import FUND_LORI
from proofs.chain.structs import Board
from proofs.hextext import from_hex, to_hex
from proofs.ledger import Ledger
from proofs.voucher import ChannelConfig
from tests.node.networks import Lab, ask, open_lab, until

NAMES = ("volunteer", "stranger", "gateway", "aggregator")


async def test_an_answer_is_paid_in_lori_from_the_deposit_to_the_claim(tmp_path: Path) -> None:
    owner = os.urandom(20)
    with open_lab(tmp_path, chain_for=NAMES, fees="lori") as lab:
        assert lab.chain is not None
        assert lab.chain.token == lab.chain.lori
        chain = open_client(
            lab.chain.rpc, from_hex(lab.chain.settlement), lab.identity("gateway").secret
        )
        everybody: dict[str, Any] = {
            "aggregator": lab.identity("aggregator").peer_id,
            "watch_interval_s": 0.5,
        }
        async with (
            lab.daemon("aggregator", role="aggregator", **everybody),
            lab.daemon("volunteer", owner=to_hex(owner), **everybody) as volunteer,
            lab.daemon("gateway", role="gateway", **everybody) as gateway,
        ):
            assert (await gateway.status()).coin == CoinInfo("LORI", 6)
            assert gateway.money is not None
            assert [one.tokens for one in (await gateway.money.purses()).accounts] == [FUND_LORI]
            amount = (await ask(gateway)).ended.amount
            (channel,) = await gateway.channels()
            assert channel.spent == amount > 0
            assert chain.token.balance_of(chain.address) == FUND_LORI - channel.balance
            await until(lambda: chain.token.balance_of(owner) == amount)
            assert (await volunteer.earnings())[0].claimed == amount

            async with lab.daemon("stranger", **(everybody | dollars(lab, chain))) as stranger:
                assert (await stranger.status()).coin == CoinInfo("DEVUSD", 6)
                await until(lambda: stranger.host.peer_id in peers_of(gateway))
                with pytest.raises(NodeRefused, match="settlement"):
                    await ask(gateway, node=stranger.host.peer_id)
                assert (await ask(gateway)).started.served_by == volunteer.host.peer_id

            asked = {one.counterparty: one for one in await gateway.withdraw(None)}
            assert asked.pop(to_hex(lab.address("volunteer"))).state == "withdrawing"
            assert [one.balance for one in asked.values()] == [0], (
                "nothing was put in for the other"
            )
        (config,) = configs(lab.folder / "gateway", lab.address("volunteer"))
        chain.rpc.call("evm_increaseTime", config.withdraw_delay + 1)
        chain.channels.finalize_withdraw(config)
        claimed = chain.channels.read(chain.channels.id_of(config)).total_claimed
        assert claimed >= 2 * amount
        assert chain.token.balance_of(chain.address) == FUND_LORI - claimed
        chain.close()


def peers_of(daemon: NodeDaemon) -> set[str]:
    return {peer.peer_id for peer in daemon.host.peers()}


def configs(home: Path, operator: bytes) -> list[ChannelConfig]:
    """Of a home's channels with a node."""
    ledger = Ledger(home / "ledger.sqlite")
    try:
        return [row.config for row in ChannelBook(ledger).of_operator(operator)]
    finally:
        ledger.close()


def dollars(lab: Lab, chain: ChainClient) -> dict[str, Any]:
    """The settings of a node that takes dollars: another settlement contract, on the same chain."""
    board = Board(lab.address("aggregator"), lab.address("aggregator"), (), 0)
    token = deploy_dev_dollar(chain.wallet)
    channels = chain.deployment.channels
    made = deploy_settlement(chain.wallet, board, channels, token, DEVELOPMENT_TERMS)
    return {"settlement": to_hex(made.contract), "token": to_hex(token)}
