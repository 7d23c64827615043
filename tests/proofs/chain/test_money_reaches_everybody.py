"""The whole way of the money over a real chain process: deposit, vouchers, claim, header,
payouts.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from proofs.chain.client import open_client
from proofs.chain.devchain import mint
from proofs.chain.errors import ChainUnreachable, ContractReverted, WrongChain
from proofs.sumtree import PayoutTree
from tests.proofs.chain.world import World, address, secret


def test_every_unit_that_a_payer_spent_arrives_where_the_header_says(served: World):
    payer = served.client("payer")
    operator = served.client("operator")
    before = payer.token.balance_of(payer.address)
    config = served.config()

    payer.channels.deposit(config, 1_000)
    payer.channels.deposit(config, 500)
    state = payer.channels.read(payer.channels.id_of(config))
    assert (state.balance, state.total_claimed, state.withdraw_requested_at) == (1_500, 0, 0)
    assert payer.token.balance_of(payer.address) == before - 1_500

    (claimed,) = operator.channels.claim([served.voucher(config, 400)]).transactions
    operator.channels.claim([served.voucher(config, 900)])
    operator.channels.claim([served.voucher(config, 400)])  # an old voucher changes nothing
    assert payer.channels.read(payer.channels.id_of(config)).total_claimed == 900

    payouts = {
        address(name): amount
        for name, amount in [("owner", 541), ("creator", 225), ("contributor", 134)]
    }
    header = served.next_header(payouts)
    posted = served.post(header)
    assert payer.token.balance_of(served.deployment.settlement) == 900
    found = payer.settlement.find_header(header.epoch)
    assert found is not None
    assert (found.header, found.transaction) == (header, posted.hash)
    assert payer.settlement.find_header_hash(header.epoch) == header.hash
    assert list(payer.settlement.headers()) == [found]

    gas = [
        payer.settlement.claim(header, PayoutTree(payouts).prove(account)).gas_used
        for account in payouts
    ]
    assert {account: payer.token.balance_of(account) for account in payouts} == payouts
    assert payer.token.balance_of(served.deployment.settlement) == 0
    assert payer.settlement.read().total_paid == 900
    print(f"gas: voucher claim {claimed.gas_used}, post {posted.gas_used}, payouts {gas}")


def test_a_payout_comes_once_and_later_only_the_difference(served: World):
    anybody = served.client("anybody")
    account = address("twice")
    paid = anybody.settlement.read().payout_total
    rest = {address("rest"): paid}
    served.earn(100)
    first = served.next_header({account: 40, **rest})
    served.post(first)
    proof = PayoutTree({account: 40, **rest}).prove(account)
    anybody.settlement.claim(first, proof)
    with pytest.raises(ContractReverted) as refused:
        anybody.settlement.claim(first, proof)
    assert refused.value.error == "NothingToClaim"
    assert "already paid" in str(refused.value)

    second = served.next_header({account: 100, **rest})
    served.post(second)
    anybody.settlement.claim(second, PayoutTree({account: 100, **rest}).prove(account))
    assert (anybody.token.balance_of(account), anybody.settlement.paid_to(account)) == (100, 100)


def test_errors_have_names_over_http(served: World):
    with pytest.raises(
        ContractReverted, match=r"NotAggregator\(0x.*Only the aggregator may post"
    ) as refused:
        served.post(served.next_header({}), "other")
    assert refused.value.error == "NotAggregator"
    with pytest.raises(ContractReverted) as refused:
        served.client("broke").channels.deposit(served.config("broke"), 5)
    assert refused.value.error == "ERC20InsufficientBalance"


def test_a_client_finds_channels_and_token_through_the_settlement_contract(served: World):
    client = open_client(served.rpc.url, served.deployment.settlement, secret("payer"))
    first = client.deployment.first_block
    assert client.deployment == replace(served.deployment, first_block=first)
    assert client.rpc.code(served.deployment.settlement, first)
    assert not client.rpc.code(served.deployment.settlement, first - 1)
    assert client.settlement.aggregator() == address("aggregator")
    with pytest.raises(WrongChain, match="no Settlement contract"):
        open_client(served.rpc.url, address("nobody"), secret("payer"))
    client.close()


def test_a_missing_chain_is_named_at_once():
    with pytest.raises(ChainUnreachable, match="no answer from the chain at"):
        open_client("http://127.0.0.1:9", address("nobody"), secret("payer"))


def test_threads_that_share_a_key_do_not_share_a_nonce(served: World):
    from concurrent.futures import ThreadPoolExecutor

    client = served.client("other")
    before = client.token.balance_of(address("crowd"))
    with ThreadPoolExecutor(8) as pool:
        hashes = {
            receipt.hash
            for receipt in pool.map(lambda _: mint(client, address("crowd"), 1), range(24))
        }
    assert len(hashes) == 24
    assert client.token.balance_of(address("crowd")) == before + 24
