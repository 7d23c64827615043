"""Measures how much gas each call of the contracts uses, and compares with contracts/snapshots.

Every number follows from the committed artifacts: the chain is in memory, keys, salts and times are
fixed, so every machine finds the same. Measures no time.

    python -m benchmarks.proofs.gas            prints what it measures
    python -m benchmarks.proofs.gas --write    and writes it to the snapshots
    python -m benchmarks.proofs.gas --check    fails where a snapshot says something else
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.proofs.crowd import (
    LIES,
    NUM_ENTRIES,
    NUM_SHARES,
    TRACKED,
    WITNESSES,
    Crowd,
    gather,
    remind,
)
from proofs.chain.deploy import (
    DEVELOPMENT_DISPUTES,
    DEVELOPMENT_STAKE,
    deploy_disputes,
    deploy_governance,
    deploy_lori,
    deploy_registry,
    deploy_settlement,
    deploy_stake,
    rules_for_development,
)
from proofs.chain.devchain import mint
from proofs.chain.governance import Voice
from proofs.chain.structs import Board, claim_values, config_values
from proofs.court import Part, Question
from proofs.evidence import show_false_verdict, show_two_receipts
from proofs.parameters import NODE_SHARE, PARAMETERS
from proofs.registration import Claim
from proofs.signing import Signer
from proofs.stake import LORI
from proofs.voucher import ChannelConfig
from proofs.weights import WeightsDigest
from tests.proofs.chain.forks import convict, false_attestation, sign_twice
from tests.proofs.chain.world import TERMS, World, address, memory_world, secret

SNAPSHOTS = Path(__file__).resolve().parents[2] / "contracts" / "snapshots"
COMMAND = "scripts/contracts"
MUCH = 10**6
NUM_VOUCHERS = 10
PAGE = 100
CLAIM_DELAY_S = 60
POST = "post, with fees to pull in and 2 of 2 witnesses"
CLAIM = "claim, again"
EXIT = f"exit with {NUM_SHARES} shares"
VOUCHER = f"claim of {PAGE} vouchers, each"
GROUNDS = "why " * 100  # a proposal's text
GOALS = {POST: 110_000, CLAIM: 95_000, EXIT: 400_000, VOUCHER: 22_500}
PROOF_GOAL = 1_000_000

Gas = Mapping[str, int]
Row = tuple[str, int | None, int | None]


def main() -> int:
    """Measure; then print, write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the snapshots")
    mode.add_argument("--check", action="store_true", help="fail where a snapshot differs")
    options = parser.parse_args()
    measured = {
        "Channels": dict(measure_channels()),
        "Settlement": dict(measure_settlement()),
        "Governance": dict(measure_governance()),
        "Registry": dict(measure_registry()),
        "Disputes": dict(measure_disputes()),
        "Stake": dict(measure_stake()),
    }
    if options.check:
        return check(measured)
    for contract, gas in measured.items():
        print(
            contract
            + "".join(f"\n  {name:58}{used:>10,}{goal(name)}" for name, used in gas.items())
        )
        if options.write:
            SNAPSHOTS.mkdir(exist_ok=True)
            (SNAPSHOTS / f"{contract}.json").write_text(json.dumps(gas, indent=1) + "\n")
    return 0


def goal(name: str) -> str:
    """The goal beside a call, if it has one."""
    judged = name.startswith(("prove", "answer", "convict"))
    limit = GOALS.get(name, PROOF_GOAL if judged else None)
    return "" if limit is None else f"   goal {limit:,}"


def check(measured: Mapping[str, Gas]) -> int:
    """Fail where a call costs more or less than its snapshot says, with a table of both."""
    changed = {
        contract: rows
        for contract, gas in measured.items()
        if (rows := compare(load_snapshot(contract), gas))
    }
    if not changed:
        print("gas: as the snapshots say")
        return 0
    for contract, rows in changed.items():
        print(f"{contract:60}{'before':>11}{'after':>11}{'change':>11}")
        for row in rows:
            print(show(row))
    print(f"gas: other than the snapshots say; if that is as it should be, run {COMMAND}")
    return 1


