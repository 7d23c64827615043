"""Provides `lorikeet stake` and `lorikeet slash`: tokens behind operators, and what costs them.

Every command asks the chain itself; none needs a running daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofs.errors import EvidenceError
from proofs.hextext import from_hex, to_hex
from proofs.parameters import STAKE_PER_ANSWER, in_force, rule_on
from proofs.signing import Signer
from proofs.stake import LORI

from ..config import CONFIG_FILE, load_config
from ..keys import choose_key, load_keys
from .audit import asking_chain, open_chain, read_address
from .client import EXIT_USAGE, CliError
from .options import Home, Json
from .show import show_facts, show_json, when

if TYPE_CHECKING:
    from proofs.chain.client import ChainClient
    from proofs.chain.stake import Stake
    from proofs.stake import Holding, StakeTerms


app = typer.Typer(
    help="Tokens that stand behind operators: show, add, delegate, thaw, withdraw.",
    no_args_is_help=True,
)

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key", exists=True, dir_okay=False, help="The holder's key; else this home's own."
    ),
]
Behind = Annotated[
    str, typer.Option("--operator", help="Behind which operator; else this home's own.")
]
Amount = Annotated[str, typer.Argument(help="How much of the network's token, as 100 or 0.5.")]


@app.command()
def show(home: Home, operator: Behind = "", key: KeyFile = None, as_json: Json = False) -> None:
    """Show what stands behind an operator, what of it is this key's, and what an offence costs."""
    with open_stake(home, key, operator) as (stake, chain, behind):
        terms = terms_in_force(home, stake, chain)
        counted, thawing = stake.stake_of(behind), stake.thawing_of(behind)
        own = stake.holding(behind, chain.address)
        purse = stake.token.balance_of(chain.address)
    lost = terms.lost(counted, thawing)
    if as_json:
        return show_json(
            describe(behind, own)
            | {
                "counted": str(counted),
                "all_thawing": str(thawing),
                "answers": terms.covers(counted),
                "each_answer_needs": str(terms.per_answer),
                "an_offence_costs": str(lost),
                "bounty": str(terms.bounty(lost)),
                "thaw_s": terms.thaw,
                "purse": str(purse),
            }
        )
    return show_facts(
        [
            ("operator", to_hex(behind)),
            ("counts", f"{lori(counted)}, enough for {terms.covers(counted)} answers at once"),
            ("each answer needs", lori(terms.per_answer)),
            ("thaws", lori(thawing)),
            ("of this key", tell(own)),
            ("in its purse", lori(purse)),
            ("an offence costs", f"{lori(lost)}, of which {lori(terms.bounty(lost))} are bounty"),
        ]
    )


@app.command()
def add(home: Home, amount: Amount, key: KeyFile = None, as_json: Json = False) -> None:
    """Put tokens behind this home's operator."""
    put(home, "", amount, key, as_json=as_json)


