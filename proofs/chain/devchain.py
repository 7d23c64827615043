"""A chain on this machine with everything deployed: `python -m proofs.chain.devchain --port 0`.

py-evm in this process behind JSON-RPC on loopback, or anvil where its binary is given. Prints one
line of JSON when it serves; ends on SIGTERM or SIGINT, and when the pipe on its standard input is
closed, which is when its parent dies. For development: the keys are known to everybody, the dollars
are free (`--fees lori`: fees are paid in the network's own token instead), and nothing outlives the
process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import get_args

from ..hextext import from_hex, to_hex
from ..signing import Signer
from ..stake import LORI
from .anvil import run_anvil
from .client import ChainClient
from .contract import DeployedContract
from .deploy import (
    DEVELOPMENT_CLAIM_DELAY_S,
    DEVELOPMENT_CLAIM_WINDOW_S,
    DEVELOPMENT_DISPUTES,
    DEVELOPMENT_STAKE,
    DEVELOPMENT_TERMS,
    MULTICALL,
    Deployment,
    deploy_disputes,
    deploy_for_development,
    deploy_governance,
    deploy_lori,
    deploy_stake,
    placed_code,
    rules_for_development,
)
from .evm import MemoryChain
from .local_rpc import memory_rpc
from .rpc import Rpc
from .serve import serve_rpc
from .structs import CONFIRM_DEADLINE_S, Board, FeeToken, Terms
from .wallet import TransactionReceipt, Wallet

CHAIN_ID = 31337
FUND_WEI = 10**21
FUND_DOLLARS = 1_000_000 * 10**6
FUND_LORI = 100_000 * LORI
NUM_FUNDED_KEYS = 10
MOST_FUNDED_AT_ONCE = 100  # of a block's gas each takes 0.4 %
START_DEADLINE_S = 180  # on a busy machine a minute is not enough
WAKE_S = 0.2
STOP_DEADLINE_S = 5


@dataclass(frozen=True)
class DevChain:
    """What the line on standard output says.

    Addresses and keys are 0x text; `funded` maps addresses to secrets.
    """

    rpc: str
    chain_id: int
    channels: str
    collector: str
    token: str
    settlement: str
    aggregator: str
    aggregator_key: str | None
    funded: dict[str, str]
    owner_key: str = ""
    first_block: int = 0
    lori: str = ""
    governor: str = ""
    registry: str = ""
    stake: str = ""

    @property
    def deployment(self) -> Deployment:
        """The addresses as bytes."""
        channels, collector, token, settlement = map(
            from_hex, (self.channels, self.collector, self.token, self.settlement)
        )
        return Deployment(
            self.chain_id,
            channels,
            collector,
            token,
            settlement=settlement,
            first_block=self.first_block,
            lori=from_hex(self.lori),
            governor=from_hex(self.governor),
            registry=from_hex(self.registry),
            stake=from_hex(self.stake),
        )

    def secrets(self) -> list[bytes]:
        """Secrets of accounts that have gas, LORI, and dollars where there are any."""
        return [from_hex(secret) for secret in self.funded.values()]

    def client(self, secret: bytes) -> ChainClient:
        """A client for one key."""
        return ChainClient(Rpc(self.rpc), self.deployment, secret)


def known_secret(name: str) -> bytes:
    """A key that is the same on every development chain."""
    return hashlib.sha256(b"lorikeet devchain " + name.encode()).digest()


@contextmanager
def open_chain(
    aggregator: bytes | None = None,
    fund: Sequence[bytes] = (),
    anvil: str | None = None,
    *,
    witnesses: Sequence[bytes] = (),
    quorum: int = 0,
    fees: FeeToken = "dollars",
    command: Sequence[str] = (sys.executable, "-m", "proofs.chain.devchain"),
) -> Iterator[DevChain]:
    """A chain in its own process while the context lasts.

    `anvil`: path of the binary, "auto" to use the one on PATH. A `quorum` of the witnesses must
    sign each header. `command`: this module as a program, without the options.
    """
    command = [*command, "--port", "0"]
    command += ["--aggregator", to_hex(aggregator)] if aggregator else []
    command += [word for address in fund for word in ("--fund", to_hex(address))]
    binary = shutil.which("anvil") if anvil == "auto" else anvil
    command += ["--anvil", binary] if binary else []
    command += [word for address in witnesses for word in ("--witness", to_hex(address))]
    command += ["--quorum", str(quorum), "--fees", fees]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin
    assert process.stdout
    killer = threading.Timer(START_DEADLINE_S, process.kill)
    killer.start()
    try:
        line = process.stdout.readline()
        killer.cancel()
        if not line:
            raise RuntimeError(
                "the development chain ended before it served; its standard error says why"
            )
        yield DevChain(**json.loads(line))
    finally:
        killer.cancel()
        process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    options = read_options(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop_when_parent_closes(stop)
    aggregator = (
        from_hex(options.aggregator)
        if options.aggregator
        else Signer(known_secret("aggregator")).address
    )
    secrets = [known_secret(f"account {number}") for number in range(NUM_FUNDED_KEYS)]
    funded = [
        Signer(known_secret("deployer")).address,
        aggregator,
        *(Signer(secret).address for secret in secrets),
    ]
    funded += map(from_hex, options.fund)
    witnesses = tuple(map(from_hex, options.witness))
    owner = Signer(known_secret("deployer")).address
    board = Board(owner, aggregator, witnesses, options.quorum)
    with run_node(options, board, funded) as (url, deployment):
        key = None if options.aggregator else known_secret("aggregator")
        print(json.dumps(asdict(describe(url, deployment, aggregator, key, secrets))), flush=True)
        while not stop.wait(
            WAKE_S
        ):  # a signal that lands just before a wait without end would not end it
            pass
    return 0


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m proofs.chain.devchain", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes any that is free"
    )
    parser.add_argument(
        "--aggregator", metavar="0x…", help="who may post headers; a well-known key when left out"
    )
    parser.add_argument(
        "--fund",
        metavar="0x…",
        action="append",
        default=[],
        help="an address that gets gas and tokens; may be repeated",
    )
    parser.add_argument(
        "--witness",
        metavar="0x…",
        action="append",
        default=[],
        help="an address that may co-sign headers; may be repeated",
    )
    parser.add_argument(
        "--quorum", type=int, default=0, help="how many witnesses must sign each header"
    )
    parser.add_argument(
        "--answer-time",
        type=int,
        default=DEVELOPMENT_TERMS.answer_time,
        metavar="SECONDS",
        help="within which an aggregator answers a demand; more for a machine that is busy",
    )
    parser.add_argument(
        "--fees",
        choices=get_args(FeeToken),
        default="dollars",
        help="in what fees are paid: pretend dollars, or the network's own token",
    )
    parser.add_argument("--anvil", metavar="PATH", help="run this anvil instead of py-evm")
    return parser.parse_args(arguments)


@contextmanager
def run_node(
    options: argparse.Namespace, board: Board, funded: Sequence[bytes]
) -> Iterator[tuple[str, Deployment]]:
    """A node with all contracts in place, and gas and tokens for everybody; its URL."""
    balances = dict.fromkeys(funded, FUND_WEI)
    terms = terms_of(options.answer_time)
    if options.anvil:
        with run_anvil(options.anvil, options.port, CHAIN_ID, balances) as url:
            yield url, deploy(Rpc(url), board, funded, terms, options.fees)
    else:
        chain = MemoryChain(CHAIN_ID, placed_code(), balances)
        deployment = deploy(memory_rpc(chain), board, funded, terms, options.fees)
        with serve_rpc(chain, options.port) as url:
            yield url, deployment


def terms_of(answer_time: int) -> Terms:
    """Return a development chain's terms, with so much time to answer; a header can be challenged
    for as many answers as usual.
    """
    usual = DEVELOPMENT_TERMS
    window = usual.window // usual.answer_time * answer_time
    return replace(usual, answer_time=answer_time, window=window)


def deploy(
    rpc: Rpc, board: Board, funded: Sequence[bytes], terms: Terms, fees: FeeToken
) -> Deployment:
    """Tokens, settlement with the bond in it, and what is voted with; some of each token for
    everybody, and all votes for the deployer. The connection is given back.
    """
    deployer = known_secret("deployer")
    wallet = Wallet(rpc, deployer, CHAIN_ID)
    lori = deploy_lori(wallet, wallet.address)
    token = lori if fees == "lori" else None
    deployment = deploy_for_development(rpc, wallet, board, terms, token)
    governor = deploy_governance(wallet, lori, rules_for_development(wallet.address))
    client = ChainClient(rpc, deployment, deployer)
    disputes = deploy_disputes(
        wallet,
        lori,
        client.open_governance(governor).timelock.address,
        DEVELOPMENT_DISPUTES,
        delay_s=DEVELOPMENT_CLAIM_DELAY_S,
        window_s=DEVELOPMENT_CLAIM_WINDOW_S,
    )
    registry = client.open_disputes(disputes).registry
    stake = deploy_stake(wallet, lori, deployment.settlement, DEVELOPMENT_STAKE)
    deployment = replace(deployment, lori=lori, governor=governor, registry=registry, stake=stake)
    client = ChainClient(rpc, deployment, deployer)
    for first in range(0, len(funded), MOST_FUNDED_AT_ONCE):
        fund(client, funded[first : first + MOST_FUNDED_AT_ONCE])
    client.open_governance(governor).delegate(client.address)
    rpc.close()
    return deployment


def mint(client: ChainClient, account: bytes, amount: int) -> TransactionReceipt:
    """Give an account pretend dollars; only the token of a development chain has a faucet."""
    token = client.deployment.token
    faucet = DeployedContract("DevDollar", token, client.rpc, client.wallet, CONFIRM_DEADLINE_S)
    return faucet.send("mint", account, amount)


def fund(client: ChainClient, accounts: Sequence[bytes]) -> None:
    """Give accounts some of each token, in two transactions whatever their number. Of the network's
    own nobody can make more: the client has it.
    """
    deployment = client.deployment
    together = DeployedContract(
        "Multicall3", MULTICALL, client.rpc, client.wallet, CONFIRM_DEADLINE_S
    )
    lori = together.beside("LorikeetToken", deployment.lori)
    lori.send("approve", MULTICALL, len(accounts) * FUND_LORI)
    calls = [
        (lori.address, lori.encode("transferFrom", client.address, one, FUND_LORI))
        for one in accounts
    ]
    if deployment.token != deployment.lori:
        dollars = together.beside("DevDollar", deployment.token)
        calls += [(dollars.address, dollars.encode("mint", one, FUND_DOLLARS)) for one in accounts]
    together.send("tryAggregate", True, calls)


def describe(
    url: str, deployment: Deployment, aggregator: bytes, key: bytes | None, secrets: Sequence[bytes]
) -> DevChain:
    """The line on standard output."""
    return DevChain(
        rpc=url,
        chain_id=deployment.chain_id,
        channels=to_hex(deployment.channels),
        collector=to_hex(deployment.collector),
        token=to_hex(deployment.token),
        settlement=to_hex(deployment.settlement),
        aggregator=to_hex(aggregator),
        aggregator_key=to_hex(key) if key else None,
        funded={to_hex(Signer(secret).address): to_hex(secret) for secret in secrets},
        owner_key=to_hex(known_secret("deployer")),
        first_block=deployment.first_block,
        lori=to_hex(deployment.lori),
        governor=to_hex(deployment.governor),
        registry=to_hex(deployment.registry),
        stake=to_hex(deployment.stake),
    )


def stop_when_parent_closes(stop: threading.Event) -> None:
    """Stop at the end of standard input, where that is a pipe."""
    mode = os.fstat(0).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