def load_snapshot(contract: str) -> Gas:
    """Read what was measured before; empty when nothing was."""
    path = SNAPSHOTS / f"{contract}.json"
    snapshot: Gas = json.loads(path.read_text()) if path.exists() else {}
    return snapshot


def compare(before: Gas, after: Gas) -> list[Row]:
    """List the calls whose gas differs: name, before, after; None where it is missing."""
    names = [*before, *(name for name in after if name not in before)]
    rows = [(name, before.get(name), after.get(name)) for name in names]
    return [row for row in rows if row[1] != row[2]]


def show(row: Row) -> str:
    """One line of the table."""
    name, before, after = row
    columns = ["-" if gas is None else f"{gas:,}" for gas in (before, after)]
    change = "" if before is None or after is None else f"{after - before:+,}"
    return f"  {name:58}{columns[0]:>11}{columns[1]:>11}{change:>11}"


def measure_channels() -> Iterator[tuple[str, int]]:
    """Every call of the channels contract."""
    world, _ = memory_world(seed="gas")
    there = world.channels("operator")
    payer = world.client("payer")
    operator = world.client("operator")
    config = channel(world, 0)
    yield "deposit, which opens a channel", world.deposit(config, MUCH).gas_used
    yield "deposit, into an open channel", world.deposit(config, MUCH).gas_used
    (claimed,) = operator.channels.claim([world.voucher(config, 1)]).transactions
    yield "claim of 1 voucher, the receiver's first of all", claimed.gas_used

    opened = [channel(world, number) for number in range(1, PAGE + 2)]
    for each in opened:
        world.deposit(each, MUCH)
    first, *others = opened
    (claimed,) = operator.channels.claim([world.voucher(first, 100)]).transactions
    yield "claim of 1 voucher", claimed.gas_used
    claims = [world.voucher(each, 50) for each in others]
    (claimed,) = operator.channels.claim(claims).transactions
    yield VOUCHER, claimed.gas_used // PAGE
    others = others[:NUM_VOUCHERS]
    claims = [world.voucher(each, 100) for each in others]
    (claimed,) = operator.channels.claim(claims).transactions
    yield f"claim of {NUM_VOUCHERS} vouchers, each of its channel", claimed.gas_used
    rows = [claim_values(world.voucher(each, 200)) for each in others]
    signature = operator.wallet.signer.sign_digest(there.read_one("getClaimBatchDigest", rows))
    relayed = world.channels("anybody").send("claimWithSignature", rows, signature)
    yield f"claimWithSignature of {NUM_VOUCHERS} vouchers", relayed.gas_used

    payer.channels.settle()  # the settlement contract has money from here on
    operator.channels.claim([world.voucher(first, 200)])
    yield "settle, with fees to send", payer.channels.settle().gas_used
    yield "settle, with none", payer.channels.settle().gas_used

    yield "initiateWithdraw", payer.channels.initiate_withdraw(config, 100).gas_used
    world.rpc.call("evm_increaseTime", config.withdraw_delay)
    yield "finalizeWithdraw", payer.channels.finalize_withdraw(config).gas_used
    yield "refund, a channel's first", operator.channels.refund(config, 100).gas_used
    yield "refund, a channel's next", operator.channels.refund(config, 100).gas_used
    digest = there.read_one("getRefundDigest", operator.channels.id_of(config), 2, 100)
    signed = operator.wallet.signer.sign_digest(digest)
    relay = world.channels("anybody")
    refunded = relay.send("refundWithSignature", config_values(config), 100, 2, signed)
    yield "refundWithSignature", refunded.gas_used


