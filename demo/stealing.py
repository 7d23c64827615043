"""Steps 10 and 11: the aggregator posts a header that robs the others, and pays for it with its
bond; then a node's channel is settled without any aggregator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from node.testnet.asking import Asking
from node.testnet.plan import AGGREGATOR
from node.testnet.processes import stop
from p2p.peers import PeerAddress
from proofs.chain.client import ChainClient
from proofs.chain.structs import PostedHeader
from proofs.digest import keccak
from proofs.hextext import from_hex, to_hex
from proofs.receipt import Receipt, decode_body, decode_receipt

from . import cast
from .audit import Event, audit_with, find_events, on_chain, wait_on_chain
from .paying import gas_of, names_of
from .record import Step, require
from .scene import Scene
from .serving import ask_into
from .thief import open_thief

CLAIMED_DEADLINE_S = 40.0
CONVICTED_DEADLINE_S = 60.0
EXITED_DEADLINE_S = 60.0
TRANSFER = keccak(b"Transfer(address,address,uint256)")  # what a token says of a payment
BURNT = 2  # parts of a bond: one for whoever showed the lie, one for nobody


@dataclass(frozen=True)
class Verdict:
    """What the chain says of a conviction."""

    prover: bytes
    reward: int
    transaction: bytes
    gas: int
    proof: str  # the court's function that was called


async def show_theft(scene: Scene, step: Step) -> None:
    """Whoever has the aggregator's key takes money that another answer has just brought in; every
    node looks on, and the first to show it is paid.
    """
    await end_aggregator(scene)
    member = scene.network.plan.member(AGGREGATOR)
    assert scene.network.chain is not None
    chain = scene.network.chain.client(member.identity.secret)
    folder = scene.network.plan.home / "thief"
    try:
        receipt = await ask_unpaid(scene, cast.UNPAID_PROMPTS[0])
        witnesses = witnesses_of(scene)
        async with open_thief(member.identity, chain, folder, witnesses, scene.governance) as thief:
            before = await balances(scene)
            posted = await thief.steal(receipt.amount)
            stolen_s = trio.current_time()
            show_header(scene, posted, thief.account, receipt.amount)
            verdict = await wait_on_chain(
                partial(find_verdict, scene.chain, posted),
                "the thief is convicted",
                CONVICTED_DEADLINE_S,
            )
            caught_s = trio.current_time() - stolen_s
        await show_verdict(scene, verdict, before, caught_s)
        await check_undone(scene, posted, thief.account)
    finally:
        chain.close()
    scene.record.figure("theft_caught_s", round(caught_s, 1))
    scene.record.figure("conviction_gas", verdict.gas)
    scene.record.figure("bond_paid", verdict.reward)
    step.facts["theft"] = {
        "amount": receipt.amount,
        "posted_in": to_hex(posted.transaction),
        "proof": verdict.proof,
        "caught_by": to_hex(verdict.prover),
        "convicted_in": to_hex(verdict.transaction),
    }


async def end_aggregator(scene: Scene) -> None:
    """End its honest node: from here on its key posts what its owner likes."""
    child = scene.network.nodes[AGGREGATOR].child
    await stop([child])
    scene.network.children.remove(child)
    scene.stage.say(f"the aggregator's node, process {child.process.pid}, is ended; its key is not")


async def ask_unpaid(scene: Scene, prompt: str) -> Receipt:
    """One more answer; its receipt, as soon as its fee lies in the settlement contract. No header
    has it.
    """
    answer = Asking(cast.UNPAID, prompt)
    node = {"node": scene.peer_id(cast.C)}
    await ask_into(scene, answer, max_tokens=cast.UNPAID_TOKENS, lorikeet=node)
    scene.note(answer)
    signed = await scene.client.receipt(answer.facts["receipt"])
    receipt = decode_body(decode_receipt(signed).body)
    channels = scene.chain.channels
    await wait_on_chain(
        lambda: channels.read(receipt.channel_id).total_claimed >= receipt.cumulative,
        f"{cast.C} claims the voucher of its answer",
        CLAIMED_DEADLINE_S,
    )
    scene.stage.say(
        f"“{prompt}”: {cast.C} answers as {cast.UNPAID} and claims {cast.money(receipt.amount)}"
        " into the settlement contract, where no header has it"
    )
    return receipt


def witnesses_of(scene: Scene) -> list[PeerAddress]:
    """Who signs headers, and keeps what was published."""
    nodes = [scene.network.nodes[member.name] for member in scene.network.plan.witnesses]
    return [PeerAddress(node.peer_id, tuple(node.running.p2p)) for node in nodes]


def show_header(scene: Scene, posted: PostedHeader, account: bytes, loot: int) -> None:
    """What was stolen, and how."""
    short = scene.stage.short
    scene.stage.say(
        f"stolen: epoch {posted.header.epoch} awards {cast.money(loot)} to {short(to_hex(account))}"
        " for an answer that nobody gave, over a channel that never held a cent"
    )
    scene.stage.say(
        f"{scene.network.plan.quorum} witnesses signed, for the header follows from its batch;"
        f" posted in {short(to_hex(posted.transaction))}"
    )


def find_verdict(chain: ChainClient, posted: PostedHeader) -> Verdict | None:
    """The conviction for this header, when there is one. Blocks."""
    for event in find_events(chain, "Convicted"):
        if event.args["firstEpoch"] == posted.header.epoch:
            transaction = event.transaction
            return Verdict(
                from_hex(event.args["prover"]),
                event.args["reward"],
                transaction,
                gas_of(chain, transaction),
                proof=called(chain, transaction),
            )
    return None


def called(chain: ChainClient, transaction: bytes) -> str:
    """The court's function that a transaction called."""
    found: Any = chain.rpc.call("eth_getTransactionByHash", to_hex(transaction))
    court = chain.rpc.contract("Court", chain.settlement.court.address)
    function, _ = court.decode_function_input(found["input"])
    return str(function.fn_name)


