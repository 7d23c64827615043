"""Provides `lorikeet datanet …`: communities that collect texts together.

Knows options, tables and progress bars; the daemon does the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..datanet_api import (
    CharterSaid,
    ContributionInfo,
    DatanetDetail,
    DatanetInfo,
    DatanetVersionInfo,
    ExportInfo,
    FindingInfo,
    GivenInfo,
    GiveSaid,
    PersonInfo,
    VerifiedInfo,
)
from .client import EXIT_ERROR, CliError, DaemonClient, decode, open_client
from .options import Home, Json
from .publish import parse_size
from .show import err, on_terminal, out, show_facts, show_json, show_table, size, when

EXIT_DIFFERS = 4
MAX_SHOWN_FINDINGS = 20
STAGES = {
    "examine": "looking at the files",
    "claim": "claiming",
    "give": "giving",
    "wait": "waiting for the sequencer",
    "look": "looking at what waits",
    "fetch": "fetching texts",
    "export": "writing",
    "log": "recomputing the log",
    "texts": "recomputing texts",
}

app = typer.Typer(
    help="Communities that collect texts together, under signed rules.", no_args_is_help=True
)

Datanet = Annotated[str, typer.Argument(metavar="DATANET", help="Its name, or its digest.")]
Contribution = Annotated[
    str, typer.Argument(metavar="CONTRIBUTION", help="Its digest, or the begin of it.")
]
Why = Annotated[str, typer.Option("--why", help="What is wrong with it.")]
Mend = Annotated[str, typer.Option("--mend", help="What its contributor can do about it.")]
Code = Annotated[str, typer.Option("--code", help="The reason in a word.")]
Value = TypeVar("Value")


@app.command("create")
def create(
    home: Home,
    name: Annotated[str, typer.Argument(help="What it is called.")],
    purpose: Annotated[str, typer.Option(help="What its texts are for.")] = "",
    licences: Annotated[
        list[str] | None,
        typer.Option("--licence", help="A licence it takes (SPDX); may be repeated. CC0-1.0."),
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="A language it takes (en, bn); may be repeated. Any."),
    ] = None,
    quorum: Annotated[int, typer.Option(help="How many of the council must agree.")] = 1,
    is_open: Annotated[
        bool, typer.Option("--open", help="Anybody may join; else who is invited.")
    ] = False,
    min_words: Annotated[int, typer.Option(help="A document has at least so many words.")] = 20,
    max_person: Annotated[str, typer.Option(help="What one person may give: 20M, 1G.")] = "1G",
    consent: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The words to agree to; else ours."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Begin a datanet. This node owns it and writes its log: keep it running, and keep its key."""
    said = CharterSaid(
        name,
        purpose,
        consent.read_text() if consent else "",
        tuple(languages or ()),
        licences=tuple(licences or ("CC0-1.0",)),
        quorum=quorum,
        is_open=is_open,
        min_words=min_words,
        max_person_bytes=parse_size(max_person) or 1 << 30,
    )
    with open_client(home) as client:
        info = client.post("datanets", msgspec.to_builtins(said), DatanetInfo)
    if as_json:
        return show_json(info)
    show_info(info)
    return say(f"next: lorikeet datanet invite {info.name}")


@app.command("list")
def list_datanets(home: Home, as_json: Json = False) -> None:
    """List the datanets that this node takes part in."""
    with open_client(home) as client:
        listed = client.get("datanets", list[DatanetInfo])
    if as_json:
        return show_json(listed)
    rows = [
        (
            one.name,
            on_terminal(one.id),
            one.role,
            one.num_people,
            one.num_by_state.get("accepted", 0),
            one.num_by_state.get("waiting", 0),
            one.num_versions,
            "forked" if one.fork else "",
        )
        for one in listed
    ]
    columns = ("Name", "Datanet", "You", "People", "Accepted", "Waiting", "Versions", "")
    return show_table(columns, rows, empty="none yet: lorikeet datanet create NAME, or join TOKEN")


@app.command("invite")
def invite(
    home: Home,
    datanet: Datanet,
    uses: Annotated[int, typer.Option(help="How many people may join by it.")] = 1,
    days: Annotated[float, typer.Option(help="How long it lasts.")] = 7.0,
) -> None:
    """Print a word with which others join: lorikeet datanet join TOKEN."""
    with open_client(home) as client:
        told = client.post(path(datanet, "invite"), {"uses": uses, "days": days}, dict[str, str])
    people = "one person" if uses == 1 else f"{uses} people"
    err.print(f"whoever has this word can join: {people}, for {days:g} days", highlight=False)
    print(told["token"])