def measure_settlement() -> Iterator[tuple[str, int]]:
    """Every call of the settlement contract, and of the court."""
    witnesses = sorted(address(name) for name in WITNESSES)
    world, _ = memory_world(witnesses=tuple(witnesses), quorum=len(witnesses), seed="gas")
    deployer = world.client("deployer")
    board = Board(address("deployer"), address("aggregator"))
    receipt = deploy_settlement(
        deployer.wallet, board, world.deployment.channels, world.deployment.token, TERMS
    )
    yield "deployment, with the court", receipt.gas_used

    crowd = gather(world)
    yield "post, the first", crowd.post()
    yield POST, crowd.post()
    posted = crowd.final()
    anybody = world.client("anybody").settlement
    yield "claim, the first of all", anybody.claim(posted, crowd.show_account(0)).gas_used
    yield "claim, an account's first", anybody.claim(posted, crowd.show_account(1)).gas_used
    crowd.post()
    posted = crowd.final()
    yield CLAIM, anybody.claim(posted, crowd.show_account(0)).gas_used
    yield from measure_court(crowd)
    yield from measure_office(world)
    yield from measure_exits()


def measure_court(crowd: Crowd) -> Iterator[tuple[str, int]]:
    """Each answer and each proof; what a proof does is undone before the next."""
    rpc = crowd.world.rpc
    court = crowd.world.client("anybody").settlement.court
    crowd.post()
    for question in (
        Question(Part.CHANNEL, TRACKED),
        Question(Part.ACCOUNT, 0),
        Question(Part.ENTRY, 0, 0),
        Question(Part.ENTRY, 0, NUM_ENTRIES),
    ):
        demanded = court.demand(crowd.posted[-1], question)
        if question.part is Part.CHANNEL:
            yield "demand, the first of all", demanded.gas_used
        answer = crowd.answer(question)
        name = type(answer).__name__.removesuffix("Answer")
        yield f"answer{name}", court.answer(crowd.posted[-1], answer).gas_used
    undo = rpc.call("evm_snapshot")
    question = Question(Part.CHANNEL, 0)
    court.demand(crowd.posted[-1], question)
    crowd.world.wait(TERMS.answer_time + 1)
    convicted = court.convict_default(crowd.posted[-1], crowd.posted[-2], question)
    yield "convictDefault", convicted.gas_used
    rpc.call("evm_revert", undo)
    yield from measure_promise(crowd)
    for lie in LIES:
        undo = rpc.call("evm_snapshot")
        liar = crowd.copy()
        accusation = lie(liar)
        liar.post(lying=True)
        convicted = court.prove(liar.posted[-1], liar.posted[-2], accusation)
        yield f"prove{type(accusation).__name__}", convicted.gas_used
        rpc.call("evm_revert", undo)


def measure_promise(crowd: Crowd) -> Iterator[tuple[str, int]]:
    """What it costs to ask for a promise, to show it kept, to show it broken."""
    rpc = crowd.world.rpc
    court = crowd.world.client("anybody").settlement.court
    undo = rpc.call("evm_snapshot")
    reminder = remind(crowd)
    crowd.world.wait(1)
    stood = court.stand(reminder, crowd.posted[-1], crowd.show_channel())
    yield "stand", stood.gas_used
    later = crowd.copy()
    again = rpc.call("evm_snapshot")
    later.post()
    kept = court.answer_stand(reminder.promise, later.posted[-1], later.show_channel())
    yield "answerStand", kept.gas_used
    rpc.call("evm_revert", again)
    crowd.world.wait(TERMS.window + 1)
    later = crowd.copy()
    later.post(lying=True)
    crowd.world.wait(TERMS.answer_time + 1)
    broken = court.convict_broken(reminder.promise, 1, later.posted[-1])
    yield "convictBroken", broken.gas_used
    rpc.call("evm_revert", undo)


