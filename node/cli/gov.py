"""Provides `lorikeet gov`: what the network's people decide, from a text to the parameter.

Every command asks the chain itself; none needs a running daemon. `simulate` believes nobody: it
recomputes what was posted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proofs.errors import ParametersError
from proofs.hextext import from_hex, to_hex
from proofs.parameters import show_value
from proofs.proposal import Changes, Draft, find_simulation, name_simulation, read_draft
from proofs.stake import LORI

from ..api.governance import governance_info, proposal_info, title_of
from ..api.status import CoinInfo
from ..config import CONFIG_FILE, load_config
from ..keys import choose_key
from .audit import asking_chain, open_audit, open_chain, read_address, read_coin
from .client import EXIT_USAGE, CliError
from .options import Home, Json
from .show import money, on_terminal, show_facts, show_json, show_table, when
from .source import Source

if TYPE_CHECKING:
    from proofs.chain.client import ChainClient
    from proofs.chain.governance import Governance, Proposal
    from proofs.hindsight import Simulation


app = typer.Typer(
    help=(
        "What the network's people decide: parameters, list, show, simulate, propose, vote, queue,"
        " execute, delegate, pause."
    ),
    no_args_is_help=True,
)

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key", exists=True, dir_okay=False, help="The key that signs; else this home's."
    ),
]
ProposalId = Annotated[
    str, typer.Argument(help="A proposal's number (`lorikeet gov list`), or how it begins or ends.")
]
Text = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, help="The proposal: a title, grounds, a block ```parameters."
    ),
]


# ── what there is ──


@app.command()
def parameters(home: Home, as_json: Json = False) -> None:
    """List the parameters: what is in force, what was voted, and the bounds that no vote leaves."""
    with open_governance(home) as (governance, chain):
        versions = governance.versions((), governance.last_version())
        began_at = chain.settlement.read().posted_at
    found = governance_info(versions, began_at, ())
    rows = [asdict(one) for one in found.parameters]
    if as_json:
        return show_json({"version": found.version, "newest": found.newest, "parameters": rows})
    show_facts([("version in force", found.version), ("newest version", found.newest)])
    columns = ("name", "value", "next", "default", "least", "most", "unit", "refused")
    cells = [[on_terminal_digest(str(row[column])) for column in columns] for row in rows]
    return show_table([column.capitalize() for column in columns], cells, empty="none")


@app.command("list")
def list_(home: Home, as_json: Json = False) -> None:
    """List the proposals, the newest first."""
    with open_governance(home) as (governance, _):
        found = list(reversed(governance.proposals()))
    if as_json:
        return show_json([describe(one) for one in found])
    rows = [
        (
            on_terminal(str(one.id)),
            one.state,
            title_of(one.description),
            tell_changes(one),
            lori(one.tally.in_favour),
            lori(one.tally.against),
            lori(one.quorum),
            when(one.due_at or one.votes_until),
        )
        for one in found
    ]
    columns = ("Number", "State", "Title", "Changes", "For", "Against", "Quorum", "Until")
    return show_table(columns, rows, empty="no proposals yet: lorikeet gov propose FILE")


@app.command()
def show(home: Home, proposal: ProposalId, as_json: Json = False) -> None:
    """Show one proposal, with its text."""
    with open_governance(home) as (governance, _):
        found = find_proposal(governance, proposal)
    if as_json:
        return show_json(describe(found))
    digest = find_simulation(found.description)
    return show_facts(
        [
            ("number", found.id),
            ("state", found.state),
            ("proposer", to_hex(found.proposer)),
            ("changes", tell_changes(found)),
            ("votes", f"{lori(found.tally.in_favour)} for, {lori(found.tally.against)} against"),
            ("quorum", lori(found.quorum)),
            ("votes until", when(found.votes_until)),
            *([("executable from", when(found.due_at))] if found.due_at else []),
            ("simulation", digest.hex() if digest else "none"),
            ("text", found.description),
        ]
    )


# ── from a text to a parameter ──


@app.command()
def propose(
    home: Home,
    text: Text,
    report: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="What `gov simulate --report` wrote of this text."
        ),
    ] = None,
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Propose what a text says; it goes onto the chain, with the digest of its simulation."""
    draft = read_text(text)
    description = draft.text if report is None else named(draft, report)
    with open_governance(home, key) as (governance, chain):
        votes, threshold = governance.votes_of(chain.address), governance.threshold()
        if votes < threshold:
            raise CliError(
                f"{to_hex(chain.address)} has {lori(votes)} votes, and who proposes needs"
                f" {lori(threshold)}: name a key that has them with --key, or have people delegate"
                " theirs to this one (lorikeet gov delegate)"
            )
        sent = governance.propose(draft.changes, description)
        number = governance.id_of(draft.changes, description)
    if as_json:
        facts = {"number": str(number), "transaction": to_hex(sent.hash), "own_votes": str(votes)}
        return show_json(facts)
    return show_facts(
        [("number", number), ("transaction", to_hex(sent.hash)), ("own votes", lori(votes))]
    )


