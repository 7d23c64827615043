"""`lorikeet datanet create | list | invite | join | leave | give | withdraw`: what anybody does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from ...api.datanets import (
    CharterSaid,
    DatanetDetail,
    DatanetInfo,
    GivenInfo,
    GiveSaid,
    LeftInfo,
    WithdrawnInfo,
)
from ..client import CliError, open_client
from ..options import Home, Json
from ..publish import parse_size
from ..show import err, on_terminal, show_json, show_table
from .asking import Contribution, Datanet, path, read_words, run
from .tables import brief_id, say, show_contributions, show_findings, show_info


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
        read_words(consent) if consent else "",
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
    return say(f"next: lorikeet datanet invite {quote(info.name)}")


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
            "forked" if one.fork else "behind" if one.lost else "",
        )
        for one in listed
    ]
    columns = ("Name", "Datanet", "You", "People", "Accepted", "Waiting", "Versions", "")
    return show_table(columns, rows, empty="none yet: lorikeet datanet create NAME, or join TOKEN")


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
    return say(f"next: lorikeet datanet give {quote(info.name)} FILE …")


def give(
    home: Home,
    datanet: Datanet,
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, resolve_path=True, help="txt, md, csv …, or folders of them."),
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
            tuple(map(str, files_in(files))),
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


def withdraw(
    home: Home, datanet: Datanet, contribution: Contribution, as_json: Json = False
) -> None:
    """Take back what you gave: the next version leaves it out, and it is paid no more."""
    with open_client(home) as client:
        body = {"contribution": contribution}
        found = client.post(path(datanet, "withdraw"), body, WithdrawnInfo)
    if as_json:
        return show_json(found)
    info = found.contribution
    say(f"{info.title} is withdrawn")
    say("models that were trained on it, and copies that others made, stay as they are; an adapter")
    say("goes on paying for it until its creator publishes it without it:")
    say(f"  lorikeet push FOLDER --without {brief_id(info.id)}")
    if found.paying:
        say("these that this node knows of pay for it:")
        rows = [(f"{name}@{version}", maker) for name, version, maker in found.paying]
        return show_table(("Adapter", "Its creator"), rows, empty="")
    return say("this node knows of none that pays for it")


def leave(home: Home, datanet: Datanet, as_json: Json = False) -> None:
    """Hold a datanet no more: its log and its texts go from this node."""
    with open_client(home) as client:
        left = client.post(path(datanet, "leave"), {}, LeftInfo)
    if as_json:
        return show_json(left)
    say(f"{left.name} is held here no more; the others' logs still name you")
    if left.given:
        say(f"{left.given} of your contributions stay in it and are paid; to take one back, join")
        say("again and `lorikeet datanet withdraw` it")
    return None


def files_in(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and of folders every file in them, but hidden ones. Raises CliError."""
    found = list[Path]()
    for place in paths:
        inside = (
            sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
        )
        found += [
            one
            for one in inside
            if not any(part.startswith(".") for part in one.relative_to(place).parts)
        ]
    if not found:
        raise CliError(f"{paths[0]} has no files; give txt, md, csv, jsonl, pdf or docx")
    return found


def ask_consent(info: DatanetInfo) -> None:
    """Show the words to agree to, and ask. Raises CliError for a no."""
    err.print(f"What you agree to when you give to {escape(info.name)}:\n", highlight=False)
    err.print(escape(info.consent), highlight=False)
    if not sys.stdin.isatty():
        raise CliError("say --agree if you agree to these words")
    if not typer.confirm("\nDo you agree?", err=True):
        raise CliError("nothing was given")
