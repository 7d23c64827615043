"""Says where the contracts are on a chain, and brings them there.

Knows no key and no process: who deploys gives a wallet.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from ..digest import X402_CHANNELS, Network, keccak
from ..hextext import to_hex
from ..parameters import PARAMETERS, name_word
from ..stake import LORI, StakeTerms
from .abi import encode, split_kinds
from .compiled import load_contract
from .contract import DeployedContract
from .disputes import DisputeRules
from .governance import VotingRules
from .structs import CONFIRM_DEADLINE_S, Board, Terms, board_values

if TYPE_CHECKING:
    from .rpc import Rpc
    from .wallet import TransactionReceipt, Wallet

# x402 signs for these addresses on every chain. Where the real contracts are not deployed, as on a
# chain that just started, ours are placed there.
CHANNELS = X402_CHANNELS
COLLECTOR = bytes.fromhex("4020806089470a89826cb9fb1f4059150b550004")
MULTICALL = bytes.fromhex("ca11bde05977b3631167028862be2a173976ca11")
PLACED = {CHANNELS: "Channels", COLLECTOR: "Erc3009Collector", MULTICALL: "Multicall3"}

GOVERNOR_TYPE = "(address,address,address,address,(uint48,uint32,uint256,uint256))"
TERMS_TYPE = "(uint64,uint64,uint64,uint64,uint128,uint128)"
DEVELOPMENT_TERMS = Terms(
    window=6, answer_time=3, silence=600, timelock=10, bond=1_000_000, demand_fee=10_000
)
"""Short, so that a demonstration ends today: a bond of one dollar, a cent for a demand. Only the
silence is longer: an aggregator on a busy machine, or on one that slept, keeps its office.
"""
STAKE_TYPE = "(address,address,(uint64,uint256,uint16,uint256,uint16))"
DEVELOPMENT_STAKE = StakeTerms(
    thaw=20, per_answer=100 * LORI, slash_bps=5_000, cap=10_000 * LORI, bounty_bps=2_000
)
"""Half of what stands behind an operator for each offence; of that a fifth to who shows it."""
DISPUTES_TYPE = "(address,address,(uint256,uint16,uint64,uint64),uint64,uint64)"
DEVELOPMENT_DISPUTES = DisputeRules(
    bond=1_000 * LORI, burn_bps=2_000, answer_time=60, judge_time=600
)
DEVELOPMENT_CLAIM_DELAY_S = 2
DEVELOPMENT_CLAIM_WINDOW_S = 600


@dataclass(frozen=True)
class CongressRules:
    """How a network decides: how it votes, how long a decision waits, and who may pause posting for
    how long, until when. Times in seconds.
    """

    voting: VotingRules
    wait: int
    guardian: bytes
    guardian_term: int
    max_pause: int


def rules_for_development(guardian: bytes) -> CongressRules:
    """Short, so that a decision is made today."""
    voting = VotingRules(voting_delay=1, voting_period=10, threshold=1_000 * LORI, quorum_percent=4)
    return CongressRules(voting, 2, guardian, guardian_term=30 * 86_400, max_pause=60)


@dataclass(frozen=True)
class Deployment:
    """The contracts of one network; all addresses are 20 bytes."""

    chain_id: int
    channels: bytes
    collector: bytes
    token: bytes
    settlement: bytes
    first_block: int = 0  # no header was posted before this one
    lori: bytes = b""  # the network's own token; empty where it has none that is known here
    governor: bytes = b""  # what is voted at; empty likewise
    registry: bytes = b""  # whose weights are; empty likewise
    stake: bytes = b""  # what stands behind operators; empty likewise

    @property
    def network(self) -> Network:
        """What signatures for these contracts are bound to."""
        return Network(self.chain_id, self.settlement, self.token, self.channels)


def placed_code() -> dict[bytes, bytes]:
    """What a development chain has at x402's addresses.

    These contracts have no constructor and no immutables.
    """
    return {address: load_contract(name).runtime_bytecode for address, name in PLACED.items()}


def place_code(rpc: Rpc) -> None:
    """Put the code where it belongs on a running anvil."""
    for address, code in placed_code().items():
        rpc.call("anvil_setCode", to_hex(address), to_hex(code))


def deploy_dev_dollar(wallet: Wallet) -> bytes:
    """A new DevDollar; refused by its constructor on any chain that is not for development."""
    return wallet.send(b"", load_contract("DevDollar").bytecode).contract


def deploy_lori(wallet: Wallet, holder: bytes) -> bytes:
    """A new token of the network's own, all of which belongs to `holder`."""
    arguments = encode(("address",), (holder,))
    return wallet.send(b"", load_contract("LorikeetToken").bytecode + arguments).contract