def measure_office(world: World) -> Iterator[tuple[str, int]]:
    """Who is aggregator, and how that changes."""
    owner = world.client("deployer").settlement
    undo = world.rpc.call("evm_snapshot")
    yield "fundBond", world.client("payer").settlement.fund_bond(1).gas_used
    yield "alive", world.client("aggregator").settlement.say_alive().gas_used
    board = Board(address("deployer"), address("other"), (address("anybody"),), 1)
    yield "propose", owner.propose(board).gas_used
    world.wait(TERMS.timelock)
    yield "install", owner.install(board).gas_used
    yield "collect", owner.collect(address("aggregator")).gas_used
    world.rpc.call("evm_revert", undo)
    world.wait(TERMS.silence)
    yield "dismiss", owner.dismiss().gas_used


def measure_exits() -> Iterator[tuple[str, int]]:
    """A channel with 8 shares among 10,000, with an aggregator that is gone."""
    world, _ = memory_world(seed="gas")
    crowd = gather(world)
    crowd.post()
    before = crowd.copy()
    crowd.pay()
    settlement = world.client("anybody").settlement
    undo = world.rpc.call("evm_snapshot")
    forced = settlement.force(crowd.config, crowd.channel, crowd.signatures[0])
    yield "force", forced.gas_used
    crowd.post(lying=True)
    answered = settlement.answer_forced(crowd.posted[-1], crowd.show_channel())
    yield "answerForced", answered.gas_used
    world.rpc.call("evm_revert", undo)
    world.wait(TERMS.silence)
    here = before.posted[-1]
    undo = world.rpc.call("evm_snapshot")
    first = settlement.exit(before.exit_to(crowd), here)
    yield f"{EXIT}, the first, of accounts that had nothing", first.gas_used
    world.rpc.call("evm_revert", undo)
    for line in crowd.payouts:
        mint(world.client("deployer"), line.account, 1)
    settlement.dismiss()
    undo = world.rpc.call("evm_snapshot")
    yield EXIT, settlement.exit(before.exit_to(crowd), here).gas_used
    world.rpc.call("evm_revert", undo)
    request = before.exit_to(crowd, cosigned=False)
    yield "exit by one signature", settlement.exit(request, here).gas_used
    world.wait(TERMS.window)
    finished = settlement.finish_exit(crowd.channel.channel_id, request.paid, request.owed)
    yield "finishExit", finished.gas_used


def measure_governance() -> Iterator[tuple[str, int]]:
    """A decision from its proposal to the parameter, and a pause."""
    world, _ = memory_world(seed="gas")
    wallet = world.client("deployer").wallet
    lori = deploy_lori(wallet, wallet.address)
    rules = rules_for_development(address("anybody"))
    governor = deploy_governance(wallet, lori, rules)
    voters = world.client("deployer").open_governance(governor)
    yield "delegate, to oneself", voters.delegate(wallet.address).gas_used
    world.wait(1)
    proposed = voters.propose([(NODE_SHARE, 5_500)], GROUNDS)
    yield f"propose a change, with grounds of {len(GROUNDS)} bytes", proposed.gas_used
    (proposal,) = voters.proposals()
    world.wait(rules.voting.voting_delay + 1)
    yield "castVote, the first", voters.vote(proposal.id, Voice.FOR).gas_used
    world.wait(rules.voting.voting_period)
    yield "queue", voters.queue(proposal).gas_used
    world.wait(rules.wait)
    changed = voters.execute(proposal).gas_used
    yield f"execute: a version of {len(PARAMETERS)} parameters", changed
    guardian = world.client("anybody").open_governance(governor)
    yield "pause", guardian.pause(60).gas_used
    yield "resume", guardian.resume().gas_used


