"""Makes an influence run of a training's run: its rows and their order where all of them fit into
the time, else the same part of everybody's text.

    RUN/…  →  RUN/influence/…      as folder.py says, with made.json (factory/measured.py)

The adapter that is trained again and again is a smaller one, on the base's last layers alone. Of
more than MAX_UNITS people, groups are left out together. Decides the size; trains nothing. Where
no background lies there yet, it draws the base's own words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from transformers import AutoConfig

from proofs.attribution.background import write_background
from proofs.attribution.tokens import Contribution, write_tokens

from ..errors import BadRun
from ..keeping import keep, keep_array
from ..measured import MADE_FILE, Made, units_of
from ..training.folder import Run
from ..training.journal import read_steps
from .folder import NO_ROW, Ints, Prompt
from .recipe import FILE
from .sampling import samples

MAX_UNITS = 16
UPPER_LAYERS = 8
LEARNING_RATE = 0.002
EPOCHS = 5
BATCH_TOKENS = 1536
SECOND_SEED = 1
PROMPT_TOKENS = 16
"""At most, and half a row: an answer has something to go on with."""
BACKGROUND_SAMPLES = 104
UNKNOWN_TOKENS_A_SECOND = 200.0
MAX_NAME_CHARS = 60


@dataclass(frozen=True)
class Chosen:
    """What is learnt: places of the run's rows, ascending, and the rows of each step as places in
    these.
    """

    places: npt.NDArray[np.int64]
    order: Ints


def make(run: Run, folder: Path, minutes: float, num_samples: int = BACKGROUND_SAMPLES) -> None:
    """Write the folder; `run.toml` comes last, and then it is made. Raises BadRun."""
    if (folder / FILE).exists():
        return
    folder.mkdir(exist_ok=True)
    sizes = np.bincount(run.rows.people, _lengths(run), minlength=len(run.about.people))
    units = units_of([int(size) for size in sizes], MAX_UNITS)
    if len(units) < 2:
        raise BadRun(
            "one person's text alone was learnt: all of the contributors' part is his, and there is"
            " nothing to measure"
        )
    trainings = 2 + len(units) + run.recipe.influence.halves + 1 + SECOND_SEED
    chosen = choose(run, units, _most_tokens(run, minutes, trainings))
    owners = _owners(run, units)[chosen.places]
    keep_array(folder / "rows.npy", np.asarray(run.rows.ids[chosen.places], np.int32))
    keep_array(folder / "starts.npy", np.asarray(run.rows.starts[chosen.places], np.int32))
    keep_array(folder / "owners.npy", owners)
    keep_array(folder / "order.npy", chosen.order)
    prompts = prompts_of(run, units, chosen.places)
    keep(folder / "prompts.json", msgspec.json.encode(prompts))
    given = list(_given(run, units, chosen.places))
    tokenizer = bytes.fromhex(run.recipe.tokenizer)
    keep(folder / "attribution.tokens", write_tokens(tokenizer, len(units), given))
    base = Path(run.about.base)
    shape = shape_of(base)
    background = folder / "background.tokens"
    if not background.exists():
        path = folder / "samples.json"
        drawn = samples(path, base, shape.vocabulary, count=num_samples, first=run.about.end)
        keep(background, write_background(tokenizer, drawn))
    learnt = _lengths(run)[chosen.places]
    given_tokens = np.bincount(
        run.rows.people[chosen.places], learnt, minlength=len(run.about.people)
    )
    made = Made(
        units,
        tuple(int(size) for size in given_tokens),
        trainings,
        tokens=int(learnt.sum()),
        of_tokens=int(sizes.sum()),
    )
    keep(folder / MADE_FILE, msgspec.json.encode(made))
    keep(folder / FILE, _recipe(run, units, min(UPPER_LAYERS, shape.layers)).encode())


@dataclass(frozen=True)
class Shape:
    """What of a base's form matters here."""

    layers: int
    vocabulary: int


def shape_of(base: Path) -> Shape:
    """Read a base's form, of a folder or a GGUF file. Raises BadRun."""
    folder = base.parent if base.is_file() else base
    options = {"gguf_file": base.name} if base.is_file() else {}
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise BadRun(f"base: {base} cannot be read: {error}") from error
    text = config.get_text_config()
    return Shape(int(text.num_hidden_layers), int(text.vocab_size))