@app.command()
def delegate(
    home: Home,
    operator: Annotated[str, typer.Argument(help="Whom to stand behind.")],
    amount: Amount,
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Put tokens behind somebody else's operator: what it loses, they lose in proportion."""
    put(home, operator, amount, key, as_json=as_json)


@app.command()
def thaw(
    home: Home,
    amount: Amount,
    operator: Behind = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Ask for tokens back: they count no more, and can be lost until they are withdrawn."""
    units = read_amount(amount)
    with open_stake(home, key, operator) as (stake, chain, behind):
        own = stake.holding(behind, chain.address)
        if units > own.amount:
            raise CliError(f"{lori(own.amount)} of this key's stand there, not {lori(units)}")
        sent = stake.thaw(behind, own.shares_of(units))
        own = stake.holding(behind, chain.address)
    show_holding(behind, own, sent.hash, as_json=as_json)


@app.command()
def withdraw(home: Home, operator: Behind = "", key: KeyFile = None, as_json: Json = False) -> None:
    """Take what has thawed."""
    with open_stake(home, key, operator) as (stake, chain, behind):
        sent = stake.withdraw(behind)
        own = stake.holding(behind, chain.address)
    show_holding(behind, own, sent.hash, as_json=as_json)


def slash(
    home: Home,
    evidence: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Evidence, as in HOME/evidence."),
    ] = None,
    term: Annotated[
        int | None, typer.Option(min=1, help="Else: a term in which an aggregator was convicted.")
    ] = None,
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show an offence to the stake contract; the bounty is this key's."""
    from proofs.evidence import MAX_EVIDENCE_BYTES, check_evidence, read_evidence

    if (evidence is None) == (term is None):
        raise CliError(
            "name a file of evidence, or a --term of the aggregator's office", EXIT_USAGE
        )
    with open_stake(home, key, "") as (stake, chain, _):
        before = stake.token.balance_of(chain.address)
        if evidence is not None:
            with evidence.open("rb") as file:
                data = file.read(MAX_EVIDENCE_BYTES + 1)
            try:
                found = read_evidence(data, chain.network)
            except EvidenceError as error:
                raise CliError(f"{evidence}: {error}") from error
            culprit: bytes | None = check_evidence(found, chain.network)
            sent = stake.show(found)
        else:
            assert term is not None
            culprit = chain.settlement.convicted(term)
            sent = stake.show_conviction(term)
        bounty = stake.token.balance_of(chain.address) - before
    assert culprit is not None, "the contract took it"
    facts = {"culprit": to_hex(culprit), "bounty": str(bounty), "transaction": to_hex(sent.hash)}
    if as_json:
        return show_json(facts)
    return show_facts([*(facts | {"bounty": lori(bounty)}).items()])


# ── inside ──


def put(home: Home, operator: str, amount: str, key: Path | None, *, as_json: bool) -> None:
    """Put tokens behind an operator, and say what stands there then."""
    units = read_amount(amount)
    with open_stake(home, key, operator) as (stake, chain, behind):
        sent = stake.add(behind, units)
        own = stake.holding(behind, chain.address)
    show_holding(behind, own, sent.hash, as_json=as_json)


@contextmanager
def open_stake(
    home: Path, key: Path | None, operator: str
) -> Iterator[tuple[Stake, ChainClient, bytes]]:
    """The stake contract that the configuration names, for a key or for this home's, and the
    operator that is meant.
    """
    config = load_config(home)
    if not config.stake:
        raise CliError(
            f"no stake contract is configured: set stake in {home / CONFIG_FILE} to the address"
            " that the network published",
            EXIT_USAGE,
        )
    own = load_keys(config.key_files).operator
    chosen = own if key is None else choose_key(config.key_files, key)  # one password, once
    with asking_chain(), open_chain(home, chosen.secret) as chain:
        behind = read_address(operator) if operator else Signer(own.secret).address
        yield chain.open_stake(from_hex(config.stake)), chain, behind


def terms_in_force(home: Path, stake: Stake, chain: ChainClient) -> StakeTerms:
    """Return the contract's terms, with what was voted for each answer where somebody votes."""
    config = load_config(home)
    if not config.governor:
        return stake.terms
    governance = chain.open_governance(from_hex(config.governor))
    versions = governance.versions((), governance.last_version())
    ruling = rule_on(in_force(versions, chain.settlement.read().posted_at))
    return stake.terms.voted(ruling.values[STAKE_PER_ANSWER])


def read_amount(text: str) -> int:
    """An amount of whole tokens, in the smallest unit."""
    try:
        units = Decimal(text) * LORI
    except InvalidOperation:
        units = Decimal(0)
    if not units.is_finite() or units <= 0 or units != int(units):
        raise CliError(f"{text!r} is no amount; say how many tokens, as 100 or 0.5", EXIT_USAGE)
    return int(units)


def show_holding(behind: bytes, own: Holding, transaction: bytes, *, as_json: bool) -> None:
    """Say what this key has behind an operator now, and what was sent."""
    if as_json:
        return show_json(describe(behind, own) | {"transaction": to_hex(transaction)})
    return show_facts(
        [
            ("operator", to_hex(behind)),
            ("of this key", tell(own)),
            ("transaction", to_hex(transaction)),
        ]
    )


def describe(behind: bytes, own: Holding) -> dict[str, object]:
    """A holding as plain values; amounts are strings, since JSON's numbers end before them."""
    return {
        "operator": to_hex(behind),
        "own": str(own.amount),
        "own_thawing": str(own.thawing),
        "ready_at": own.ready_at if own.thawing else None,
    }


def tell(own: Holding) -> str:
    """What one key has behind an operator."""
    if not own.thawing:
        return lori(own.amount)
    return f"{lori(own.amount)}, and {lori(own.thawing)} that thaw until {when(own.ready_at)}"


def lori(units: int) -> str:
    """An amount in whole tokens."""
    return f"{Decimal(units) / LORI:,.2f} LORI"
