"""`lorikeet datanet queue | text | accept | refuse | hold | role | version`, and for the owner
`charter | hand-on`: who decides, and what.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from ...api.datanets import (
    CharterChange,
    ContributionInfo,
    DatanetInfo,
    DatanetVersionInfo,
    PersonInfo,
)
from ..client import open_client
from ..options import Home, Json
from ..publish import parse_size
from ..show import out, show_json
from .asking import Contribution, Datanet, Person, path, read_words, run
from .tables import brief_id, say, show_contributions, show_findings, show_info, show_version

Why = Annotated[str, typer.Option("--why", help="What is wrong with it.")]
Mend = Annotated[str, typer.Option("--mend", help="What its contributor can do about it.")]
Code = Annotated[str, typer.Option("--code", help="The reason in a word.")]


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
        first = f"{shlex.quote(datanet)} {brief_id(listed[0].id)}"
        say(f"next: lorikeet datanet accept {first}   or refuse, hold, text")
    return None


def text(home: Home, datanet: Datanet, contribution: Contribution) -> None:
    """Print a contribution's text."""
    with open_client(home) as client:
        data = client.get_bytes(path(datanet, f"texts/{quote(contribution, safe='')}"))
    sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")


def accept(home: Home, datanet: Datanet, contribution: Contribution, as_json: Json = False) -> None:
    """Accept a contribution, or sign a proposed version."""
    judge(home, datanet, {"subject": contribution, "decision": "accept"}, as_json)


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


def hold(
    home: Home, datanet: Datanet, contribution: Contribution, why: Why, as_json: Json = False
) -> None:
    """Have a contribution wait, and say what for."""
    body = {"subject": contribution, "decision": "hold", "code": "curator", "detail": why}
    judge(home, datanet, body | {"mend": "answer the council"}, as_json)


def role(
    home: Home,
    datanet: Datanet,
    person: Person,
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
            f" datanet accept {shlex.quote(datanet)} {brief_id(waiting.id)}"
        )
    return show_version(msgspec.convert(made, DatanetVersionInfo))


def charter(
    home: Home,
    datanet: Datanet,
    purpose: Annotated[str | None, typer.Option(help="What its texts are for.")] = None,
    licences: Annotated[
        list[str] | None, typer.Option("--licence", help="A licence it takes; may be repeated.")
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", help="A language it takes; may be repeated; any: takes all."),
    ] = None,
    quorum: Annotated[int | None, typer.Option(help="How many of the council must agree.")] = None,
    is_open: Annotated[
        bool | None, typer.Option("--open/--invited", help="Anybody may join, or who is invited.")
    ] = None,
    min_words: Annotated[int | None, typer.Option(help="A document has at least so many.")] = None,
    max_person: Annotated[str, typer.Option(help="What one person may give: 20M, 1G.")] = "",
    consent: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The words to agree to.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change the rules, as its owner; what is not said stays. What was given stays as it is."""
    said = CharterChange(
        purpose=purpose,
        consent=read_words(consent) if consent else None,
        languages=tuple(one for one in languages if one != "any") if languages else None,
        licences=tuple(licences) if licences else None,
        quorum=quorum,
        is_open=is_open,
        min_words=min_words,
        max_person_bytes=parse_size(max_person) if max_person else None,
    )
    change(home, datanet, said, as_json)


def hand_on(
    home: Home,
    datanet: Datanet,
    person: Person,
    is_lost: Annotated[
        bool, typer.Option("--lost", help="The node that wrote the log is gone for good.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have another member's node write the log from now on, as its owner.

    With --lost it is taken from a node that is gone: what that one wrote and gave to nobody is lost
    with it, and if it comes back and goes on, the datanet is forked.
    """
    change(home, datanet, CharterChange(sequencer=person, is_lost=is_lost), as_json)


def change(home: Path, datanet: str, said: CharterChange, as_json: bool) -> None:
    """Have the owner sign a new charter."""
    with open_client(home) as client:
        info = client.post(path(datanet, "charter"), msgspec.to_builtins(said), DatanetInfo)
    return show_json(info) if as_json else show_info(info)


def judge(home: Path, datanet: str, body: dict[str, str], as_json: bool) -> None:
    """Say what this node thinks of a contribution."""
    with open_client(home) as client:
        info = client.post(path(datanet, "judge"), body, ContributionInfo)
    if as_json:
        return show_json(info)
    if info.state == "waiting" and info.kind == "contribution":
        return say(f"{info.title} waits: {info.needed} of the council must agree")
    return say(f"{info.title}: {info.state if info.kind == 'contribution' else 'signed'}")
