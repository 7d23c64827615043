"""Which strategies lose money, and on what that hangs: python -m benchmarks.economy

Plays small worlds over several seeds, with the trust as it is and as it was, then with one thing
changed at a time; `--full` plays 10,000 nodes and 1,000,000 answers once. What one run finds of
the two stays when the other is run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks import machine_name, write_result

from .dealings import all_dealings, copied
from .figures import beside_honest, interval, per_answer, per_day, replayed_part, sold
from .market import Outcome, play
from .measured import LOOKS, RESULTS, money_part, replay_part, works
from .report import as_markdown, as_svg
from .strategies import OTHERS_EXPECTED, STRATEGIES, Strategy
from .world import World

NAME = "economy"
SMALL = World(nodes=200, clients=8, adapters=25, answers=20_000)
FULL = World()
LARGEST = ("the largest world", "10,000 nodes, 1,000,000 answers, one seed")
GROUPS = {"replay": (True,), "do not": (False,), "all": (True, False)}
SHOWN = (
    *("nodes", "clients", "adapters", "answers", "days", "part_each"),
    *("verifying", "elsewhere", "blind", "named", "accusing", "one_in", "work_part", "seen"),
)
MEANS = ("per_answer", "per_day")
SUMS = ("answers", "replays", "convictions", "names")
COUNTED = ("awards", "divided", "accusations", "accusers_spent", "given_up", "cpu_s")
SEEDS = 5
FEW_SEEDS = 3


def worlds() -> Iterator[tuple[str, str, World, int]]:
    """Yield what is played: the axis, where on it, the world, over how many seeds."""

    def vary(**changes: Any) -> World:
        return dataclasses.replace(SMALL, **changes)

    yield "trust", "as it was", vary(is_former=True), SEEDS
    yield "trust", "as it is", SMALL, SEEDS
    for one_in in (10, 1_000):
        yield "one answer in … is replayed", str(one_in), vary(one_in=one_in), FEW_SEEDS
    for part in (0.25, 1.0):
        yield "clients that replay", f"{part:.0%}", vary(verifying=part), FEW_SEEDS
    for part in (0.25, 0.5):
        yield "of what was measured a replay sees", f"{part:.0%}", vary(seen=part), FEW_SEEDS
    for times in (0.25, 4.0):
        world = vary(answers=round(SMALL.answers * times))
        yield "answers in the five days", f"{world.answers:,}", world, FEW_SEEDS
    for named in (1, 3):
        yield "auditors that each client names", str(named), vary(named=named), FEW_SEEDS
    for blind in (0.0, 0.2):
        world = vary(verifying=0.0, elsewhere=1.0, blind=blind)
        yield "all pay strangers to replay, of them blind", f"{blind:.0%}", world, FEW_SEEDS
    yield "clients that accuse honest nodes", "25%", vary(accusing=0.25), FEW_SEEDS


def main() -> None:
    """Play, keep, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--full", action="store_true", help="10,000 nodes, 1,000,000 answers")
    parser.add_argument("--report", action="store_true", help="play nothing, write the pages")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    if asked.full:
        _keep({"full": summarise(*LARGEST, FULL, [distil(play(FULL, 1))])})
    elif asked.report:
        _keep({})
    else:
        points = []
        for point in _play_all(asked.processes):
            points.append(point)
            _keep({"points": points})  # a run that is cut off keeps what it has


def _keep(found: dict[str, Any]) -> None:
    """Write what was found beside what is kept, and the pages of both."""
    kept = _kept() | found
    figures = {
        "expected": {one.name: one.expected for one in STRATEGIES} | OTHERS_EXPECTED,
        "measured": _inputs(),
        "points": kept.get("points", []),
        "full": kept.get("full"),
        "dealings": [
            dataclasses.asdict(one) | {"part_lost": one.part_lost} for one in all_dealings()
        ],
        "copied": copied(),
    }
    write_result(NAME, figures)
    stem = RESULTS / f"{machine_name()}-{NAME}"
    stem.with_suffix(".md").write_text(as_markdown(figures))
    stem.with_suffix(".svg").write_text(as_svg(figures))