@app.command()
def vote(
    home: Home,
    proposal: ProposalId,
    voice: Annotated[str, typer.Argument(help="for, against or abstain.")],
    reason: Annotated[str, typer.Option(help="Why; stands on the chain.")] = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Vote on a proposal, with all the votes that this key had when voting began."""
    from proofs.chain.governance import Voice

    voices = {"for": Voice.FOR, "against": Voice.AGAINST, "abstain": Voice.ABSTAIN}
    if voice not in voices:
        raise CliError(f"{voice!r} is no vote; say for, against or abstain", EXIT_USAGE)
    with open_governance(home, key) as (governance, chain):
        found = find_proposal(governance, proposal)
        if found.state == "active" and not governance.votes_on(chain.address, found):
            raise CliError(
                f"{to_hex(chain.address)} had no votes when voting began: tokens vote once they are"
                " delegated (lorikeet gov delegate), on what is proposed after that"
            )
        sent = governance.vote(found.id, voices[voice], reason)
        found = find_proposal(governance, str(found.id))
    tell(found, sent.hash, as_json)


@app.command()
def queue(home: Home, proposal: ProposalId, key: KeyFile = None, as_json: Json = False) -> None:
    """Put what was voted for into the timelock. Any key may."""
    with open_governance(home, key) as (governance, _):
        sent = governance.queue(find_proposal(governance, proposal))
        found = find_proposal(governance, proposal)
    tell(found, sent.hash, as_json)


@app.command()
def execute(home: Home, proposal: ProposalId, key: KeyFile = None, as_json: Json = False) -> None:
    """Have done what waited long enough: it is in force from the next epoch on. Any key may."""
    with open_governance(home, key) as (governance, _):
        sent = governance.execute(find_proposal(governance, proposal))
        found = find_proposal(governance, proposal)
    tell(found, sent.hash, as_json)


@app.command()
def delegate(
    home: Home,
    address: Annotated[str, typer.Argument(help="Who votes; else this key itself.")] = "",
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Say who votes with this key's tokens; before that they count for nobody."""
    with open_governance(home, key) as (governance, chain):
        account = read_address(address) if address else chain.address
        sent = governance.delegate(account)
        votes = governance.votes_of(account)
    facts = {"voter": to_hex(account), "votes": votes, "transaction": to_hex(sent.hash)}
    if as_json:
        return show_json(facts)
    return show_facts([*(facts | {"votes": lori(votes)}).items()])


@app.command()
def simulate(
    home: Home,
    what: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|NUMBER", help="A proposal's text, a file, or the number of one."
        ),
    ],
    report: Annotated[
        Path | None, typer.Option(help="Where to write the report that a proposal names.")
    ] = None,
    source: Source = "",
    as_json: Json = False,
) -> None:
    """Divide the fees of all past epochs as a proposal would: who would have earned what."""
    replayed = replay_past(home, source, changes_of(home, what))
    if replayed is None:
        raise CliError("no epoch was posted yet: there is nothing to simulate with")
    simulated, coin = replayed
    found, written = simulated.found, simulated.report
    if report is not None:
        report.write_bytes(written)
    if as_json:
        return print(written.decode(), end="")
    show_facts(
        [
            ("epochs", f"1 to {simulated.epochs}"),
            ("answers", found.receipts),
            ("paid", f"{money(found.paid, coin)}, would have been {money(found.would_pay, coin)}"),
            ("simulation", hashlib.sha256(written).hexdigest()),
        ]
    )
    rows = [
        (
            on_terminal(to_hex(line.account)),
            money(line.earned, coin),
            money(line.would_earn, coin),
            money(line.would_earn - line.earned, coin),
        )
        for line in found.lines
    ]
    return show_table(("Account", "Earned", "Would have", "Difference"), rows, empty="nobody")


# ── the guardian's office ──


