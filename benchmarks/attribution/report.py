"""The worlds' figures as a page, each beside its goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine_name

GOALS = {
    ("X", "r"): 0.50,
    ("X", "lds"): 0.30,
    ("S", "r"): 0.34,
    ("S", "lds"): 0.34,
}
GOAL_POOLED = 0.60
GOALS_ABOVE = {"r": 0.70, "lds": 0.60}


def markdown(whole: Mapping[str, Any]) -> str:
    """Return the page."""
    spent = whole["cpu_s"]
    lines = [
        "# Whose words an answer drew on: the payable rule beside training without somebody",
        "",
        f"Machine: {machine_name()}, one thread. Processor time: "
        + ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in spent.items())
        + f"; {sum(spent.values()) / 60:.1f} min in all.",
        f"{whole['tokens_each']['X']} tokens of each person in X, {whole['tokens_each']['S']} in S;"
        " background:"
        f" {whole['background_samples'][0]} samples of the base of"
        f" {whole['background_samples'][1]} tokens, in S and public pages of the field.",
        "Means over answers, in brackets the 95 % bootstrap interval; weights and λ are fitted on"
        " other answers than those they are judged on.",
        "",
    ]
    if whole["not_judged"]:
        lines += [f"Not judged, trainings are missing: world {', '.join(whole['not_judged'])}.", ""]
    for name, world in whole["worlds"].items():
        lines += _world(name, world)
    return "\n".join(lines) + "\n"


def _world(name: str, world: Mapping[str, Any]) -> list[str]:
    lines = [f"## World {name}", ""]
    if world["missing"]:
        lines += [f"Not trained, for want of time: {', '.join(world['missing'])}.", ""]
    lines += _quality(name, world) if "payable" in world else _drawn(world["by_answer_percent"])
    return [*lines, *_copies(world["late copies"]), *_split(world["one person as five"])]


def _quality(name: str, world: Mapping[str, Any]) -> list[str]:
    floor = world["noise_floor"]
    lines = [
        "| | r | LDS |",
        "|---|---|---|",
        f"| as it is paid, λ {world['lambda_eighths']}/8 | {_both(world['payable'])} |",
        f"| goal | {GOALS[name, 'r']:.2f} | {GOALS[name, 'lds']:.2f} |",
        f"| the ladder alone | {_both(world['ladder alone'])} |",
        f"| standing weights alone | {_both(world['standing alone'])} |",
        "| as it is paid, answers whose owner's effect is above the median"
        f" | {_both(world[ABOVE])} |",
        f"| goal | {GOALS_ABOVE['r']:.2f} | {GOALS_ABOVE['lds']:.2f} |",
        "| the ladder's bits, pooled over answers |"
        f" {_interval(world['pooled r of the ladder'])} | |",
        f"| goal (X) | {GOAL_POOLED:.2f} | |",
        "",
        f"The adapter gains {world['gain_nats']:.1f} nats on an answer. Random halves:"
        f" {world['num_halves']}.",
    ]
    if floor is not None:
        lines.append(
            f"From a second seed, {len(_get(floor, 'contributors'))} people left out again: effects"
            f" correlate {_get(floor, 'r'):.2f} over answers, differ by"
            f" {_get(floor, 'difference_nats'):.2f} nats (root mean square; the effects themselves"
            f" {_get(floor, 'effect_nats'):.2f})."
        )
    lines += [
        "",
        "| who | owns | left out costs | standing | by answer alone | paid | training without him"
        " would pay |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['name']} | {one['owned_percent']:.0f} % | {one['mean_effect_nats']:+.2f} nats |"
        f" {one['standing_percent']:.1f} % | {one['by_answer_percent']:.2f} % |"
        f" {one['paid_percent']:.2f} % | {one['by_leaving_out_percent']:.1f} % |"
        for one in world["people"]
    ]
    return lines


def _drawn(by_answer: Mapping[str, float]) -> list[str]:
    """Before anybody was left out there is nothing to follow: what answers draw on alone."""
    people = ", ".join(f"{name} {percent:.2f} %" for name, percent in by_answer.items())
    return [f"Parts by answer alone: {people}."]


def _copies(copies: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "",
        "| late copies of an honest person, tokens changed | count | earn by answer alone (most) |"
        " of all bits | are paid (most) | the copied one by answer alone | keeps of his bits"
        " (least) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in copies:
        paid = "not measured"
        if "paid_percent" in one:
            paid = f"{one['paid_percent']:.2f} % ({one['paid_most_percent']:.2f})"
        lines.append(
            f"| {one['copies']}, {100 * one['tokens_changed']:.0f} % | {one['owned_percent']:.1f} %"
            f" | {one['by_answer_percent']:.2f} % ({one['by_answer_most_percent']:.2f}) |"
            f" {one['of_all_bits_percent']:.2f} % | {paid} |"
            f" {one['copied_one_before_percent']:.2f} → {one['copied_one_after_percent']:.2f} % |"
            f" {one['bits_kept_percent']:.1f} % ({one['bits_kept_least_percent']:.1f}) |"
        )
    return lines


def _split(split: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = {"by_answer": "by answer alone", "paid": "as it is paid"}
    each = [
        f"{names[way]} {found['least_points']:+.2f} to {found['most_points']:+.2f}"
        for way, found in split.items()
    ]
    return ["", f"One person as five gains, in points: {', '.join(each)}.", ""]


ABOVE = "owner's effect above the median"


def _both(quality: Mapping[str, Any]) -> str:
    return f"{_interval(quality['r'])} | {_interval(quality['lds'])}"


def _interval(figure: Any) -> str:
    if figure is None:
        return "not measured"
    mean, low, high = (_get(figure, name) for name in ("mean", "low", "high"))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _get(record: Any, name: str) -> Any:
    return record[name] if isinstance(record, Mapping) else getattr(record, name)
