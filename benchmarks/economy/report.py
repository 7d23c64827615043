"""The report: tables in Markdown, bars in SVG. Reads figures, computes none but what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engine.report import plot, table

MAIN = "trust"
INTEREST = 0.05  # a year, of what lies locked
THAW_DAYS = 7
MILLION = 1_000_000  # units in a dollar


def as_markdown(figures: Mapping[str, Any]) -> str:
    """Write every table."""
    parts = [
        "# Which strategies lose money",
        "`python -m benchmarks.economy`; `--full` for the largest world. A node's profit of a day,"
        " times that of an honest node in the same world: below 1 the strategy loses by being"
        " dishonest. Means over seeds, in brackets 95 % by Student's distribution."
        " [docs/economy.md](../../docs/economy.md) says what it means.",
        "## What was expected",
        table(("strategy", "expected before the first run"), list(figures["expected"].items())),
        "## What other benchmarks measured",
        _inputs(figures["measured"]),
    ]
    points = figures["points"]
    if sum(one["axis"] == MAIN for one in points) == 2:
        parts += ["## The trust as it was and as it is", _before_after(points)]
        parts += ["## One thing changed at a time", _axes(points)]
        parts += ["## What a fresh name would have to cost", _stakes(points)]
    if figures["full"]:
        parts += ["## The largest world", _full(figures["full"])]
    parts += ["## Who pays himself", _dealings(figures)]
    return "\n\n".join(parts) + "\n"


def as_svg(figures: Mapping[str, Any]) -> str:
    """Draw what each strategy brings beside honesty, for each world; the dashed line is honesty."""
    groups: dict[str, dict[str, Sequence[float]]] = {}
    for point in [*figures["points"], *filter(None, [figures["full"]])]:
        for group in ("replay", "do not"):
            if not _has(point, group):
                continue
            title = f"{point['axis']}: {point['place']}; clients that {group}: times honest"
            groups[title] = {
                name: [row["beside_honest"][group][which] for which in ("low", "mean", "high")]
                for name, row in point["strategies"].items()
                if name != "honest"
            }
    return plot(groups, dict.fromkeys(groups, 1.0), unit="")


def _has(point: Mapping[str, Any], group: str) -> bool:
    replaying = point["world"]["verifying"]
    return replaying > 0 if group == "replay" else replaying < 1


def _inputs(measured: Mapping[str, Any]) -> str:
    looks = [
        (
            one["who"],
            f"{one['rate']:.1%}",
            f"{one['score']:.4f}",
            _or(one["half_after"], "more than 32"),
            _or(one["by_the_mean_score"], "never"),
            f"{one['file']}.json",
        )
        for one in measured["looks"]
    ]
    works = [
        (name, f"{one['part']:.3f}", f"{1000 * one['first_s']:.0f} ms")
        for name, one in measured["works"].items()
    ]
    head = ("answers", "suspicious alone", "mean score", "half convicted after", "here", "from")
    return "\n\n".join(
        (
            table(head, looks),
            table(("work", "of an honest answer's", "first token"), works),
            f"From engine-compare (8 at once) and proofs-counter: receipts and vouchers take"
            f" {measured['money_part']:.1%} of an answer's time, and who cheats has to write them"
            f" too. A replay takes {measured['replay_part']:.0%} of the answer's time"
            " (engine-replay, 64 tokens, 8 at once, sampled).",
        )
    )


def _before_after(points: Sequence[Mapping[str, Any]]) -> str:
    before, after = (
        next(one for one in points if one["axis"] == MAIN and one["place"] == place)
        for place in ("as it was", "as it is")
    )
    head = (
        "strategy",
        "clients that replay: before",
        "after",
        "clients that do not: before",
        "after",
        "an answer (units), after",
        "a day (units), after",
    )
    rows = [
        (
            name,
            *(
                _interval(point["strategies"][name]["beside_honest"][group])
                for group in ("replay", "do not")
                for point in (before, after)
            ),
            f"{row['per_answer']:,.0f}",
            f"{row['per_day']:,.0f}",
        )
        for name, row in after["strategies"].items()
    ]
    return "\n\n".join(
        (
            _world(after),
            table(head, rows),
            f"Of the answers that clients with an engine bought {before['replayed_part']:.1%} were"
            f" replayed before, {after['replayed_part']:.1%} after.",
        )
    )


def _axes(points: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in points[0]["strategies"] if name != "honest"]
    parts = []
    for group in ("replay", "do not"):
        rows = [
            (
                point["axis"],
                point["place"],
                *(_mean(point["strategies"][name]["beside_honest"][group]) for name in names),
                f"{point['replayed_part']:.1%}" if group == "replay" else "",
            )
            for point in points
            if _has(point, group) and point["place"] != "as it was"
        ]
        head = ("changed", "to", *names, "replayed" if group == "replay" else "")
        parts += [f"Sold to clients that {group}" + (":" if group == "replay" else " replay:")]
        parts += [table(head, rows)]
    parts += [_told(point) for point in points if point["auditors"] or point["accusations"]]
    return "\n\n".join(parts)


def _told(point: Mapping[str, Any]) -> str:
    auditors = point["auditors"]
    told = f"{point['axis']}, {point['place']}: "
    if point["accusations"]:
        return told + (
            f"{point['accusations']:,} accusations cost {point['accusers_spent']:,} units;"
            f" honest nodes were convicted {point['strategies']['honest']['convictions']} times,"
            f" {point['replayed_part']:.1%} of answers were replayed."
        )
    each = [
        f"{kind} auditors earned {auditors[f'{kind}, earned']:,} units by"
        f" {auditors[f'{kind}, verdicts']:,} verdicts"
        for kind in ("honest", "blind")
        if f"{kind}, verdicts" in auditors
    ]
    return told + "; ".join(each) + "."


def _stakes(points: Sequence[Mapping[str, Any]]) -> str:
    """Say which stake for each name makes fresh names worthless: no verdict slashes it, so it costs
    the interest of the time for which it lies locked.
    """
    rows = []
    for point in points:
        world = point["world"]
        row = point["strategies"]["renamed junk"]
        num_nodes = round(world["nodes"] * world["part_each"]) * point["seeds"]
        names = row["names"] / num_nodes
        brings = row["per_day"] * world["days"] / names
        stake = brings / (INTEREST * THAW_DAYS / 365) / MILLION
        rows.append(
            (point["axis"], point["place"], f"{names:.1f}", f"{brings:,.0f}", f"{stake:,.0f}")
        )
    head = ("world", "", "names of a node", "a name brings (units)", "stake (dollars)")
    return "\n\n".join(
        (
            f"A stake for each name, returned {THAW_DAYS} days after it is asked back, costs"
            f" {INTEREST:.0%} a year. The one that costs what a name of renamed junk brings:",
            table(head, rows),
        )
    )


def _full(point: Mapping[str, Any]) -> str:
    head = ("strategy", "clients that replay", "that do not", "all", "answers", "replays", "names")
    rows = [
        (
            name,
            *(_mean(row["beside_honest"][group]) for group in ("replay", "do not", "all")),
            f"{row['answers']:,}",
            f"{row['replays']:,}",
            f"{row['names']:,}",
        )
        for name, row in point["strategies"].items()
    ]
    calls = ", ".join(f"{name} {num:,}" for name, num in point["calls"].items())
    return "\n\n".join(
        (
            _world(point),
            table(head, rows),
            f"Real calls: award_by {point['divided']:,} (different fees of {point['awards']:,}"
            f" answers), {calls}. One seed, {point['cpu_s']} s of one processor.",
        )
    )


def _dealings(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            one["name"],
            f"{one['paid']:,}",
            f"{one['back']:,}",
            f"{one['part_lost']:.1%}",
            one["told"],
        )
        for one in figures["dealings"]
    ]
    verbatim, changed = figures["copied"]
    return "\n\n".join(
        (
            table(("who", "paid or bonded", "comes back", "lost", ""), rows),
            f"A copy of another contributor's text, word for word, was paid {verbatim:.1%} of the"
            f" contributors' part; one with changed words up to {changed:.1%}"
            " (attribution-worlds, not simulated).",
        )
    )


def _world(point: Mapping[str, Any]) -> str:
    world = point["world"]
    return (
        f"{world['nodes']:,} nodes, of which each dishonest strategy has {world['part_each']:.0%};"
        f" {world['clients']} clients, {world['adapters']} adapters, {world['answers']:,} answers"
        f" in {world['days']:.0f} days; {world['verifying']:.0%} of the clients replay; an honest"
        f" answer's work costs {world['work_part']:.0%} of what its node is paid;"
        f" {point['seeds']} seeds."
    )


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def _mean(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.2f}"


def _or(value: object, otherwise: str) -> str:
    return otherwise if value is None else str(value)