@app.command()
def pause(
    home: Home,
    seconds: Annotated[int, typer.Argument(min=1, help="For how long.")],
    key: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Ask for no header for a while. Only the guardian may, within its term."""
    with open_governance(home, key) as (governance, _):
        sent = governance.pause(seconds)
        office = governance.read_guardian()
    facts = {"paused_until": office.paused_until, "transaction": to_hex(sent.hash)}
    if as_json:
        return show_json(facts)
    return show_facts([("paused until", when(office.paused_until)), [*facts.items()][1]])


# ── inside ──


@contextmanager
def open_governance(
    home: Path, key: Path | None = None
) -> Iterator[tuple[Governance, ChainClient]]:
    """The governor that the configuration names, for a key or for this home's."""
    secret = choose_key(load_config(home).key_files, key).secret
    with open_governance_with(home, secret) as opened:
        yield opened


@contextmanager
def open_governance_with(home: Path, secret: bytes) -> Iterator[tuple[Governance, ChainClient]]:
    """The same, for a secret."""
    config = load_config(home)
    if not config.governor:
        raise CliError(
            f"no governor is configured: set governor in {home / CONFIG_FILE} to the address that"
            " the network published",
            EXIT_USAGE,
        )
    with asking_chain(), open_chain(home, secret) as chain:
        yield chain.open_governance(from_hex(config.governor)), chain


def find_proposal(governance: Governance, text: str) -> Proposal:
    """The one proposal whose number begins or ends so."""
    found = [
        one
        for one in governance.proposals()
        if str(one.id).startswith(text) or str(one.id).endswith(text)
    ]
    if len(found) != 1:
        raise CliError(
            f"{len(found) or 'no'} proposals have a number like {text!r}; lorikeet gov list shows"
            " them"
        )
    return found[0]


def read_text(path: Path) -> Draft:
    """The proposal in a file."""
    try:
        return read_draft(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ParametersError) as error:
        raise CliError(f"{path}: {error}", EXIT_USAGE) from error


def changes_of(home: Path, what: str) -> Changes:
    """What a proposal would set: the one in a file of that name, else the one with that number."""
    if Path(what).exists():
        return read_text(Path(what)).changes
    with open_governance(home) as (governance, _):
        found = find_proposal(governance, what)
    if not found.changes:
        raise CliError(f"proposal {what} sets no parameter: there is nothing to simulate")
    return found.changes


def named(draft: Draft, report: Path) -> str:
    """A proposal's description with the digest of its report, which must be of the same changes."""
    import msgspec

    written = report.read_bytes()
    changes = {name: show_value(name, value) for name, value in draft.changes}
    try:
        told = msgspec.json.decode(written, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise CliError(f"{report} is no report: {error}", EXIT_USAGE) from error
    if told.get("changes") != changes:
        raise CliError(
            f"{report} simulates other changes than the text makes; run lorikeet gov simulate",
            EXIT_USAGE,
        )
    return name_simulation(draft.text, hashlib.sha256(written).digest())


def replay_past(home: Path, source: str, changes: Changes) -> tuple[Simulation, CoinInfo] | None:
    """What changes would have made of all past epochs, and in what was paid; None where there are
    none.
    """
    from proofs.hindsight import simulate

    with open_audit(home, source) as (audit, chain):
        if not audit.posted:
            return None
        last = audit.posted[-1].header
        found = simulate(
            audit.settled(), dict(changes), chain.network, last=last, versions=audit.versions
        )
        return found, read_coin(chain)


def describe(one: Proposal) -> dict[str, object]:
    """A proposal as plain values; its number is a string, since JSON's numbers end before it."""
    told = asdict(proposal_info(one))
    return told | {"for": told.pop("in_favour")}


def tell(one: Proposal, transaction: bytes, as_json: bool) -> None:
    """Say where a proposal stands now, and what was sent."""
    if as_json:
        return show_json(describe(one) | {"transaction": to_hex(transaction)})
    return show_facts(
        [
            ("number", one.id),
            ("state", one.state),
            ("votes", f"{lori(one.tally.in_favour)} for, {lori(one.tally.against)} against"),
            *([("executable from", when(one.due_at))] if one.due_at else []),
            ("transaction", to_hex(transaction)),
        ]
    )


def tell_changes(one: Proposal) -> str:
    """What a proposal would set."""
    if one.changes is None:
        return "no parameters: something else"
    return ", ".join(f"{name} = {show_value(name, value)}" for name, value in one.changes)


def lori(votes: int) -> str:
    """Votes in whole tokens."""
    return f"{votes / LORI:,.0f}"


def on_terminal_digest(text: str) -> str:
    """A digest shortened on a terminal."""
    return on_terminal(text) if text.startswith("0x") else text