def measure_registry() -> Iterator[tuple[str, int]]:
    """A claim from its commitment on, one of what is made of two others, and handing on."""
    world, _ = memory_world(seed="gas")
    registry = world.client("anybody").open_registry(
        deploy_registry(world.client("deployer").wallet, CLAIM_DELAY_S, CLAIM_DELAY_S)
    )
    signer = Signer(secret("operator"))
    words = [hashlib.sha256(b"weights %d" % number).digest() for number in range(9)]
    pairs = [WeightsDigest(*words[number : number + 2]) for number in (0, 2, 4)]
    parents = ((), (), (words[0], words[2]))
    for weights, made_of in zip(pairs, parents, strict=True):
        claim = Claim(signer.address, weights, words[6], 250, made_of, words[7])
        committed = registry.commit(claim).gas_used
        world.wait(CLAIM_DELAY_S)
        signature = claim.sign(signer, world.deployment.chain_id, registry.address)
        registered = registry.register(claim, signature).gas_used
        if weights is pairs[0]:
            yield "commit", committed
            yield "register, the first of all", registered
        elif not made_of:
            yield "register", registered
    yield "register, made of two others", registered
    own = world.client("operator").open_registry(registry.address)
    yield "handOn", own.hand_on(words[0], address("other")).gas_used


def measure_disputes() -> Iterator[tuple[str, int]]:
    """A dispute that nobody answers, and one that nobody decides."""
    world, _ = memory_world(seed="gas")
    wallet = world.client("deployer").wallet
    lori = deploy_lori(wallet, wallet.address)
    at = deploy_disputes(
        wallet,
        lori,
        address("anybody"),
        DEVELOPMENT_DISPUTES,
        delay_s=CLAIM_DELAY_S,
        window_s=CLAIM_DELAY_S,
    )
    disputes = world.client("deployer").open_disputes(at)
    registry = world.client("deployer").open_registry(disputes.registry)
    signer = Signer(secret("operator"))
    weights = WeightsDigest(b"\1" * 32, b"\2" * 32)
    claim = Claim(signer.address, weights, b"\3" * 32, 250, (), b"\4" * 32)
    registry.commit(claim)
    world.wait(CLAIM_DELAY_S)
    signature = claim.sign(signer, world.deployment.chain_id, registry.address)
    registry.register(claim, signature)
    yield "open, the first of all", disputes.open(weights.brain).gas_used
    world.wait(DEVELOPMENT_DISPUTES.answer_time)
    yield "close", disputes.close(1).gas_used
    disputes.open(weights.brain)
    yield "answer", disputes.answer(2).gas_used
    world.wait(DEVELOPMENT_DISPUTES.judge_time)
    yield "lapse", disputes.lapse(2).gas_used


def measure_stake() -> Iterator[tuple[str, int]]:
    """Stake put, thawed and taken, and each offence."""
    world, _ = memory_world(seed="gas")
    wallet = world.client("deployer").wallet
    lori = deploy_lori(wallet, wallet.address)
    at = deploy_stake(wallet, lori, world.deployment.settlement, DEVELOPMENT_STAKE)
    holder = world.client("deployer").open_stake(at)
    operator = address("operator")
    yield "stake, an operator's first", holder.add(operator, 1_000 * LORI).gas_used
    yield "stake", holder.add(operator, 1_000 * LORI).gas_used
    yield "thaw", holder.thaw(operator, 100 * LORI).gas_used
    network = world.client("anybody").network
    configs = [world.config(number=number) for number in range(2)]
    pairs = [show_two_receipts(config, *sign_twice(config, network), network) for config in configs]
    reporter = world.client("anybody").open_stake(at)
    yield "slashReceipts, a reporter's first", reporter.show(pairs[0]).gas_used
    yield "slashReceipts", reporter.show(pairs[1]).gas_used
    world.wait(DEVELOPMENT_STAKE.thaw)
    yield "withdraw", holder.withdraw(operator).gas_used
    holder.add(address("other"), 1_000 * LORI)
    verdict = show_false_verdict(false_attestation("other", configs[0], network), network)
    yield "slashVerdict, of a record of 0.6 kB", reporter.show(verdict).gas_used
    holder.add(address("aggregator"), 1_000 * LORI)
    convict(world)
    yield "slashConvicted", reporter.show_conviction(1).gas_used


def channel(world: World, number: int) -> ChannelConfig:
    """One of the payer's channels."""
    return world.config(number=number)


if __name__ == "__main__":
    sys.exit(main())
