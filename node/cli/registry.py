"""Provides `lorikeet registry`: whose weights are, by the registry on the chain; handing them on,
and disputes about them.

Asks the chain itself; a daemon is asked only what a name or CID means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proofs.hextext import from_hex, to_hex
from proofs.registration import Registration
from proofs.weights import WeightsDigest

from ..api.adapters import ShownInfo
from ..config import CONFIG_FILE, load_config
from ..errors import AdapterError
from ..keys import choose_key
from .audit import asking_chain, open_chain, read_address
from .client import EXIT_USAGE, CliError, open_client
from .disputing import (
    Disputed,
    check_answered,
    check_bond,
    check_open,
    describe_dispute,
    disputes_of,
    find_disputes,
    in_time,
    on_dispute,
    read_disputed,
    show_sent,
)
from .options import Home, Json
from .show import on_terminal, show_facts, show_json, when

if TYPE_CHECKING:
    from proofs.chain.client import ChainClient
    from proofs.chain.disputes import Disputes
    from proofs.chain.registry import Registry

EXIT_UNREGISTERED = 4

app = typer.Typer(
    help="Whose weights are: show, hand-on, dispute, answer, close, lapse.", no_args_is_help=True
)

KeyFile = Annotated[
    Path | None,
    typer.Option("--key", exists=True, dir_okay=False, help="Whose key; else this home's."),
]
Number = Annotated[
    int, typer.Argument(min=1, help="The dispute's number (`lorikeet registry show`).")
]
What = Annotated[
    str,
    typer.Argument(
        help="A weights digest (64 hex digits), a folder with an adapter, a name, a CID."
    ),
]


@app.command()
def show(home: Home, what: What, as_json: Json = False) -> None:
    """Show to whom weights are registered, since when, for which royalty, and what they were made
    of, and who disputes it. Exit status 4: to nobody.
    """
    weights = read_weights(home, what)
    disputes: list[Disputed] = []
    with open_registry(home) as (registry, chain):
        found = registry.find(weights)
        parents = [] if found is None else [(one, find_one(registry, one)) for one in found.parents]
        if found is not None:
            digest = digest_under(registry, weights, found)
            disputes = find_disputes(registry, chain, digest)
    tell(weights, found, parents, disputes, as_json=as_json)
    if found is None:
        raise typer.Exit(EXIT_UNREGISTERED)


@app.command("hand-on")
def hand_on(
    home: Home,
    what: What,
    to: Annotated[str, typer.Argument(help="The address that shall own them.")],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", exists=True, dir_okay=False, help="The owner's key; else this home's."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Have somebody else own registered weights: publish them, and be paid the royalties of what is
    built on them from then on. The creator stays. Only the owner may; it cannot be taken back.
    """
    address = read_address(to)
    weights = read_weights(home, what)
    with open_registry(home, key) as (registry, chain):
        found = registry.find(weights)
        if found is None:
            tell(weights, None, as_json=as_json)
            raise typer.Exit(EXIT_UNREGISTERED)
        if found.owner != chain.address:
            raise CliError(
                f"these weights are {to_hex(found.owner)}'s, and this key is"
                f" {to_hex(chain.address)}: name the owner's with --key"
            )
        sent = registry.hand_on(digest_under(registry, weights, found), address)
    facts = {
        "from": to_hex(found.owner),
        "owner": to_hex(address),
        "transaction": to_hex(sent.hash),
    }
    return show_json(facts) if as_json else show_facts([*facts.items()])


@app.command()
def dispute(home: Home, what: What, key: KeyFile = None, as_json: Json = False) -> None:
    """Say that registered weights are this key's; costs a bond of LORI. Where nobody answers in
    time, they are; else a vote decides, and the loser's bond is lost. Exit status 4: nobody has
    registered them.
    """
    weights = read_weights(home, what)
    with open_registry(home, key) as (registry, chain):
        found = registry.find(weights)
        if found is None:
            tell(weights, None, as_json=as_json)
            raise typer.Exit(EXIT_UNREGISTERED)
        if found.owner == chain.address:
            raise CliError("these weights are this key's already: there is nothing to dispute")
        disputes = disputes_of(registry, chain)
        check_bond(disputes, chain.address)
        sent = disputes.open(digest_under(registry, weights, found))
        now = read_disputed(disputes, disputes.number_of(sent))
    show_sent(sent.hash, now, as_json=as_json)


@app.command()
def answer(home: Home, number: Number, key: KeyFile = None, as_json: Json = False) -> None:
    """Stand up for a registration as it is, by the same bond; anybody may. A vote decides then."""
    with open_disputes(home, key) as (disputes, chain):
        check_open(disputes, number)
        check_bond(disputes, chain.address)
        over = f"lorikeet registry close {number} gives the weights to who disputes them"
        with in_time(number, "the time to answer was over", over):
            sent = disputes.answer(number)
        now = read_disputed(disputes, number)
    show_sent(sent.hash, now, as_json=as_json)


