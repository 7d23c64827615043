"""How surely a replay tells cheats from honest answers: python -m benchmarks.engine.verdicts

Over the repository's base with its `law` adapter, whose published limits judge: answers of 64
tokens to prompts out of `law`'s own text at temperatures 0, 0.7 and 1, none of which calibration
saw. Honest ones are made in float32 and bfloat16 and replayed in both; each attacker's are made in
bfloat16 and replayed in float32. Intervals are Clopper and Pearson's, of 95 %. "After 32": of runs
of 32 answers, how many make the evidence of one node convict it, and after how many answers half
of the runs do.

Expected before the first run: no false alarm among 1,000 honest answers (so at most 0.37 %); junk,
no adapter, another one and own dice found in every answer, which of 384 bounds a miss to 0.96 %; a
base rounded further, and the adapter at 9/10 of its weight, in half of the answers; an imitator of
7 ranks out of 8 in a tenth of the answers, of 4 in most; after 32 answers all but the last imitator
convicted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file

from benchmarks import write_result
from engine.calibrate import (
    ADAPTER,
    OTHER,
    TEMPERATURES,
    Answer,
    Plan,
    Player,
    open_player,
    rounded,
    run,
)
from engine.config import EngineConfig
from engine.messages import Choosing, Sampling
from engine.model.weights import open_weights
from engine.verdict import MILLION, Thresholds, judge
from node.config import bundled_weights
from node.verifying.limits import Limits, choose_limits
from proofs.attestation.sequential import Evidence
from proofs.attribution.tokens import read_tokens
from tests.node.tiny import make_adapter, make_base

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 64
PROMPT_TOKENS = 32
TOGETHER = 64  # answers at once
RUN = 32
RESAMPLED = 1_000
CONFIDENCE = 0.95
JUNK = 70
TINY_IDS = 259
NATIVE = (("float32", "native"), ("bfloat16", "native"))


@dataclass(frozen=True)
class Row:
    """The replays of one kind of answer: how many exceeded their limit, and of the runs of 32 how
    many convicted; `half_after` is None where fewer than half of the runs convict at all.
    """

    who: str
    made: str
    replayed: str
    answers: int
    suspicious: int
    interval: tuple[float, float]
    mean_score: float
    convicted_after_32: float
    half_after: int | None


@dataclass(frozen=True)
class World:
    """A base, an adapter and another one, token ids to cut prompts out of, and the adapter's
    limits.
    """

    base: Path
    adapter: Path
    other: Path
    text: Sequence[int]
    limits: Limits
    name: str


def main() -> None:
    """Measure, print, keep: after every kind of answer, so that a run which is cut off keeps what
    it has.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--tiny", action="store_true", help="over a random base of two layers")
    parser.add_argument("--honest", type=int, default=1_000)
    parser.add_argument("--dishonest", type=int, default=384)
    parser.add_argument("--subtle", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        world = tiny(Path(folder), asked.threads) if asked.tiny else repository()
        bench = Bench(world, Path(folder), asked.threads)
        honest = bench.honest(asked.honest)
        for row in chain(honest, bench.dishonest(asked.dishonest, asked.subtle)):
            rows.append(row)
            used = resource.getrusage(resource.RUSAGE_SELF)
            write_result(
                "engine-verdicts-tiny" if asked.tiny else "engine-verdicts",
                {
                    "world": world.name,
                    "limits": msgspec.to_builtins(world.limits.thresholds),
                    "tokens": TOKENS,
                    "cpu_s": round(used.ru_utime + used.ru_stime),
                    "rows": [msgspec.to_builtins(one) for one in rows],
                },
            )
    print(table(rows))


def repository() -> World:
    """Return the repository's base and adapters, with the limits that were published."""
    law = ROOT / "adapters" / "law"
    published = msgspec.json.decode((law / "verification.json").read_bytes(), type=Thresholds)
    texts = read_tokens((law / "attribution.tokens").read_bytes())
    text = [int(token) for number in range(texts.num_documents) for token in texts.document(number)]
    return World(
        bundled_weights(),
        law,
        ROOT / "adapters" / "verse",
        text,
        choose_limits(published),
        name="SmolLM2-135M-Instruct Q4_1, law",
    )


def tiny(folder: Path, threads: int) -> World:
    """Make a random base of two layers with random adapters, and calibrate their limits."""
    base = make_base(folder / "base")
    law = make_adapter(folder / "law", "law", 5, rank=8)
    other = make_adapter(folder / "verse", "verse", 6, rank=8)
    plan = Plan(
        EngineConfig(base, threads=threads),
        law,
        other,
        NATIVE,
        answers=96,
        tokens=TOKENS,
        one_in=10_000,
    )
    limits = choose_limits(run(plan, print).thresholds)
    dice = random.Random("text")
    text = [dice.randrange(3, TINY_IDS) for _ in range(20_000)]
    return World(
        base, law, other, text, limits, name="a random base of two layers, random adapters"
    )


class Bench:
    """The experiment, in one world."""

    def __init__(self, world: World, folder: Path, threads: int) -> None:
        self._folder = folder
        self._world = world
        self.limits = world.limits
        self._law = world.adapter
        self._text = world.text
        config = EngineConfig(world.base, threads=threads, max_running=TOGETHER)
        self._plan = Plan(config, self._law, None, NATIVE, answers=0, tokens=TOKENS, one_in=10_000)
        self._weights = open_weights(config.base_path)

    def honest(self, count: int) -> Iterator[Row]:
        """Yield the rows of answers of both formats, replayed in both."""
        made = {}
        for kind in NATIVE:
            with open_player(self._weights, self._plan, kind) as player:
                made[kind] = self._answer(player, ADAPTER, f"honest {kind[0]}", count // 2)
        for by in NATIVE:
            with open_player(self._weights, self._plan, by) as player:
                for kind, answers in made.items():
                    yield self._row("honest", kind[0], by[0], replay(player, answers))

    def dishonest(self, count: int, subtle: int) -> Iterator[Row]:
        """Yield each attacker's row, made in bfloat16, replayed in float32: `count` answers of
        those that compute something else, `subtle` of those that nearly do what they are paid for.
        """
        with open_player(self._weights, self._plan, NATIVE[0]) as replayer:
            for who, answers in self._false(count, subtle):
                yield self._row(who, "bfloat16", "float32", replay(replayer, answers))

    def _false(self, count: int, subtle: int) -> Iterator[tuple[str, list[Answer]]]:
        junk = [JUNK] * TOKENS
        yield (
            "junk: one token",
            [Answer(prompt, junk, dice) for prompt, dice in self._questions("junk", count)],
        )
        with self._player(self._law, other=self._world.other) as player:
            yield "no adapter (and prefill spoof)", self._answer(player, None, "bare", count)
            yield "another adapter", self._answer(player, OTHER, "other", count)
            yield "own dice", self._reroll(player, count)
        for name, folder in {
            "the adapter at 9/10 of its weight": self._smaller(0.9),
            "imitator: 4 of 8 ranks": self._fewer_ranks(4),
            "imitator: 7 of 8 ranks": self._fewer_ranks(7),
        }.items():
            with self._player(folder) as player:
                yield name, self._answer(player, ADAPTER, name, subtle)
        with open_player(rounded(self._weights), self._plan, NATIVE[1]) as player:
            bits = 3 if self._weights.in_4_bits else 4
            yield f"a base of {bits} bits", self._answer(player, ADAPTER, "bits", subtle)

    def _player(self, adapter: Path, other: Path | None = None) -> AbstractContextManager[Player]:
        return open_player(
            self._weights, replace(self._plan, adapter=adapter, other=other), NATIVE[1]
        )

    def _questions(
        self, what: str, count: int, temperatures: Sequence[float] = TEMPERATURES
    ) -> list[tuple[list[int], Sampling]]:
        dice = random.Random(what)
        asked = []
        for number in range(count):
            start = dice.randrange(len(self._text) - PROMPT_TOKENS)
            choosing = Choosing(temperatures[number % len(temperatures)])
            sampling = Sampling(dice.randbytes(32), choosing)
            asked.append((self._text[start : start + PROMPT_TOKENS], sampling))
        return asked

    def _answer(
        self,
        player: Player,
        adapter: bytes | None,
        what: str,
        count: int,
        temperatures: Sequence[float] = TEMPERATURES,
    ) -> list[Answer]:
        asked = self._questions(what, count, temperatures)
        made = list[list[int]]()
        for start in range(0, count, TOGETHER):
            made += player.go_on(asked[start : start + TOGETHER], adapter, TOKENS)
            print(f"{what}: {len(made)} of {count}", flush=True)
        return [
            Answer(prompt, tokens, sampling)
            for (prompt, sampling), tokens in zip(asked, made, strict=True)
        ]

    def _reroll(self, player: Player, count: int) -> list[Answer]:
        """Answers by other dice than were agreed on; at temperature 0 there are none to throw."""
        thrown = self._answer(player, ADAPTER, "own dice", count, TEMPERATURES[1:])
        return [
            replace(each, sampling=msgspec.structs.replace(each.sampling, seed=bytes(32)))
            for each in thrown
        ]

    def _row(self, who: str, made: str, replayed: str, margins: list[list[float]]) -> Row:
        thresholds = self.limits.thresholds
        verdicts = [judge(each, thresholds) for each in margins]
        suspicious = [verdict.outcome == "suspicious" for verdict in verdicts]
        convictions = convict(
            [verdict.score for verdict in verdicts], suspicious, self.limits, random.Random(who)
        )
        soon = sum(after is not None for after in convictions) / RESAMPLED
        known = sorted(after if after is not None else RUN + 1 for after in convictions)
        half = known[RESAMPLED // 2]
        row = Row(
            who,
            made,
            replayed,
            answers=len(verdicts),
            suspicious=sum(suspicious),
            interval=clopper_pearson(sum(suspicious), len(verdicts)),
            mean_score=statistics.fmean(verdict.score for verdict in verdicts),
            convicted_after_32=soon,
            half_after=half if half <= RUN else None,
        )
        print(json.dumps(msgspec.to_builtins(row)), flush=True)
        return row

    def _smaller(self, factor: float) -> Path:
        """Write the adapter with its B matrices made smaller."""
        return self._rewrite(
            f"smaller-{factor}",
            lambda a, b: (a, b * factor),
            rank=None,
        )

    def _fewer_ranks(self, rank: int) -> Path:
        """Write the nearest adapter of that rank: each product B·A cut off after its largest
        singular values.
        """

        def cut(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            q, r = torch.linalg.qr(b.float())
            u, s, v = torch.linalg.svd(r @ a.float(), full_matrices=False)
            root = s[:rank].sqrt()
            return root[:, None] * v[:rank], q @ u[:, :rank] * root

        return self._rewrite(f"ranks-{rank}", cut, rank=rank)

    def _rewrite(
        self,
        name: str,
        change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        rank: int | None,
    ) -> Path:
        folder = self._folder / name
        folder.mkdir()
        tensors = load_file(self._law / "adapter_model.safetensors")
        config = json.loads((self._law / "adapter_config.json").read_text())
        for key in [key for key in tensors if "lora_A" in key]:
            partner = key.replace("lora_A", "lora_B")
            a, b = change(tensors[key], tensors[partner])
            tensors[key] = a.contiguous()
            tensors[partner] = b.contiguous()
        if rank is not None:
            config["lora_alpha"] = config["lora_alpha"] * rank / config["r"]
            config["r"] = rank
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder


def replay(player: Player, answers: Sequence[Answer]) -> list[list[float]]:
    """Return the margins of many answers; an engine takes so many at a time."""
    margins = list[list[float]]()
    for start in range(0, len(answers), TOGETHER):
        margins += player.replay(answers[start : start + TOGETHER])
    return margins


def convict(
    scores: Sequence[float], suspicious: Sequence[bool], limits: Limits, dice: random.Random
) -> list[int | None]:
    """After how many answers a node is convicted, in runs of 32 drawn from these; None: not."""
    cap = limits.thresholds.cap / MILLION
    found: list[int | None] = []
    for _ in range(RESAMPLED):
        evidence = Evidence()
        after = None
        for number, at in enumerate(dice.sample(range(len(scores)), RUN), 1):
            evidence = evidence.after(scores[at], cap, limits.mean, is_suspicious=suspicious[at])
            if evidence.convicts():
                after = number
                break
        found.append(after)
    return found


def clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    """Return the exact interval of a share, of which `hits` of `count` were seen."""
    tail = (1 - CONFIDENCE) / 2

    def at_least(share: float) -> float:
        return 1.0 - _below(hits, count, share)

    def at_most(share: float) -> float:
        return _below(hits + 1, count, share)

    low = 0.0 if hits == 0 else _bisect(lambda share: at_least(share) < tail)
    high = 1.0 if hits == count else _bisect(lambda share: at_most(share) > tail)
    return low, high


def _below(hits: int, count: int, share: float) -> float:
    """Return how likely fewer than `hits` of `count` are."""
    if share in (0.0, 1.0):
        return float(share == 0.0)
    logs = (math.log(share), math.log1p(-share))
    return math.fsum(
        math.exp(
            math.lgamma(count + 1)
            - math.lgamma(k + 1)
            - math.lgamma(count - k + 1)
            + k * logs[0]
            + (count - k) * logs[1]
        )
        for k in range(hits)
    )


def _bisect(is_below: Callable[[float], bool]) -> float:
    low = 0.0
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if is_below(middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def table(rows: Sequence[Row]) -> str:
    """The result in Markdown."""
    lines = [
        "| answers | made in, replayed in | found, of | 95 % interval | after 32 | half after |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (f"{100 * share:.2f}" for share in row.interval)
        half = "-" if row.half_after is None else str(row.half_after)
        lines.append(
            f"| {row.who} | {row.made}, {row.replayed} | {row.suspicious} of {row.answers}"
            f" | {low} to {high} % | {100 * row.convicted_after_32:.1f} % | {half} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
