"""The influence run of one adapter: a smaller adapter over beginnings of each contribution, trained
again without each of them and without each pair.

Decides its size. `python -m factory.influence` trains; what it finds is in its influence.json.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.attribution.folders import BATCH, write_folder
from benchmarks.attribution.texts import HONEST, PROMPT_TOKENS, WINDOW, Asked, Giver, World
from factory.influence.result import Result
from factory.training.recipe import AdapterPart

from .corpus import Corpus
from .datanets import Datanet

TOKENS_EACH = 1_024
EPOCHS = 5
UPPER_LAYERS = 6
ASKED_EACH = 12
HALVES = 6  # of four contributions there are no more
SECOND_SEED = 1
SETTINGS: dict[str, object] = {
    "epochs": EPOCHS,
    "upper_layers": UPPER_LAYERS,
    "learning_rate": 0.002,
    "seed": 20260,
    "halves": HALVES,
    "second_seed": SECOND_SEED,
}
UNFINISHED = 3

Encode = Callable[[str], list[int]]


def measure(
    corpus: Corpus,
    datanet: Datanet,
    folder: Path,
    *,
    base: Path,
    encode: Encode,
    background: list[list[int]],
    minutes: float,
    adapter: AdapterPart,
) -> Result | None:
    """Train what is missing of an adapter's run; None where it is too little to say anything."""
    settings = SETTINGS | {"rank": adapter.rank, "alpha": adapter.alpha}
    world = world_of(corpus, datanet, encode)
    write_folder(folder, world, base, background, separator=encode("\n\n"), settings=settings)
    if not minutes:
        return None
    command = [sys.executable, "-m", "factory.influence", str(folder), "--minutes", str(minutes)]
    status = subprocess.run(command, check=False).returncode
    if status not in (0, UNFINISHED):
        return None
    found = msgspec.json.decode((folder / "influence.json").read_bytes(), type=Result)
    return None if found.lambda_eighths is None else found


def world_of(corpus: Corpus, datanet: Datanet, encode: Encode) -> World:
    """Return each contribution's beginning, and prompts of it and of what comes after."""
    givers = []
    asked: list[Asked] = []
    for place, given in enumerate(datanet.given):
        learnt = [text for _, text in given.learnt]
        documents: list[list[int]] = []
        after = 0
        while sum(map(len, documents)) < TOKENS_EACH:
            documents.append(encode(learnt[after]))
            after += 1
        documents[-1] = documents[-1][: len(documents[-1]) - sum(map(len, documents)) + TOKENS_EACH]
        label = corpus.label(given.contributor, given.title)
        givers.append(Giver(label, HONEST, tuple(documents)))
        unseen = [encode(text) for text in learnt[after : after + ASKED_EACH]]
        asked += beginnings(documents, place, seen=True, count=ASKED_EACH // 2)
        asked += beginnings(unseen, place, seen=False, count=ASKED_EACH // 2)
    return World(corpus.name, tuple(givers), tuple(asked), (), TOKENS_EACH)


def beginnings(documents: list[list[int]], owner: int, *, seen: bool, count: int) -> list[Asked]:
    """Return so many prompts of PROMPT_TOKENS out of documents: from their beginnings, then on."""
    room = PROMPT_TOKENS + 8  # an answer has something to go on with
    found: list[Asked] = []
    first = 0
    while len(found) < count:
        long = [one for one in documents if len(one) >= first + room]
        if not long:
            raise SystemExit(f"too little text for {count} prompts")
        for one in long[: count - len(found)]:
            found.append(Asked(tuple(one[first : first + PROMPT_TOKENS]), owner, seen))
        first += PROMPT_TOKENS
    return found


def said_of_run(result: Result) -> str:
    """Say what was trained, for people."""
    units = len(result.contributors)
    steps = -(-units * TOKENS_EACH // WINDOW * EPOCHS // BATCH)
    return (
        f"a smaller adapter on the last {UPPER_LAYERS} layers, {TOKENS_EACH:,} tokens of each of"
        f" the {units} contributions, {steps} steps of {BATCH} x {WINDOW} tokens; trained again"
        f" without each contribution and without each of {result.num_halves} halves, all else as"
        " before"
    )