@app.command()
def close(home: Home, number: Number, key: KeyFile = None, as_json: Json = False) -> None:
    """Close a dispute that nobody answered in time: the weights are the challenger's, who has his
    bond back. Anybody may.
    """
    with open_disputes(home, key) as (disputes, _):
        check_open(disputes, number)
        with in_time(number, "it may be answered until", "close it afterwards"):
            sent = disputes.close(number)
        now = read_disputed(disputes, number)
    show_sent(sent.hash, now, as_json=as_json)


@app.command()
def lapse(home: Home, number: Number, key: KeyFile = None, as_json: Json = False) -> None:
    """Give both sides their bonds back where no vote decided in time; the weights stay whose they
    are. Anybody may.
    """
    with open_disputes(home, key) as (disputes, _):
        check_answered(disputes, number)
        with in_time(number, "a vote may decide it until", "call again afterwards"):
            sent = disputes.lapse(number)
        now = read_disputed(disputes, number)
    show_sent(sent.hash, now, as_json=as_json)


@contextmanager
def open_disputes(home: Path, key: Path | None) -> Iterator[tuple[Disputes, ChainClient]]:
    """The disputes of the registry that the configuration names, for a key or for this home's."""
    with open_registry(home, key) as (registry, chain):
        yield disputes_of(registry, chain), chain


@contextmanager
def open_registry(home: Path, key: Path | None = None) -> Iterator[tuple[Registry, ChainClient]]:
    """The registry that the configuration names, for a key or for this home's."""
    config = load_config(home)
    if not config.registry:
        raise CliError(
            f"no registry is configured: set registry in {home / CONFIG_FILE} to the address that"
            " the network published",
            EXIT_USAGE,
        )
    secret = choose_key(config.key_files, key).secret
    with asking_chain(), open_chain(home, secret) as chain:
        yield chain.open_registry(from_hex(config.registry)), chain


def read_weights(home: Path, what: str) -> WeightsDigest:
    """The digests of what somebody means; under a single one both are the same."""
    if (Path(what) / "adapter_config.json").is_file():
        return weigh_folder(Path(what))
    digits = what.removeprefix("0x")
    if len(digits) == 64 and set(digits.lower()) <= set("0123456789abcdef"):
        return WeightsDigest(from_hex(digits), from_hex(digits))
    with open_client(home) as client:
        shown = client.post("show", {"model": what}, ShownInfo)
    if not shown.weights:
        raise CliError(f"{what} has no digest of its weights: {shown.why_none}")
    brain = from_hex(shown.weights)
    return WeightsDigest(brain, from_hex(shown.weights_half) if shown.weights_half else brain)


def weigh_folder(folder: Path) -> WeightsDigest:
    """The digests of the adapter in a folder."""
    from ..catalogue.weighing import weigh  # brings numpy

    try:
        return weigh(folder / "adapter_config.json", folder / "adapter_model.safetensors")
    except (AdapterError, OSError) as error:
        raise CliError(f"{folder}: {error}") from error


def find_one(registry: Registry, digest: bytes) -> Registration | None:
    """What is registered under one digest."""
    return registry.find(WeightsDigest(digest, digest))


def digest_under(registry: Registry, weights: WeightsDigest, found: Registration) -> bytes:
    """The digest under which this registration was found: a later one may have the other."""
    return weights.brain if find_one(registry, weights.brain) == found else weights.half


Parents = Sequence[tuple[bytes, Registration | None]]


def tell(
    weights: WeightsDigest,
    found: Registration | None,
    parents: Parents = (),
    disputes: Sequence[Disputed] = (),
    *,
    as_json: bool,
) -> None:
    """Say what the registry has of weights."""
    if as_json:
        facts: dict[str, Any] = {"weights": to_hex(weights.brain), "registered": found is not None}
        if found is not None:
            facts |= describe(found)
            facts["parents"] = [
                {"weights": to_hex(digest)} | (describe(one) if one else {})
                for digest, one in parents
            ]
            facts["disputes"] = [*map(describe_dispute, disputes)]
        return show_json(facts)
    if found is None:
        return show_facts([("weights", to_hex(weights.brain)), ("registered", "to nobody")])
    return show_facts(
        [
            ("weights", to_hex(weights.brain)),
            ("creator", to_hex(found.creator)),
            ("owner", to_hex(found.owner)),
            ("since", f"block {found.first_block}, {when(found.committed_at)}"),
            ("royalty", percent(found)),
            ("manifest", to_hex(found.manifest)),
            *(("parent", on_parent(digest, one)) for digest, one in parents),
            *((f"dispute {one.number}", on_dispute(one)) for one in disputes),
        ]
    )


def describe(found: Registration) -> dict[str, Any]:
    """A registration as plain values."""
    return {
        "creator": to_hex(found.creator),
        "owner": to_hex(found.owner),
        "first_block": found.first_block,
        "since": found.committed_at,
        "royalty_bps": found.royalty_bps,
        "manifest": to_hex(found.manifest),
    }


def on_parent(digest: bytes, one: Registration | None) -> str:
    """Say whom a parent is, and what it asks for."""
    if one is None:
        return on_terminal(to_hex(digest))
    return f"{on_terminal(to_hex(digest))} of {on_terminal(to_hex(one.owner))}, {percent(one)}"


def percent(found: Registration) -> str:
    """A royalty for people."""
    return f"{found.royalty_bps / 100:g} %" if found.royalty_bps else "none"
