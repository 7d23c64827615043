"""How surely a replay tells cheats from honest answers: python -m benchmarks.engine.verdicts

Over the repository's base with its `law` adapter, whose published limits judge: answers of 64
tokens to prompts out of `law`'s own text at temperatures 0, 0.7 and 1, none of which calibration
saw. Honest and dishonest ones are made in 4 bits and replayed by the same kernels, which is how
this base is served, and made in bfloat16 and replayed in float32. Intervals are Clopper and
Pearson's, of 95 %. "After 32": of runs of 32 answers, how many make the evidence of one node
convict it, and after how many answers half of the runs do.

With --keep FOLDER what was made and replayed is kept there and taken up again: limits that change
judge the same margins anew.

Expected before the first run with limits by pairing: no false alarm among 1,000 honest answers; no
adapter, another one, own dice and junk in 99 % of the answers both ways (182 of 192 before, junk in
125); the subtle ones (an imitator, a base rounded further, the adapter at 9/10) in most answers and
in all runs of 32 by the same kernels, where honest answers agree to the bit; across formats in a
tenth of the answers, and after 32 in most runs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file

from benchmarks import write_result
from engine.build import short_name
from engine.calibrate import (
    ADAPTER,
    OTHER,
    TEMPERATURES,
    Answer,
    Kind,
    Margins,
    Plan,
    Player,
    open_player,
    rounded,
)
from engine.config import EngineConfig
from engine.messages import Choosing, Sampling
from engine.model.weights import Weights, open_weights
from engine.verdict import MILLION, Calibration, judge
from node.config import bundled_weights
from node.verifying.limits import Limits, find_limits
from proofs.attestation.sequential import Evidence
from proofs.attribution.tokens import read_tokens

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 64
PROMPT_TOKENS = 32
TOGETHER = 64  # answers at once
RUN = 32
RESAMPLED = 1_000
CONFIDENCE = 0.95
JUNK = 70
Q4: Kind = ("q4", "amx")
Q4_OTHER: Kind = ("q4", "avx512_bf16")
BFLOAT16: Kind = ("bfloat16", "amx")
BFLOAT16_OTHER: Kind = ("bfloat16", "avx512_bf16")
FLOAT32: Kind = ("float32", "amx")
HONEST = "honest"
GROSS = ("junk", "bare", "other", "dice")
SUBTLE = ("smaller", "ranks-4", "ranks-7", "bits")
TOLD = {
    "junk": "junk: one token",
    "bare": "no adapter (and prefill spoof)",
    "other": "another adapter",
    "dice": "own dice",
    "smaller": "the adapter at 9/10 of its weight",
    "ranks-4": "imitator: 4 of 8 ranks",
    "ranks-7": "imitator: 7 of 8 ranks",
    "bits": "a base of 3 bits",
    "q4-kernels": "4-bit kernels said to be bfloat16",
}


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
    missed: float
    mean_score: float
    convicted_after_32: float
    half_after: int | None


@dataclass(frozen=True)
class Trial:
    """Answers of one kind that one kind of engine makes and others replay."""

    who: str
    made: Kind
    replayed: tuple[Kind, ...]
    count: int


def trials(honest: int, gross: int, subtle: int) -> list[Trial]:
    """List what is made and replayed."""
    return [
        Trial(HONEST, Q4, (Q4, Q4_OTHER), honest),
        Trial(HONEST, BFLOAT16, (BFLOAT16, BFLOAT16_OTHER, FLOAT32), honest),
        Trial(HONEST, FLOAT32, (BFLOAT16,), honest // 2),
        *(Trial(who, Q4, (Q4,), gross) for who in GROSS),
        *(Trial(who, BFLOAT16, (FLOAT32,), gross // 2) for who in GROSS),
        *(Trial(who, Q4, (Q4,), subtle) for who in SUBTLE),
        *(Trial(who, BFLOAT16, (BFLOAT16, FLOAT32), subtle) for who in SUBTLE),
        Trial("q4-kernels", BFLOAT16, (BFLOAT16, FLOAT32), subtle),
    ]


def main() -> None:
    """Measure, print, keep: after every kind of answer, so that a run which is cut off keeps what
    it has.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--honest", type=int, default=504)
    parser.add_argument("--gross", type=int, default=192)
    parser.add_argument("--subtle", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--kept", action="store_true", help="judge what is kept, make nothing")
    asked = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked.keep or Path(folder), Path(folder), asked.threads)
        for trial in trials(asked.honest, asked.gross, asked.subtle):
            for by in trial.replayed:
                if asked.kept and not bench.has(trial, by):
                    continue
                rows.append(bench.row(trial, by))
                used = resource.getrusage(resource.RUSAGE_SELF)
                write_result(
                    "engine-verdicts-by-pairing",
                    {
                        "world": "SmolLM2-135M-Instruct Q4_1, law",
                        "limits": msgspec.to_builtins(bench.published),
                        "tokens": TOKENS,
                        "cpu_s": round(used.ru_utime + used.ru_stime),
                        "rows": [msgspec.to_builtins(one) for one in rows],
                    },
                )
    print(table(rows))