@app.command("join")
def join(
    home: Home,
    token: Annotated[str, typer.Argument(help="An invite, or the digest of an open datanet.")],
    name: Annotated[str, typer.Option("--name", help="What others call you.")] = "",
    as_json: Json = False,
) -> None:
    """Take part in a datanet."""
    with open_client(home) as client:
        info = client.post("datanets/join", {"token": token, "name": name}, DatanetInfo)
    if as_json:
        return show_json(info)
    show_info(info)
    return say(f"next: lorikeet datanet give {info.name} FILE …")


@app.command("give")
def give(
    home: Home,
    datanet: Datanet,
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, resolve_path=True, help="txt, md, csv …"),
    ],
    title: Annotated[str, typer.Option(help="What it is.")] = "",
    source: Annotated[str, typer.Option(help="Where it is from.")] = "my own",
    licence: Annotated[str, typer.Option(help="One that the datanet takes; else its first.")] = "",
    language: Annotated[str, typer.Option(help="Which language it is in.")] = "",
    pay_to: Annotated[str, typer.Option(help="The address that is paid; else the owner's.")] = "",
    column: Annotated[str, typer.Option(help="The column of csv or jsonl with the text.")] = "",
    mask: Annotated[bool, typer.Option("--mask", help="Replace personal data.")] = False,
    agree: Annotated[
        bool, typer.Option("--agree", help="I agree to the datanet's words; do not ask.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look at the files; give nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Give texts: they are looked at, claimed under your key, then shown."""
    with open_client(home) as client:
        if not (agree or dry_run):
            ask_consent(client.get(path(datanet), DatanetDetail).info)
        said = GiveSaid(
            tuple(map(str, files)),
            title,
            source,
            licence,
            language=language,
            pay_to=pay_to,
            column=column,
            mask=mask,
            agreed=not dry_run,
        )
        found = run(client, path(datanet, "give"), msgspec.to_builtins(said), GivenInfo)
    if as_json:
        show_json(found)
    else:
        show_findings(found.findings)
        kept = f"{found.num_kept} documents may be given, {found.num_refused} may not"
        say(kept if dry_run or not found.contributions else f"{kept}; given:")
        if found.contributions:
            show_contributions(found.contributions)
    if not found.contributions and not dry_run:
        raise CliError("nothing was given; mend what is refused above, and give it again")


@app.command("queue")
def queue(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """List what waits for the council, with what the checks found."""
    with open_client(home) as client:
        listed = run(client, path(datanet, "queue"), {}, list[ContributionInfo])
    if as_json:
        return show_json(listed)
    show_contributions(listed, empty="nothing waits")
    for one in listed:
        if one.findings:
            say(f"{one.title} ({brief_id(one.id)})")
            show_findings(one.findings)
    if listed and out.is_terminal:
        say(f"next: lorikeet datanet accept {datanet} {brief_id(listed[0].id)}   or refuse, text")
    return None


@app.command("text")
def text(home: Home, datanet: Datanet, contribution: Contribution) -> None:
    """Print a contribution's text."""
    with open_client(home) as client:
        data = client.get_bytes(path(datanet, f"texts/{quote(contribution, safe='')}"))
    sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")


@app.command("accept")
def accept(home: Home, datanet: Datanet, contribution: Contribution, as_json: Json = False) -> None:
    """Accept a contribution, or sign a proposed version."""
    judge(home, datanet, {"subject": contribution, "decision": "accept"}, as_json)


@app.command("refuse")
def refuse(
    home: Home,
    datanet: Datanet,
    contribution: Contribution,
    why: Why,
    mend: Mend = "",
    code: Code = "curator",
    as_json: Json = False,
) -> None:
    """Refuse a contribution, and say why."""
    body = {"subject": contribution, "decision": "refuse", "code": code, "detail": why}
    judge(home, datanet, body | {"mend": mend or "give it again when it is mended"}, as_json)


@app.command("hold")
def hold(
    home: Home, datanet: Datanet, contribution: Contribution, why: Why, as_json: Json = False
) -> None:
    """Have a contribution wait, and say what for."""
    body = {"subject": contribution, "decision": "hold", "code": "curator", "detail": why}
    judge(home, datanet, body | {"mend": "answer the council"}, as_json)


@app.command("role")
def role(
    home: Home,
    datanet: Datanet,
    person: Annotated[str, typer.Argument(help="A name, or a peer id.")],
    new_role: Annotated[str, typer.Argument(metavar="member|curator|barred")],
    as_json: Json = False,
) -> None:
    """Make somebody a curator or a member, or bar them."""
    with open_client(home) as client:
        body = {"person": person, "role": new_role}
        info = client.post(path(datanet, "appoint"), body, PersonInfo)
    if as_json:
        return show_json(info)
    waits = "" if info.role == new_role else f"; others of the council must say {new_role} too"
    return say(f"{info.name} is {info.role}{waits}")


@app.command("version")
def version(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Make the next version out of what is accepted."""
    with open_client(home) as client:
        made = client.post(path(datanet, "version"), {}, dict[str, Any])
    if as_json:
        return show_json(made)
    if "number" not in made:
        waiting = msgspec.convert(made, ContributionInfo)
        return say(
            f"{waiting.title} is proposed; {waiting.needed} of the council must sign it: lorikeet"
            f" datanet accept {datanet} {brief_id(waiting.id)}"
        )
    return show_version(msgspec.convert(made, DatanetVersionInfo))


@app.command("withdraw")
def withdraw(
    home: Home, datanet: Datanet, contribution: Contribution, as_json: Json = False
) -> None:
    """Take back what you gave: the next version leaves it out, and it is paid no more."""
    with open_client(home) as client:
        body = {"contribution": contribution}
        info = client.post(path(datanet, "withdraw"), body, ContributionInfo)
    if as_json:
        return show_json(info)
    say(f"{info.title} is withdrawn")
    return say("models that were trained on it, and copies that others made, stay as they are")


@app.command("show")
def show(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Show a datanet: its rules, people, contributions and versions."""
    with open_client(home) as client:
        detail = client.get(path(datanet), DatanetDetail)
    if as_json:
        return show_json(detail)
    show_info(detail.info)
    people = [(one.name, one.role, one.accepted, on_terminal(one.peer_id)) for one in detail.people]
    show_table(("Person", "Role", "Accepted", "Peer"), people, empty="nobody")
    show_contributions(detail.contributions, empty="nothing was given yet")
    for one in detail.contributions:
        if one.findings:
            show_findings(one.findings)
    for made in detail.versions:
        show_version(made)
    if detail.info.fork:
        err.print("[bold red]forked[/bold red]: its sequencer signed two entries for one place")
        for one_fork in detail.info.fork:
            print(one_fork)
    return None


@app.command("export")
def export(
    home: Home,
    datanet: Datanet,
    folder: Annotated[Path, typer.Argument(resolve_path=True, help="A folder to make.")],
    number: Annotated[int | None, typer.Option("--version", help="Which; else the last.")] = None,
    as_json: Json = False,
) -> None:
    """Write a version's texts and their owners into a folder."""
    with open_client(home) as client:
        body = {"folder": str(folder), "version": number}
        info = run(client, path(datanet, "export"), body, ExportInfo)
    if as_json:
        return show_json(info)
    return show_facts(
        [
            ("folder", info.folder),
            ("version", f"{info.version} ({on_terminal(info.digest)})"),
            ("documents", f"{info.documents}, {info.held_out} of them held out of training"),
            ("words", info.words),
            ("people", info.people),
        ]
    )


@app.command("verify")
def verify(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Recompute log, versions and texts, and run the checks again. Exit status 4: something
    differs.
    """
    with open_client(home) as client:
        info = run(client, path(datanet, "verify"), {}, VerifiedInfo)
    if as_json:
        show_json(info)
    else:
        show_facts(
            [
                ("log", f"{info.rows} entries"),
                ("versions", info.versions),
                ("texts", f"{info.texts}, with {info.documents} documents"),
                ("checked again", info.checked),
            ]
        )
        for note in info.notes:
            say(f"note: {note}")
        for problem in info.problems:
            err.print(f"[bold red]differs:[/bold red] {escape(problem)}")
        say("everything holds" if not info.problems else "")
    if info.problems:
        raise typer.Exit(EXIT_DIFFERS)


# --- asking ---


def path(datanet: str, rest: str = "") -> str:
    """Return a route of one datanet."""
    return f"datanets/{quote(datanet, safe='')}" + (f"/{rest}" if rest else "")


def run(client: DaemonClient, route: str, body: object, kind: type[Value]) -> Value:
    """Have something done that takes long; show on a terminal how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars,
        client.stream(f"/lorikeet/v1/{route}", body) as events,
    ):
        bar = bars.add_task("working", total=None)
        for event in events:
            if "result" in event:
                return decode(msgspec.json.encode(event["result"]), kind)
            said = event["progress"]
            what = STAGES.get(said["stage"], said["stage"])
            bars.update(
                bar,
                description=escape(f"{what} {said['note'][:40]}"),
                completed=said["done"],
                total=said["total"] or None,
            )
    raise CliError("the daemon hung up in mid-answer", EXIT_ERROR)


def judge(home: Path, datanet: str, body: dict[str, str], as_json: bool) -> None:
    """Say what this node thinks of a contribution."""
    with open_client(home) as client:
        info = client.post(path(datanet, "judge"), body, ContributionInfo)
    if as_json:
        return show_json(info)
    if info.state == "waiting" and info.kind == "contribution":
        return say(f"{info.title} waits: {info.needed} of the council must agree")
    return say(f"{info.title}: {info.state if info.kind == 'contribution' else 'signed'}")


def ask_consent(info: DatanetInfo) -> None:
    """Show the words to agree to, and ask. Raises CliError for a no."""
    err.print(f"What you agree to when you give to {escape(info.name)}:\n", highlight=False)
    err.print(escape(info.consent), highlight=False)
    if not sys.stdin.isatty():
        raise CliError("say --agree if you agree to these words")
    if not typer.confirm("\nDo you agree?", err=True):
        raise CliError("nothing was given")


# --- showing ---


def say(line: str) -> None:
    """Print a line for a person."""
    if line:
        out.print(escape(line))


def brief_id(digest: str) -> str:
    """Return enough of a digest to type."""
    return digest[:12]


def show_info(info: DatanetInfo) -> None:
    """Show what a datanet is."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(info.num_by_state.items()))
    who = "anybody" if info.is_open else "who is invited"
    facts: list[tuple[str, object]] = [
        ("datanet", info.name),
        ("digest", info.id),
        ("purpose", info.purpose or "-"),
        ("owner", on_terminal(info.owner)),
        ("you", info.role),
        ("may join", who),
        ("takes", f"{' '.join(info.licences)} · {' '.join(info.languages) or 'any language'}"),
        ("council", f"{info.quorum} must agree"),
        ("people", info.num_people),
        ("contributions", counts or "none"),
        ("versions", info.num_versions),
        ("log", f"{info.seq + 1} entries, newest {when(info.at)}"),
    ]
    show_facts([(name, escape(str(value)) if out.is_terminal else value) for name, value in facts])


def show_contributions(listed: Sequence[ContributionInfo], empty: str = "none") -> None:
    """Show contributions, one a row."""
    rows = [
        (
            brief_id(one.id) if out.is_terminal else one.id,
            shown(one.title),
            shown(one.name),
            one.documents,
            one.words,
            size(one.size_bytes),
            one.state,
            ", ".join(f"{shown(name)} {said}" for name, said in one.voices),
        )
        for one in listed
    ]
    columns = ("Contribution", "Title", "By", "Documents", "Words", "Size", "State", "Council")
    show_table(columns, rows, empty=empty)


def show_findings(findings: Sequence[FindingInfo]) -> None:
    """Show what was found: what is wrong, where, and what to do."""
    rows = [
        (
            one.outcome,
            one.code,
            one.document or "all",
            shown(one.title[:30]),
            shown(one.detail),
            shown(one.mend),
        )
        for one in findings[:MAX_SHOWN_FINDINGS]
    ]
    if rows:
        show_table(("", "Code", "Document", "Title", "What", "Mend"), rows, empty="")
    if len(findings) > MAX_SHOWN_FINDINGS:
        say(f"… and {len(findings) - MAX_SHOWN_FINDINGS} more (--json shows all)")


def show_version(made: DatanetVersionInfo) -> None:
    """Show who has how much of a version."""
    left = f", {made.left} withdrawn since" if made.left else ""
    say(
        f"version {made.number}  {on_terminal(made.digest)}  {when(made.created_at)} "
        f" {made.contributions} contributions{left}"
    )
    rows = [
        (
            shown(one.name),
            one.documents,
            one.words,
            size(one.size_bytes),
            one.held_out,
            on_terminal(one.pay_to),
        )
        for one in made.totals
    ]
    show_table(("Person", "Documents", "Words", "Size", "Held out", "Paid at"), rows, empty="")


def shown(text: str) -> str:
    """Return a stranger's text as a table may show it."""
    return escape(text) if out.is_terminal else " ".join(text.split())