async def balances(scene: Scene) -> dict[bytes, int]:
    """The dollars of every node's own key."""
    members = scene.network.plan.members
    balance_of = scene.chain.token.balance_of
    return await on_chain(lambda: {one.address: balance_of(one.address) for one in members})


async def show_verdict(
    scene: Scene, verdict: Verdict, before: dict[bytes, int], caught_s: float
) -> None:
    """Who caught it, and who has the bond."""
    bond = (await on_chain(lambda: scene.chain.settlement.terms)).bond
    moved = (await balances(scene))[verdict.prover] - before[verdict.prover]
    require(
        moved == verdict.reward == bond // BURNT,
        f"half of the bond is the prover's ({moved} of {bond})",
    )
    scene.stage.say(
        f"caught by {names_of(scene)[verdict.prover]} after {caught_s:.1f} s: {verdict.proof},"
        f" gas {verdict.gas:,}, in {scene.stage.short(to_hex(verdict.transaction))}"
    )
    scene.stage.say(
        f"of the bond of {cast.money(bond)}, {cast.money(verdict.reward)} went to"
        f" {names_of(scene)[verdict.prover]}, the rest to nobody"
    )


async def check_undone(scene: Scene, posted: PostedHeader, account: bytes) -> None:
    """The header is gone, the office is vacant, and the thief has nothing."""
    settlement = scene.chain.settlement
    require(not await on_chain(partial(settlement.is_posted, posted)), "the header is taken back")
    office = await on_chain(settlement.read_office)
    require(office.aggregator is None and office.bond == 0, "the office is vacant")
    require(await on_chain(partial(scene.chain.token.balance_of, account)) == 0, "nothing is lost")
    scene.stage.say(
        f"epoch {posted.header.epoch} is taken back, the aggregator's office is vacant, and the"
        " thief has nothing"
    )


async def show_exits(scene: Scene, step: Step) -> None:
    """A node is asked, answers, and has its channel settled by the contract itself; so is what was
    to be stolen.
    """
    office = await on_chain(scene.chain.settlement.read_office)
    require(office.aggregator is None, "nobody aggregates")
    receipt = await ask_unpaid(scene, cast.UNPAID_PROMPTS[1])
    await wait_on_chain(
        partial(has_left, scene.chain, receipt),
        f"{cast.C} settles its channel by itself",
        EXITED_DEADLINE_S,
    )
    audit = await audit_with(
        scene.watcher, scene.chain, scene.store, scene.holders, scene.governance
    )
    tip = audit.history.state.find_tip(receipt.channel_id)
    in_header = tip.cumulative if tip else 0
    exits = await on_chain(partial(exits_of, scene.chain, receipt.channel_id))
    paid = await on_chain(partial(payouts_of, scene.chain, receipt.channel_id))
    due = receipt.cumulative - in_header
    require(
        sum(event.args["amount"] for event in exits) == sum(paid.values()) == due,
        f"exits pay what no header has of the channel ({due}), and nothing twice",
    )
    gas = await show_exit_table(scene, exits)
    show_paid(scene, paid)
    scene.record.figure("exit_gas", gas)
    step.facts["exits"] = {
        "amount": due,
        "paid": {to_hex(account): amount for account, amount in paid.items()},
        "transactions": [to_hex(event.transaction) for event in exits],
    }


def has_left(chain: ChainClient, receipt: Receipt) -> bool:
    """Whether exits settled the channel up to this receipt. Blocks."""
    found = chain.settlement.find_exit(receipt.channel_id)
    return found is not None and found.sequence >= receipt.sequence


def exits_of(chain: ChainClient, channel_id: bytes) -> list[Event]:
    """The exits that settled a channel. Blocks."""
    return find_events(chain, "Exited", channelId=channel_id)


def payouts_of(chain: ChainClient, channel_id: bytes) -> dict[bytes, int]:
    """What a channel's exits paid whom: what the token says of their transactions. Blocks."""
    paid: dict[bytes, int] = {}
    settlement = chain.deployment.settlement.rjust(32, b"\0")
    for event in exits_of(chain, channel_id):
        receipt = chain.wallet.find_receipt(event.transaction)
        assert receipt is not None, "an event stands in a mined transaction"
        for log in receipt.logs:
            if log.topics[:2] == (TRANSFER, settlement) and log.address == chain.deployment.token:
                account = log.topics[2][12:]
                paid[account] = paid.get(account, 0) + int.from_bytes(log.data, "big")
    return paid


async def show_exit_table(scene: Scene, exits: list[Event]) -> int:
    """Each exit of the channel; what the last one cost."""
    transactions = [event.transaction for event in exits]
    gas = await on_chain(lambda: [gas_of(scene.chain, each) for each in transactions])
    rows = [
        (
            f"receipt {event.args['sequence']}",
            cast.money(event.args["amount"]),
            f"{cost:,}",
            scene.stage.short(to_hex(transaction)),
        )
        for event, cost, transaction in zip(exits, gas, transactions, strict=True)
    ]
    scene.stage.table((f"{cast.C}'s channel left up to", "paid out", "gas", "in"), rows)
    return gas[-1]


def show_paid(scene: Scene, paid: dict[bytes, int]) -> None:
    """Who has the money now."""
    names = names_of(scene)
    rows = [
        (names.get(account, "?"), scene.stage.short(to_hex(account)), cast.money(amount))
        for account, amount in sorted(paid.items(), key=lambda pair: -pair[1])
    ]
    scene.stage.table(("paid by exits", "address", "amount"), rows)
