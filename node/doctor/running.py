"""Looks whether a running node does its work: engine, adapters, money, and what its parts complain
of. Each look has a deadline.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import trio

from engine.messages import Finished, Sampling
from p2p.host import Host
from proofs.chain.errors import ChainError
from proofs.hextext import to_hex
from proofs.parameters import BY_NAME, Kind, Ruling, show_value
from proofs.stake import LORI

from ..api.adapters import HeldInfo
from ..api.doctor import Checked
from ..api.money import StuckInfo
from ..api.status import CoinInfo
from ..config import CONFIG_FILE, Config, split_address
from ..engine_host import EngineHost
from ..errors import NodeError
from ..lives import SERVES_NOBODY, restored
from ..money.disputing import OwnDispute
from ..money.staking import Standing
from ..money.wiring import Gas, Money
from ..telemetry import Telemetry
from .network import examine_dht, examine_gossip, examine_peers, examine_reach

ANSWER_DEADLINE_S = 60.0
SELLING_DEADLINE_S = 5.0
MAX_CLOCK_SKEW_S = 600.0
OBSTACLES = {
    "signature": "the client's signature; its node takes it alone when the grace is over",
    "claim": "its voucher to be claimed on the chain",
    "aggregator": "the aggregator's promise",
    "refused": "nothing: the aggregator refuses it for good",
    "epoch": "a posted header",
    "window": "the end of the challenge window",
    "exit": "the channel's own way out",
    "payout": "its payout to be claimed: lorikeet claim",
    "dead": "nothing: its channel holds less than is owed",
}


@dataclass(frozen=True)
class Patient:
    """What of a running node is looked at; None where it has none."""

    config: Config
    host: Host
    telemetry: Telemetry
    engine: EngineHost | None
    money: Money | None
    held: Callable[[], list[HeldInfo]]
    waits_for: str
    topics: tuple[str, ...]


async def examine_running(patient: Patient) -> AsyncIterator[Checked]:
    """Look at all of it, one part after the other."""
    host, config = patient.host, patient.config
    for found in examine_peers(host, config):
        yield found
    yield examine_reach(host, config)
    yield await examine_dht(host)
    yield examine_gossip(host, patient.topics)
    if config.role in ("volunteer", "gateway"):
        yield await _engine(patient)
        yield _adapters(patient)
    if config.sell:
        yield await examine_selling(config)
    async for found in _money(patient):
        yield found
    for part, reason in patient.telemetry.troubles.items():
        yield Checked(part, "wrong", reason, f"it is tried again; more in {config.home / 'log'}")


async def _engine(patient: Patient) -> Checked:
    """Have the engine say one token."""
    if patient.waits_for:
        return Checked("engine", "note", f"waits for {patient.waits_for}")
    engine = patient.engine
    if engine is None:
        return Checked("engine", "ok", "none: this node asks others")
    began = trio.current_time()
    try:
        with trio.fail_after(ANSWER_DEADLINE_S):
            await engine.wait_up(ANSWER_DEADLINE_S)
            async with engine.generate(
                [1], None, Sampling(bytes(32)), max_tokens=1, credit=1, stop_ids=()
            ) as run:
                async for event in run:
                    if isinstance(event, Finished):
                        break
    except (NodeError, trio.TooSlowError) as error:
        return Checked(
            "engine",
            "wrong",
            f"it gave no token within {ANSWER_DEADLINE_S:.0f} s: {error or 'silence'}",
            f"its last words are in {patient.config.home / 'log'}; lorikeet ps",
        )
    took = 1000 * (trio.current_time() - began)
    return Checked("engine", "ok", f"it answers: one token in {took:.0f} ms")


async def examine_selling(config: Config) -> Checked:
    """Look whether strangers find somebody where this node sells."""
    host, port = split_address(config.sell, "sell")
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with trio.fail_after(SELLING_DEADLINE_S):
            async with await trio.open_tcp_stream(here, port):
                pass
    except (OSError, trio.TooSlowError) as error:
        return Checked(
            "selling",
            "wrong",
            f"nobody answers at {config.sell}: {error or 'silence'}",
            "start the daemon again after sell was set; lorikeet status",
        )
    if restored(config.home) is not None:
        return Checked("selling", "wrong", SERVES_NOBODY, "lorikeet up in the home that went on")
    return Checked(
        "selling",
        "ok",
        f"at {config.sell}: {config.prompt_price} a token of prompt, {config.completion_price} of"
        " answer",
    )


def _adapters(patient: Patient) -> Checked:
    held = patient.held()
    if not held:
        return Checked(
            "adapters", "note", "none is here: only the base answers", "lorikeet search, then pull"
        )
    return Checked("adapters", "ok", f"{len(held)} are here")


async def _money(patient: Patient) -> AsyncIterator[Checked]:
    money = patient.money
    if money is None or not money.is_paid:
        yield Checked(
            "chain", "note", "there is none: nobody is paid", "set chain_rpc, or join by a token"
        )
        return
    for name, trouble in money.chain_health():
        mend = "wait, or name another node in chain_rpc"
        yield Checked("chain", "wrong" if trouble else "ok", f"{name}: {trouble or 'ok'}", mend)
    try:
        purses = await money.purses()
        stuck = await money.stuck()
    except (NodeError, ChainError, trio.TooSlowError) as error:
        yield Checked("chain", "wrong", f"it does not answer: {error}", "look at chain_rpc")
        return
    yield check_clock(purses.block_at)
    for account in purses.accounts:
        yield _gas(account)
    payer = purses.accounts[-1]
    if patient.config.role == "gateway":
        yield tell_tokens(payer, money.coin)
    for found in _waiting(stuck):
        yield found
    if money.staking is not None and money.staking.standing is not None:
        yield tell_stake(money.staking.standing)
    if money.disputing is not None:
        for dispute in money.disputing.against_us:
            yield tell_dispute(dispute, time.time())
    for found in _decisions(money.decided().ruling, is_paused=money.is_paused()):
        yield found


def tell_tokens(payer: Gas, coin: CoinInfo) -> Checked:
    """Say what there is to pay other nodes with."""
    has = Decimal(payer.tokens).scaleb(-coin.decimals)
    says = f"{payer.what} {payer.address} has {has:f} {coin.symbol}, in which answers are paid here"
    if payer.tokens:
        return Checked("fee token", "ok", says)
    mend = f"send some {coin.symbol} to {payer.address}"
    return Checked("fee token", "wrong", f"{says}: it cannot pay a node", mend)


def _decisions(ruling: Ruling, *, is_paused: bool) -> Iterator[Checked]:
    """Say which of the network's decisions this node applies, and which it refuses."""
    if is_paused:
        yield Checked(
            "posting", "note", "the network's guardian paused it", "wait: it ends by itself"
        )
    if ruling.version:
        yield Checked("parameters", "ok", f"version {ruling.version} of the network's is in force")
    for one in ruling.refusals:
        is_rule = BY_NAME[one.name].kind is Kind.DIGEST
        yield Checked(
            "parameters",
            "wrong" if is_rule else "note",
            f"{one.name} stays {show_value(one.name, one.kept)}: {one.reason}",
            "update this program" if is_rule else "vote for a value that nodes apply",
        )
    if ruling.unknown:
        yield Checked(
            "parameters",
            "note",
            f"{', '.join(ruling.unknown)}: decided, and unknown to this program",
            "update this program",
        )


