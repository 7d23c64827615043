"""Provides `lorikeet aggregator`: how the office stands, how it changes hands, who has a bond or a
fee to come, and how a lost ledger is rebuilt from the chain and the published batches.

Every command asks the chain itself; none needs a running daemon.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofs.errors import BatchError, LedgerError
from proofs.hextext import from_hex, to_hex
from proofs.ledger import AggregatorLedger, Ledger

from ..config import load_config
from ..keys import choose_key, load_keys
from .audit import asking_chain, open_chain, read_address, read_coin
from .client import EXIT_USAGE, CliError
from .options import Home, Json
from .show import money, show_facts, show_json, when
from .source import Source, open_source

if TYPE_CHECKING:
    from proofs.aggregator import Aggregator
    from proofs.chain.client import ChainClient
    from proofs.chain.structs import Board, PostedHeader
    from proofs.policies import Policies

    from ..money.audit import GetBlock

app = typer.Typer(
    help="The aggregator's office: status, collect, rebuild, propose, install.",
    no_args_is_help=True,
)

AggregatorAddress = Annotated[
    str, typer.Option("--aggregator", help="Who shall post headers; else who does now.")
]
Witnesses = Annotated[
    list[str] | None,
    typer.Option("--witness", help="Who shall sign them, may be repeated; else those of now."),
]
Quorum = Annotated[
    int, typer.Option(help="How many witnesses must sign a header; -1: as many as now.")
]
Owner = Annotated[str, typer.Option(help="Who may propose the next board; else who may now.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key", exists=True, dir_okay=False, help="The key that signs; else this home's."
    ),
]


@app.command()
def status(home: Home, as_json: Json = False) -> None:
    """Show who holds the office, its bond, its witnesses, and when it counts as silent."""
    with asking_chain(), open_chain(home) as chain:
        settlement, coin = chain.settlement, read_coin(chain)
        office = settlement.read_office()
        state = settlement.read()
        witnesses, quorum = settlement.witnesses()
        now = chain.rpc.get_block().timestamp
        facts = {
            "settlement": to_hex(chain.deployment.settlement),
            "owner": to_hex(settlement.owner()),
            "aggregator": None if office.aggregator is None else to_hex(office.aggregator),
            "term": office.term,
            "bond": office.bond,
            "bond_required": settlement.terms.bond,
            "witnesses": [to_hex(one) for one in witnesses],
            "quorum": quorum,
            "epoch": state.epoch,
            "posted_at": state.posted_at,
            "silent_from": office.silent_from,
            "is_silent": office.aggregator is not None and now > office.silent_from,
            "window_s": settlement.terms.window,
            "timelock_s": settlement.terms.timelock,
            "awarded": state.payout_total,
            "paid": state.total_paid,
            "exited": state.total_exited,
        }
    if as_json:
        return show_json(facts)
    silent = "silent since" if facts["is_silent"] else "counts as silent from"
    vacant = "nobody: channels settle themselves, by their nodes"
    return show_facts(
        [
            ("settlement", facts["settlement"]),
            ("owner", facts["owner"]),
            ("aggregator", facts["aggregator"] or vacant),
            ("term", office.term),
            ("bond", f"{money(office.bond, coin)} of {money(settlement.terms.bond, coin)}"),
            ("witnesses", f"{quorum} of {len(witnesses)} sign each header"),
            *((f"witness {number}", to_hex(one)) for number, one in enumerate(witnesses, 1)),
            ("last epoch", f"{state.epoch}, posted {when(state.posted_at)}" if state.epoch else 0),
            *([(silent, when(office.silent_from))] if office.aggregator else []),
            ("window", f"{settlement.terms.window} s in which a header can be challenged"),
            ("timelock", f"{settlement.terms.timelock} s from a proposal to its installation"),
            ("awarded", money(state.payout_total, coin)),
            (
                "paid",
                f"{money(state.total_paid, coin)}, and {money(state.total_exited, coin)} by exits",
            ),
        ]
    )


@app.command()
def collect(
    home: Home,
    address: Annotated[str, typer.Argument(help="Whose; else this home's key.")] = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Send an address what the contract owes it: a released bond, or what the token refused to
    pay before. Any key may; this one pays the gas.
    """
    with asking_chain(), open_chain(home, _secret(home, key)) as chain:
        account = read_address(address) if address else chain.address
        amount, coin = chain.settlement.credit_of(account), read_coin(chain)
        transaction = chain.settlement.collect(account).hash if amount else None
    facts = {
        "address": to_hex(account),
        "collected": amount,
        "transaction": to_hex(transaction) if transaction else None,
    }
    if as_json:
        return show_json(facts)
    said = money(amount, coin) if amount else "nothing: the contract owes it nothing"
    rows = [("address", facts["address"]), ("collected", said)]
    return show_facts(rows + ([("transaction", facts["transaction"])] if transaction else []))