class Bench:
    """The experiment; what is made and replayed lies in `keep`."""

    def __init__(self, keep: Path, folder: Path, threads: int) -> None:
        keep.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._folder = folder
        self._law = ROOT / "adapters" / "law"
        self.published = _read(self._law / "verification.json")
        texts = read_tokens((self._law / "attribution.tokens").read_bytes())
        documents = map(texts.document, range(texts.num_documents))
        self._text = [int(token) for document in documents for token in document]
        config = EngineConfig(bundled_weights(), threads=threads, max_running=TOGETHER)
        self._plan = Plan(config, self._law, None, (), answers=0, tokens=TOKENS, one_in=10_000)
        self._weights = open_weights(config.base_path)

    def has(self, trial: Trial, by: Kind) -> bool:
        """Return whether a trial's margins are kept."""
        return self._margins_file(trial, by).exists()

    def row(self, trial: Trial, by: Kind) -> Row:
        """Judge a trial's answers; make and replay them first where that is not kept."""
        path = self._margins_file(trial, by)
        if not path.exists():
            with self._player(by) as player:
                path.write_bytes(msgspec.msgpack.encode(replay(player, self._made(trial))))
        margins = msgspec.msgpack.decode(path.read_bytes(), type=Margins)[: trial.count]
        limits = find_limits(self.published, _format(trial.made), _format(by))
        assert limits is not None, "what is tried here can be judged"
        return self._row(trial, by, margins, limits)

    def _margins_file(self, trial: Trial, by: Kind) -> Path:
        names = (trial.who, *map("-".join, (reversed(trial.made), reversed(by))))
        return self._keep / f"margins-{'-'.join(names)}.msgpack"

    def _made(self, trial: Trial) -> list[Answer]:
        path = self._keep / f"made-{trial.who}-{'-'.join(reversed(trial.made))}.msgpack"
        if path.exists():
            return msgspec.msgpack.decode(path.read_bytes(), type=list[Answer])
        makers: Mapping[str, Callable[[Trial], list[Answer]]] = {
            "junk": self._make_junk,
            "bits": self._make_of_coarse_base,
            "q4-kernels": lambda trial: self._made(replace(trial, who=HONEST, made=Q4)),
        }
        made = makers.get(trial.who, self._make)(trial)
        path.write_bytes(msgspec.msgpack.encode(made))
        return made

    def _make_junk(self, trial: Trial) -> list[Answer]:
        asked = self._questions("junk", trial.count)
        return [Answer(prompt, [JUNK] * TOKENS, dice) for prompt, dice in asked]

    def _make_of_coarse_base(self, trial: Trial) -> list[Answer]:
        with self._player(trial.made, weights=rounded(self._weights)) as player:
            return self._answer(player, ADAPTER, "bits", trial.count)

    def _make(self, trial: Trial) -> list[Answer]:
        folder = {
            "smaller": lambda: self._smaller(0.9),
            "ranks-4": lambda: self._fewer_ranks(4),
            "ranks-7": lambda: self._fewer_ranks(7),
        }.get(trial.who, lambda: self._law)()
        other = ROOT / "adapters" / "verse" if trial.who == "other" else None
        with self._player(trial.made, folder, other) as player:
            if trial.who == "dice":
                return self._reroll(player, trial.count)
            held = {"bare": None, "other": OTHER}.get(trial.who, ADAPTER)
            name = trial.who if trial.who != HONEST else f"honest {'-'.join(reversed(trial.made))}"
            return self._answer(player, held, name, trial.count)

    def _player(
        self,
        kind: Kind,
        adapter: Path | None = None,
        other: Path | None = None,
        weights: Weights | None = None,
    ) -> AbstractContextManager[Player]:
        plan = replace(self._plan, adapter=adapter or self._law, other=other)
        return open_player(weights or self._weights, plan, kind)

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

    def _row(self, trial: Trial, by: Kind, margins: Margins, limits: Limits) -> Row:
        verdicts = [judge(each, limits.thresholds) for each in margins]
        suspicious = [verdict.outcome == "suspicious" for verdict in verdicts]
        convictions = convict(
            [verdict.score for verdict in verdicts], suspicious, limits, random.Random(trial.who)
        )
        soon = sum(after is not None for after in convictions) / RESAMPLED
        known = sorted(after if after is not None else RUN + 1 for after in convictions)
        half = known[RESAMPLED // 2]
        row = Row(
            TOLD.get(trial.who, trial.who),
            _format(trial.made),
            _format(by),
            answers=len(verdicts),
            suspicious=sum(suspicious),
            interval=clopper_pearson(sum(suspicious), len(verdicts)),
            missed=sum(token > 0 for each in margins for token in each) / sum(map(len, margins)),
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


def _read(path: Path) -> Calibration | None:
    """Read what the adapter's creator measured, None where he did not."""
    return msgspec.json.decode(path.read_bytes(), type=Calibration) if path.exists() else None


def _format(kind: Kind) -> str:
    """Return what a receipt calls it."""
    return f"{short_name(kind[1])}/{kind[0]}"


def replay(player: Player, answers: Sequence[Answer]) -> Margins:
    """Return the margins of many answers; an engine takes so many at a time."""
    margins: Margins = []
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
        "| answers | made in, replayed in | tokens missed | found, of | 95 % | after 32 | half"
        " after |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = (f"{100 * share:.2f}" for share in row.interval)
        half = "-" if row.half_after is None else str(row.half_after)
        lines.append(
            f"| {row.who} | {row.made}, {row.replayed} | {100 * row.missed:.2f} %"
            f" | {row.suspicious} of {row.answers}"
            f" | {low} to {high} % | {100 * row.convicted_after_32:.1f} % | {half} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