def tell_stake(standing: Standing) -> Checked:
    """Say what stands behind this node, and whether it is enough for the answers that it announces
    to make at once.
    """
    says = f"{standing.counted / LORI:,.2f} LORI stand behind this node"
    if not standing.announced:
        return Checked("stake", "ok", says)
    says += f", enough for {standing.answers} answers at once; it announces {standing.announced}"
    if standing.answers >= standing.announced:
        return Checked("stake", "ok", says)
    lacking = (standing.needed - standing.counted) / LORI
    less = f", or announce less: max_answers = {standing.answers} in {CONFIG_FILE}"
    return Checked(
        "stake",
        "note",
        f"{says}: clients that look at stake ask others first, or only others",
        f"lorikeet stake add {lacking:g}{less if standing.answers else ''}",
    )


def tell_dispute(found: OwnDispute, now: float) -> Checked:
    """Say what a dispute about weights of ours may cost, and how long something can be done."""
    dispute = found.dispute
    says = f"{to_hex(dispute.challenger)} disputes that weights {to_hex(found.weights)} are ours"
    left_s = dispute.until - now
    if dispute.is_answered:
        return Checked("registry", "note", f"{says}: it is answered, and decided by vote")
    if left_s <= 0:
        over = "the time to answer is over, they are lost as soon as somebody closes it"
        mend = f"lorikeet registry dispute {to_hex(found.weights)} --key KEY, once it is closed"
        return Checked("registry", "wrong", f"{says}: {over}", mend)
    return Checked(
        "registry",
        "wrong",
        f"{says}; without an answer they are lost in {_duration(left_s)}",
        f"lorikeet registry answer {found.number} --key KEY, with {found.bond / LORI:,.2f} LORI",
    )


def _duration(seconds: float) -> str:
    """Seconds for people, rounded down."""
    for unit_s, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def check_clock(block_at: int) -> Checked:
    """Compare this machine's clock with the time of the chain's newest block."""
    behind = time.time() - block_at
    if behind < -MAX_CLOCK_SKEW_S:
        return Checked(
            "clock",
            "wrong",
            f"this machine's clock is {-behind / 60:.0f} minutes behind the chain's",
            "timedatectl set-ntp true",
        )
    if behind > MAX_CLOCK_SKEW_S:
        return Checked(
            "clock",
            "note",
            f"the chain's newest block is {behind / 60:.0f} minutes old: this clock is ahead, or"
            " the chain stands still",
            "compare with another clock",
        )
    told = f"{behind:.0f} s old" if behind >= 0 else f"{-behind:.0f} s ahead of this clock"
    return Checked("clock", "ok", f"the chain's newest block is {told}")


def _gas(account: Gas) -> Checked:
    says = f"{account.what} {account.address} has {account.wei / 1e18:.6f} ETH"
    if account.wei >= account.needed_wei:
        return Checked("gas", "ok", says)
    return Checked(
        "gas",
        "wrong",
        f"{says}; one transaction may take {account.needed_wei / 1e18:.6f}",
        f"send some ETH to {account.address}",
    )


def _waiting(stuck: list[StuckInfo]) -> Iterator[Checked]:
    """Say what earned money waits for, those for whom something must be done first."""
    if not stuck:
        yield Checked("earnings", "ok", "nothing that was earned here waits")
        return
    for obstacle, count in Counter(one.waits_for for one in stuck).most_common():
        amount = sum(one.amount for one in stuck if one.waits_for == obstacle)
        is_lost = obstacle in ("refused", "dead")
        yield Checked(
            "earnings",
            "wrong" if is_lost else "note",
            f"{count} wait for {OBSTACLES[obstacle]} ({amount} units)",
            "lorikeet earnings shows each",
        )