def deploy_registry(wallet: Wallet, delay_s: int, window_s: int) -> bytes:
    """A new registry, in which a claim may be shown `delay_s` after it was committed to, and takes
    the place of a later one within `window_s`. Nobody can dispute there.
    """
    return _deploy(wallet, "Registry", "(uint64,uint64,address)", (delay_s, window_s, bytes(20)))


def deploy_disputes(
    wallet: Wallet,
    lori: bytes,
    timelock: bytes,
    rules: DisputeRules,
    *,
    delay_s: int,
    window_s: int,
) -> bytes:
    """A new contract of disputes, which brings its registry along (`delay_s`, `window_s` as above),
    and whose disputes this timelock decides.
    """
    values = (lori, timelock, astuple(rules), delay_s, window_s)
    return _deploy(wallet, "Disputes", DISPUTES_TYPE, values)


def deploy_stake(wallet: Wallet, lori: bytes, settlement: bytes, terms: StakeTerms) -> bytes:
    """A new stake contract, of this token, which judges by this settlement contract."""
    return _deploy(wallet, "Stake", STAKE_TYPE, (lori, settlement, astuple(terms)))


def deploy_governance(wallet: Wallet, lori: bytes, rules: CongressRules) -> bytes:
    """Everything that a network votes with; where the governor is, which names the others.

    The wallet keeps no office: the timelock's are the governor's, and nobody administers it.
    """
    timelock = _deploy(wallet, "Timelock", "(uint256,address)", (rules.wait, wallet.address))
    declared = [(name_word(one.name), int(one.kind), one.default) for one in PARAMETERS]
    parameters = _deploy(
        wallet, "Parameters", "(address,(bytes32,uint8,uint256)[])", (timelock, declared)
    )
    office = (rules.guardian, timelock, rules.guardian_term, rules.max_pause)
    guardian = _deploy(wallet, "Guardian", "(address,address,uint64,uint64)", office)
    parts = (lori, timelock, parameters, guardian, astuple(rules.voting))
    governor = _deploy(wallet, "LorikeetGovernor", GOVERNOR_TYPE, parts)
    for role in (b"PROPOSER_ROLE", b"CANCELLER_ROLE"):
        _send(wallet, timelock, "grantRole(bytes32,address)", (keccak(role), governor))
    _send(wallet, timelock, "renounceRole(bytes32,address)", (bytes(32), wallet.address))
    return governor


def _deploy(wallet: Wallet, name: str, kinds: str, values: tuple[object, ...]) -> bytes:
    """Deploy a contract whose constructor takes these; kinds in brackets, as a tuple's."""
    arguments = encode(split_kinds(kinds), values)
    return wallet.send(b"", load_contract(name).bytecode + arguments).contract


def _send(wallet: Wallet, contract: bytes, function: str, values: tuple[object, ...]) -> None:
    kinds = function[function.index("(") :]
    wallet.send(contract, keccak(function.encode())[:4] + encode(split_kinds(kinds), values))


def deploy_settlement(
    wallet: Wallet, board: Board, channels: bytes, token: bytes, terms: Terms
) -> TransactionReceipt:
    """A new Settlement, which brings its court along; where it is, the receipt says."""
    types = ("(address,address,address[],uint8)", "address", "address", TERMS_TYPE)
    arguments = encode(types, (board_values(board), channels, token, astuple(terms)))
    return wallet.send(b"", load_contract("Settlement").bytecode + arguments)


def deploy_for_development(
    rpc: Rpc,
    wallet: Wallet,
    board: Board,
    terms: Terms = DEVELOPMENT_TERMS,
    token: bytes | None = None,
) -> Deployment:
    """Token and settlement, beside the channels that were placed before, with the bond in place.

    `token`: in which fees are paid, and of which the wallet has the bond; None: dollars that it
    mints.
    """
    is_pretend = token is None
    token = token or deploy_dev_dollar(wallet)
    receipt = deploy_settlement(wallet, board, CHANNELS, token, terms)
    fees = DeployedContract("IFeeToken", token, rpc, wallet, CONFIRM_DEADLINE_S)
    if is_pretend:
        fees.beside("DevDollar", token).send("mint", wallet.address, terms.bond)
    fees.send("approve", receipt.contract, terms.bond)
    fees.beside("Settlement", receipt.contract).send("fundBond", terms.bond)
    return Deployment(
        rpc.chain_id(),
        CHANNELS,
        COLLECTOR,
        token,
        settlement=receipt.contract,
        first_block=receipt.block,
    )