def choose(run: Run, units: Sequence[Sequence[int]], most_tokens: int) -> Chosen:
    """Choose what is learnt in each training: all of the run, in its order, where that is no more
    than so many tokens; else as many rows of each unit, spread over its text, EPOCHS times.
    """
    lengths = _lengths(run)
    steps = run.order[run.order != NO_ROW]
    if int(lengths[steps].sum()) <= most_tokens:
        return Chosen(np.arange(len(run.rows)), np.asarray(run.order, np.int32))
    window = run.recipe.rows.window
    each = max(1, most_tokens // (EPOCHS * len(units) * window))
    owners = _owners(run, units)
    chosen: list[int] = []
    for unit in range(len(units)):
        own = np.flatnonzero((owners == unit) & ~run.rows.is_chat)
        own = own if len(own) else np.flatnonzero(owners == unit)
        at = np.linspace(0, len(own) - 1, min(each, len(own))).round().astype(np.int64)
        chosen += own[at].tolist()
    places = np.array(sorted(chosen), np.int64)
    draw = np.random.Generator(np.random.PCG64(run.recipe.train.seed))
    flat = np.concatenate([draw.permutation(len(places)) for _ in range(EPOCHS)])
    batch = max(1, BATCH_TOKENS // window)
    padded = np.full(-(-len(flat) // batch) * batch, NO_ROW, np.int32)
    padded[: len(flat)] = flat
    return Chosen(places, padded.reshape(-1, batch))


def prompts_of(
    run: Run, units: Sequence[Sequence[int]], places: npt.NDArray[np.int64]
) -> list[Prompt]:
    """Return beginnings for answers, as many of each unit: in turn of what is learnt and of what is
    not (held out, or left out for the time). Raises BadRun where there is too little text.
    """
    owners = _owners(run, units)
    learnt = np.zeros(len(run.rows), np.bool_)
    learnt[places] = True
    found: list[Prompt] = []
    for unit, people in enumerate(units):
        seen = _beginnings(run.rows.ids, (owners == unit) & learnt & ~run.rows.is_chat)
        held = _beginnings(run.held_out.ids, np.isin(run.held_out.people, list(people)))
        left = _beginnings(run.rows.ids, (owners == unit) & ~learnt & ~run.rows.is_chat)
        unseen = [*held, *left]
        wanted = -(-run.recipe.influence.answers // len(units))
        both = [each for pair in zip(seen, unseen, strict=False) for each in pair]
        rest = [*seen[len(unseen) :], *unseen[len(seen) :]]
        found += [Prompt(tuple(ids), unit) for ids in [*both, *rest][:wanted]]
    if not found:
        raise BadRun(
            "no row is long enough for a beginning and what follows it; collect longer texts, and"
            " train a new run"
        )
    return found


def _beginnings(ids: Ints, are: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Return the beginnings of these rows, then what follows each, and so on."""
    size = min(PROMPT_TOKENS, ids.shape[1] // 2)
    rows = [row[row >= 0].tolist() for row in ids[are]]
    longest = max(map(len, rows), default=0)
    return [
        row[first : first + size]
        for first in range(0, longest, size)
        for row in rows
        if len(row) >= first + size + size // 2
    ]


def _given(
    run: Run, units: Sequence[Sequence[int]], places: npt.NDArray[np.int64]
) -> Iterator[Contribution]:
    """Yield what was learnt of each contribution, in the order in which they were registered; rows
    that follow one another are one document.
    """
    owners = _owners(run, units)
    rows = run.rows
    text = [place for place in places.tolist() if not rows.is_chat[place]]
    silent = set(range(len(units))) - {int(owners[place]) for place in text}
    text += [place for place in places.tolist() if int(owners[place]) in silent]
    for contribution in range(len(run.about.contributions)):
        own = sorted(place for place in text if rows.contributions[place] == contribution)
        documents: list[list[int]] = []
        for before, place in zip([-2, *own], own, strict=False):
            ids = rows.ids[place]
            learnt = ids[int(rows.starts[place]) :]
            learnt = learnt[learnt >= 0].tolist()
            if place == before + 1:
                documents[-1] += learnt
            else:
                documents.append(learnt)
        if documents:
            yield Contribution(int(owners[own[0]]), documents)


def _owners(run: Run, units: Sequence[Sequence[int]]) -> Ints:
    """Return the unit of each row: int32 [rows]."""
    of_person = np.zeros(len(run.about.people), np.int32)
    for unit, people in enumerate(units):
        of_person[list(people)] = unit
    return np.asarray(of_person[run.rows.people], np.int32)


def _lengths(run: Run) -> npt.NDArray[np.int64]:
    return np.asarray((run.rows.ids >= 0).sum(axis=1), np.int64)


def _most_tokens(run: Run, minutes: float, trainings: int) -> int:
    """Return how many tokens a training may learn, so that all fit into the time at the run's own
    speed; the smaller adapter is faster.
    """
    steps = read_steps(run.folder)
    seconds = sum(step.seconds for step in steps)
    speed = sum(step.tokens for step in steps) / seconds if seconds else UNKNOWN_TOKENS_A_SECOND
    return int(60 * minutes * speed / trainings)


def _recipe(run: Run, units: Sequence[Sequence[int]], layers: int) -> str:
    rank = int(run.recipe.adapter.rank)
    values: dict[str, object] = {
        "base": run.about.base,
        "contributors": list(names_of(run, units)),
        "rank": rank,
        "alpha": 2 * rank,
        "upper_layers": layers,
        "learning_rate": LEARNING_RATE,
        "seed": run.recipe.train.seed,
        "halves": run.recipe.influence.halves,
        "second_seed": SECOND_SEED,
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def names_of(run: Run, units: Sequence[Sequence[int]]) -> Iterator[str]:
    """Yield what each unit is called, each name once."""
    said: set[str] = set()
    for number, people in enumerate(units, 1):
        first = run.about.people[people[0]]
        name = "".join(c for c in first.name if c.isprintable())[:MAX_NAME_CHARS].strip()
        name = name or first.person[:MAX_NAME_CHARS]
        if len(people) > 1:
            name = f"group {number} ({name} and {len(people) - 1} more)"
        if name in said or not name.isprintable() or not name:
            name = f"{name or 'somebody'} ({number})"
        said.add(name)
        yield name
