"""How datanets look in a terminal and in a pipe. Asks nothing of the daemon."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from ...api.datanets import ContributionInfo, DatanetInfo, DatanetVersionInfo, FindingInfo
from ..show import on_terminal, out, show_facts, show_table, size, when

MAX_SHOWN_FINDINGS = 20


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