def _play_all(processes: int) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(processes) as pool:
        for number, (axis, place, world, seeds) in enumerate(worlds()):
            began = time.monotonic()
            runs = list(pool.map(_play_one, [number] * seeds, range(1, seeds + 1)))
            print(f"{axis}, {place}: {time.monotonic() - began:.0f} s", flush=True)
            yield summarise(axis, place, world, runs)


def _play_one(number: int, seed: int) -> dict[str, Any]:
    """Play one world of the list, in a process of its own."""
    return distil(play(list(worlds())[number][2], seed))


def distil(outcome: Outcome) -> dict[str, Any]:
    """Return the figures of one run."""
    return {
        "strategies": {one.name: _row(outcome, one) for one in outcome.world.strategies},
        "replayed_part": replayed_part(outcome),
        "calls": Counter(outcome.calls),
        "auditors": Counter(outcome.auditors),
        "awards": outcome.ledger.num_awards,
        "divided": outcome.ledger.num_divided,
        "accusations": outcome.accusations,
        "accusers_spent": outcome.accusers_spent,
        "given_up": outcome.given_up,
        "cpu_s": round(outcome.cpu_s),
        "wall_s": round(outcome.wall_s),
    }


def _row(outcome: Outcome, strategy: Strategy) -> dict[str, Any]:
    of_its = [node for node in outcome.people.nodes if node.strategy.name == strategy.name]
    return {
        "beside_honest": {
            group: beside_honest(outcome, strategy, who) for group, who in GROUPS.items()
        },
        "per_answer": per_answer(outcome, strategy),
        "per_day": per_day(outcome, strategy, GROUPS["all"]),
        "answers": sold(outcome, strategy, GROUPS["all"]).answers,
        "replays": outcome.replays[strategy.name],
        "convictions": outcome.convictions[strategy.name],
        "names": sum(node.names for node in of_its),
    }


def summarise(axis: str, place: str, world: World, runs: Sequence[Any]) -> dict[str, Any]:
    """Return the figures of one world over its seeds: means, and sums of what was counted."""
    rows = {}
    for name in runs[0]["strategies"]:
        each = [one["strategies"][name] for one in runs]
        rows[name] = {
            "beside_honest": {
                group: dataclasses.asdict(interval([one["beside_honest"][group] for one in each]))
                for group in GROUPS
            },
            **{what: interval([one[what] for one in each]).mean for what in MEANS},
            **{what: sum(one[what] for one in each) for what in SUMS},
        }
    return {
        "axis": axis,
        "place": place,
        "seeds": len(runs),
        "world": {field: getattr(world, field) for field in SHOWN},
        "strategies": rows,
        "replayed_part": interval([one["replayed_part"] for one in runs]).mean,
        "calls": sum((one["calls"] for one in runs), start=Counter()),
        "auditors": sum((one["auditors"] for one in runs), start=Counter()),
        **{what: sum(one[what] for one in runs) for what in COUNTED},
        "wall_s": [one["wall_s"] for one in runs],
    }


def _inputs() -> dict[str, Any]:
    """Return what the simulation took from other benchmarks."""
    return {
        "looks": [
            {
                "file": one.file,
                "who": one.who,
                "rate": one.rate,
                "score": one.score,
                "half_after": one.half_after,
                "by_the_mean_score": one.convicts_after(),
            }
            for one in LOOKS
        ],
        "works": {name: dataclasses.asdict(one) for name, one in works().items()},
        "replay_part": replay_part(),
        "money_part": money_part(),
    }


def _kept() -> dict[str, Any]:
    path = RESULTS / f"{machine_name()}-{NAME}.json"
    return json.loads(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    main()