@app.command()
def propose(
    home: Home,
    aggregator: AggregatorAddress = "",
    witness: Witnesses = None,
    quorum: Quorum = -1,
    owner: Owner = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Propose who shall aggregate and witness; for the owner's key. Effective after the timelock,
    by `install` with the same words.
    """
    with asking_chain(), open_chain(home, _secret(home, key)) as chain:
        board = _read_board(chain, aggregator, witness, quorum, owner)
        if chain.settlement.owner() != chain.address:
            raise CliError(
                f"only the owner {to_hex(chain.settlement.owner())} may propose, and this key is"
                f" {to_hex(chain.address)}; name the owner's with --key"
            )
        transaction = chain.settlement.propose(board).hash
        installable_at = chain.rpc.get_block().timestamp + chain.settlement.terms.timelock
    _show_board(board, transaction, ("installable at", installable_at), as_json)


@app.command()
def install(
    home: Home,
    aggregator: AggregatorAddress = "",
    witness: Witnesses = None,
    quorum: Quorum = -1,
    owner: Owner = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Install the board that was proposed, once its timelock is over; any key may."""
    with asking_chain(), open_chain(home, _secret(home, key)) as chain:
        board = _read_board(chain, aggregator, witness, quorum, owner)
        transaction = chain.settlement.install(board).hash
        installed_at = chain.rpc.get_block().timestamp
    _show_board(board, transaction, ("installed at", installed_at), as_json)


@app.command()
def rebuild(
    home: Home,
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Rebuild a lost ledger from the chain and the published batches; nobody's word is taken. The
    daemon of this home must be down.
    """
    config = load_config(home)
    if config.role != "aggregator":
        raise CliError(f"{home} is the home of a {config.role}, not of an aggregator", EXIT_USAGE)
    from proofs.aggregator import Aggregator
    from proofs.chain.decisions import Decisions
    from proofs.signing import Signer

    from .serving import hold_home

    signer = Signer(load_keys(config.key_files).aggregator)
    with hold_home(home), asking_chain(), open_chain(home) as chain:
        ledger = Ledger(config.ledger_path)
        try:
            governance = (
                chain.open_governance(from_hex(config.governor)) if config.governor else None
            )
            policies = Decisions(chain, governance).every()
            store = AggregatorLedger(ledger)
            core = Aggregator(chain.network, signer, store, policies=policies)
            known = core.state.epoch
            posted = list(chain.settlement.headers())
            with open_source(home, source) as get_block:
                for one in posted[min(known, len(posted)) :]:
                    adopt(core, one, get_block, policies)
            check_last(core, AggregatorLedger(ledger), posted)
            if core.state.header is not None:
                core.write_checkpoint()
        except (BatchError, LedgerError) as error:
            raise CliError(f"the ledger cannot be rebuilt: {error}") from error
        finally:
            ledger.close()
    facts = {
        "epochs": core.state.epoch,
        "known_before": known,
        "receipts": core.state.log.size,
        "accounts": core.state.accounts.size,
        "channels": core.state.channels.size,
    }
    return show_json(facts) if as_json else show_facts([*facts.items()])


def adopt(core: Aggregator, posted: PostedHeader, get_block: GetBlock, policies: Policies) -> None:
    """Go on by one epoch of the chain. BatchError when its batch does not give its header."""
    from proofs.batch import decode_batch, recompute

    batch = get_block(posted.header.batch_digest)
    manifests = {digest: get_block(digest) for digest in decode_batch(batch).adapters}
    if recompute(batch, core.state, manifests, policies).header != posted.header:
        raise BatchError(
            "header", f"that of epoch {posted.header.epoch} is another one than its batch gives"
        )
    core.adopt(batch, manifests, int(time.time()), policies)


def check_last(core: Aggregator, ledger: AggregatorLedger, posted: list[PostedHeader]) -> None:
    """Refuse a ledger whose epochs are not the chain's."""
    for one in posted[: core.state.epoch]:
        sealed = ledger.find_epoch(one.header.epoch)
        if sealed is None or sealed.header != one.header:
            raise CliError(
                f"this ledger has another epoch {one.header.epoch} than the chain; move"
                " ledger.sqlite away and rebuild again"
            )


def _secret(home: Path, key: Path | None) -> bytes:
    return choose_key(load_config(home).key_files, key).secret


def _read_board(
    chain: ChainClient, aggregator: str, witness: list[str] | None, quorum: int, owner: str
) -> Board:
    """The board that is asked for; what is not said stays as it is."""
    from proofs.chain.structs import Board

    now = chain.settlement.aggregator()
    witnesses, needed = chain.settlement.witnesses()
    if witness:
        witnesses = tuple(sorted(read_address(one) for one in witness))
    if aggregator:
        now = read_address(aggregator)
    if not any(now):
        raise CliError("the office is vacant: say who shall have it, --aggregator", EXIT_USAGE)
    return Board(
        owner=read_address(owner) if owner else chain.settlement.owner(),
        aggregator=now,
        witnesses=witnesses,
        quorum=needed if quorum < 0 else quorum,
    )


def _show_board(board: Board, transaction: bytes, at: tuple[str, int], as_json: bool) -> None:
    name, second = at
    witnesses = [to_hex(one) for one in board.witnesses]
    facts: dict[str, object] = {
        "owner": to_hex(board.owner),
        "aggregator": to_hex(board.aggregator),
        "witnesses": witnesses,
        "quorum": board.quorum,
        "transaction": to_hex(transaction),
    }
    if as_json:
        return show_json(facts | {name.replace(" ", "_"): second})
    facts["witnesses"] = " ".join(witnesses) or "none"
    return show_facts([*facts.items(), (name, when(second))])
