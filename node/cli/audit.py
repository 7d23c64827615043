"""The commands that believe no node: verify and claim; why.py has the third. Each recomputes what
was posted from the chain itself; of a node it takes blocks alone, which are named by their hash.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofs.chain.errors import ChainError
from proofs.hextext import from_hex, to_hex

from ..api.status import CoinInfo
from ..config import load_config
from ..keys import load_keys
from .client import EXIT_USAGE, CliError, open_client
from .options import Home, Json
from .show import money, on_terminal, show_facts, show_json, show_table
from .source import Source, open_source

if TYPE_CHECKING:
    from proofs.chain.client import ChainClient

    from ..money.audit import Audit


def verify(
    home: Home,
    epochs: Annotated[
        list[int] | None, typer.Argument(help="Which to show; all when none is named.")
    ] = None,
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Recompute every posted epoch from the chain and the published batches; exit 1 when one does
    not follow.
    """
    with open_audit(home, source) as (audit, chain):
        rows = [
            {
                "epoch": one.header.epoch,
                "receipts": one.header.num_receipts,
                "awarded": one.header.payout_total,
                "final": chain.settlement.is_final(one),
                "transaction": to_hex(one.transaction),
            }
            for one in audit.posted
            if not epochs or one.header.epoch in epochs
        ]
        coin = read_coin(chain)
    missing = set(epochs or ()) - {row["epoch"] for row in rows}
    if missing:
        raise CliError(f"no such epoch is on the chain: {', '.join(map(str, sorted(missing)))}")
    if as_json:
        return show_json(rows)
    return show_table(
        ("epoch", "receipts so far", "awarded so far", "state", "posted in"),
        [
            (
                row["epoch"],
                row["receipts"],
                money(int(str(row["awarded"])), coin),
                "final" if row["final"] else "can be challenged",
                on_terminal(str(row["transaction"])),
            )
            for row in rows
        ],
        empty="No epoch is on the chain yet.",
    )


def claim(
    home: Home,
    account: Annotated[
        str, typer.Option("--for", help="The address to be paid; this node pays the gas.")
    ],
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Have an address paid what it was awarded: a creator needs no daemon of its own for that."""
    address = read_address(account)
    with open_audit(home, source, only_final=True, signing=True) as (audit, chain):
        shown = audit.show_account(address)
        awarded = shown.leaf.amount if shown else 0
        paid = chain.settlement.paid_to(address)
        transaction = b""
        if shown is not None and awarded > paid:
            transaction = chain.settlement.claim(audit.posted[-1], shown).hash
        coin = read_coin(chain)
        facts = {
            "account": to_hex(address),
            "awarded": awarded,
            "paid_before": paid,
            "paid_now": max(awarded - paid, 0),
            "transaction": to_hex(transaction) if transaction else None,
        }
    if as_json:
        return show_json(facts)
    return show_facts(
        [
            ("account", facts["account"]),
            ("awarded", f"{money(awarded, coin)} under headers that are final"),
            ("paid now", money(max(awarded - paid, 0), coin)),
            ("transaction", facts["transaction"] or "none: there is nothing to claim"),
        ]
    )


@contextmanager
def asking_chain() -> Iterator[None]:
    """What the chain refuses inside the block ends the command, by its name."""
    try:
        yield
    except ChainError as error:
        raise CliError(f"the chain: {error}") from error


@contextmanager
def open_audit(
    home: Path, source: str, *, only_final: bool = False, signing: bool = False
) -> Iterator[tuple[Audit, ChainClient]]:
    """What was posted, recomputed, and the chain. `signing`: with this node's key."""
    from ..money.audit import AuditFailed, audit_chain

    secret = load_keys(load_config(home).key_files).operator.secret if signing else None
    try:
        with (
            asking_chain(),
            open_chain(home, secret) as chain,
            open_source(home, source) as get_block,
        ):
            governor = load_config(home).governor
            governance = chain.open_governance(from_hex(governor)) if governor else None
            yield audit_chain(chain, get_block, governance, only_final=only_final), chain
    except AuditFailed as error:
        raise CliError(str(error)) from error


@contextmanager
def open_chain(home: Path, secret: bytes | None = None) -> Iterator[ChainClient]:
    """The chain that the configuration names, compared with what it states; for that key, or for
    one of no worth where nothing is to be signed.
    """
    config = load_config(home)
    if not config.chain_rpc:
        raise CliError(f"no chain is configured: set chain_rpc in {home}/lorikeet.toml", EXIT_USAGE)

    from proofs.chain.client import open_client as open_chain_client  # brings web3
    from proofs.chain.origin import Stated

    chain = open_chain_client(
        config.chain_rpc,
        from_hex(config.settlement),
        secret or secrets.token_bytes(32),
        stated=Stated(
            chain_id=config.chain_id or None,
            channels=from_hex(config.channels),
            token=from_hex(config.token),
            first_block=config.first_block or None,
        ),
        confirmations=config.confirmations,
    )
    try:
        yield chain
    finally:
        chain.close()


def read_coin(chain: ChainClient) -> CoinInfo:
    """In what the amounts of a chain's contracts are."""
    return CoinInfo(*chain.token.coin())


def read_receipt(home: Path, receipt: str) -> bytes:
    """A signed receipt: from a file of that name, or from this node by its digest."""
    path = Path(receipt)
    if path.is_file():
        return path.read_bytes()
    with open_client(home) as client:
        return client.get_bytes(f"receipts/{receipt}")


def read_address(text: str) -> bytes:
    """An address of 20 bytes."""
    try:
        address = from_hex(text)
    except ValueError:
        address = b""
    if len(address) != 20:
        raise CliError(f"{text!r} is no address; it is 0x and 40 hex digits", EXIT_USAGE)
    return address
