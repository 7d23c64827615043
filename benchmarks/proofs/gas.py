"""Measures how much gas each call of the contracts uses, and compares with contracts/snapshots.

Every number follows from the committed artifacts: the chain is in memory, keys, salts and times are
fixed, so every machine finds the same. Measures no time.

    python -m benchmarks.proofs.gas            prints what it measures
    python -m benchmarks.proofs.gas --write    and writes it to the snapshots
    python -m benchmarks.proofs.gas --check    fails where a snapshot says something else
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from proofs.chain.deploy import deploy_settlement
from proofs.chain.structs import claim_values, config_values
from proofs.chain.wallet import TransactionReceipt
from proofs.sumtree import PayoutTree
from proofs.voucher import ChannelConfig
from tests.proofs.chain.world import World, address, memory_world

SNAPSHOTS = Path(__file__).resolve().parents[2] / "contracts" / "snapshots"
COMMAND = "scripts/contracts"
MUCH = 10**6
TIME = 2_000_000_000
"""A deposit is valid until then: in seconds, on the chain's clock."""
NUM_ACCOUNTS = 64
NUM_VOUCHERS = 10

Gas = Mapping[str, int]
Row = tuple[str, int | None, int | None]


def main() -> int:
    """Measure; then print, write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="write the snapshots")
    mode.add_argument("--check", action="store_true", help="fail where a snapshot differs")
    options = parser.parse_args()
    measured = {"Channels": dict(measure_channels()), "Settlement": dict(measure_settlement())}
    if options.check:
        return check(measured)
    for contract, gas in measured.items():
        print(f"{contract}\n" + "".join(f"  {name:58}{used:>9,}\n" for name, used in gas.items()))
        if options.write:
            SNAPSHOTS.mkdir(exist_ok=True)
            (SNAPSHOTS / f"{contract}.json").write_text(json.dumps(gas, indent=1) + "\n")
    return 0


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
    world, _ = memory_world()
    there = world.channels("operator")
    payer = world.client("payer")
    operator = world.client("operator")
    config = channel(world, 0)
    yield "deposit, which opens a channel", deposit(world, config, salt=1).gas_used
    yield "deposit, into an open channel", deposit(world, config, salt=2).gas_used
    (claimed,) = operator.channels.claim([world.voucher(config, 1)]).transactions
    yield "claim of 1 voucher, the receiver's first of all", claimed.gas_used

    opened = [channel(world, number) for number in range(1, NUM_VOUCHERS + 2)]
    for number, each in enumerate(opened):
        deposit(world, each, salt=3 + number)
    first, *others = opened
    (claimed,) = operator.channels.claim([world.voucher(first, 100)]).transactions
    yield "claim of 1 voucher", claimed.gas_used
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
    """Every call of the settlement contract."""
    world, _ = memory_world()
    deployer = world.client("deployer")
    anybody = world.client("anybody")
    places = (world.deployment.channels, world.deployment.token)
    deploy_settlement(deployer.wallet, address("aggregator"), *places)
    yield "deployment", world.rpc.web3.eth.get_block("latest")["gasUsed"]

    accounts = [address(f"account {number}") for number in range(NUM_ACCOUNTS)]
    world.earn(MUCH)
    first = dict.fromkeys(accounts, 100)
    header = world.next_header(first)
    yield "post, the first", world.post(header).gas_used
    paid = anybody.settlement.claim(header, PayoutTree(first).prove(accounts[0]))
    yield f"claim from a tree of {NUM_ACCOUNTS} accounts, the first of all", paid.gas_used
    paid = anybody.settlement.claim(header, PayoutTree(first).prove(accounts[1]))
    yield f"claim from a tree of {NUM_ACCOUNTS} accounts, an account's first", paid.gas_used

    world.earn(MUCH)
    second = dict.fromkeys(accounts, 200)
    header = world.next_header(second)
    yield "post, with fees to pull in", world.post(header).gas_used
    paid = anybody.settlement.claim(header, PayoutTree(second).prove(accounts[1]))
    yield f"claim from a tree of {NUM_ACCOUNTS} accounts, an account's next", paid.gas_used
    yield "post, with none", world.post(world.next_header(second)).gas_used


def channel(world: World, number: int) -> ChannelConfig:
    """One of the payer's channels."""
    return world.config(salt=number.to_bytes(32, "big"))


def deposit(world: World, config: ChannelConfig, salt: int) -> TransactionReceipt:
    """A deposit whose every byte is fixed: what call data costs depends on its zeros."""
    channels = world.client("payer").channels
    return channels.relay_deposit(config, channels.sign_deposit(config, MUCH, TIME, salt))


if __name__ == "__main__":
    sys.exit(main())
