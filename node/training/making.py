"""Makes a run of a recipe: texts of datanets' versions, as they were exported, become rows of
tokens in a run's folder.

Everything here blocks. Knows the export's files and the factory; asks no peer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from engine.base_files import count_parameters
from engine.errors import ModelError
from factory.errors import FactoryError
from factory.training.folder import About, PersonAbout, write_run
from factory.training.plan import Amount, Steps, resolve, steps_of
from factory.training.recipe import Recipe
from factory.training.rows import Document, Made, make_rows, order_of

from ..bases.loading import Base
from ..datanets.exporting import DATANET, DOCUMENTS
from ..errors import BadRequest
from .encoding import BaseEncoder

LEAST_ROWS = 8


class Line(msgspec.Struct, frozen=True):
    """A line of an export: a document, and whose it is."""

    text: str
    title: str
    person: str
    name: str
    pay_to: str
    contribution: str
    held_out: bool
    licence: str
    source: str


class Exported(msgspec.Struct, frozen=True):
    """What an export says of the whole."""

    datanet: str
    version: int
    digest: str
    documents_sha256: str


@dataclass(frozen=True)
class Ready:
    """A recipe with nothing left open, and all that its run's folder takes."""

    recipe: Recipe
    asked: Recipe
    about: About
    made: Made
    steps: Steps
    amount: Amount


def make_ready(recipe: Recipe, exports: Sequence[Path], base: Base, threads: int) -> Ready:
    """Turn exported versions into rows. Raises BadRequest, and FactoryError of the recipe."""
    if base.weights is None:
        raise BadRequest("the base's weights are not here; this daemon can train nothing")
    if recipe.base != base.identity.base.hex():
        raise BadRequest(
            f"the recipe is for the base {recipe.base[:16]}…, and this daemon has"
            f" {base.identity.base.hex()[:16]}… ({base.name}); start one with that base, or change"
            " base in the recipe"
        )
    read = [_read(folder) for folder in exports]
    lines = [line for _, found in read for line in found]
    people = {line.person: PersonAbout(line.person, line.name, line.pay_to) for line in lines}
    places = {person: place for place, person in enumerate(people)}
    given = {digest: n for n, digest in enumerate(dict.fromkeys(x.contribution for x in lines))}
    documents = [
        Document(
            line.text, line.title, places[line.person], given[line.contribution], line.held_out
        )
        for line in lines
    ]
    encoder = BaseEncoder(base.tokenizer)
    made = make_rows(documents, encoder, window=recipe.rows.window, with_chat=recipe.rows.chat > 0)
    if len(made.learnt) < LEAST_ROWS:
        raise BadRequest(
            f"these texts make {len(made.learnt)} rows of {recipe.rows.window} tokens; at least"
            f" {LEAST_ROWS} can be learnt: collect more, or make rows.window smaller"
        )
    try:
        parameters = count_parameters(base.weights)
    except ModelError as error:
        raise BadRequest(str(error)) from error
    chats = int(made.learnt.is_chat.sum())
    amount = Amount(made.learnt.num_tokens, len(made.learnt) - chats, chats, parameters)
    sources = tuple(
        replace(source, digest=about.digest)
        for source, (about, _) in zip(recipe.datanets, read, strict=True)
    )
    resolved = replace(
        resolve(recipe, amount),
        datanets=sources,
        tokenizer=base.identity.tokenizer_hash.hex(),
        template=base.identity.template_hash.hex(),
    )
    about = About(
        base=str(base.weights),
        people=tuple(people.values()),
        contributions=tuple(given),
        documents=len(documents),
        held_out=sum(document.is_held_out for document in documents),
        contaminated=made.contaminated,
        tokens=made.learnt.num_tokens,
        made_at=int(time.time()),
        threads=threads,
        end=encoder.end,
        prompts=tuple(
            tuple(encoder.chat(prompt) or encoder.text(prompt))
            for prompt in recipe.evaluate.prompts
        ),
        licence=_shared({line.licence for line in lines}),
        source=_shared({line.source for line in lines}),
    )
    steps = steps_of(resolved, amount, epochs=int(resolved.train.epochs))
    return Ready(resolved, recipe, about, made, steps=steps, amount=amount)


def write(ready: Ready, folder: Path) -> None:
    """Write a run's folder, all or nothing. Raises BadRequest."""
    order = order_of(ready.made.learnt, ready.steps, ready.recipe.train.seed)
    try:
        write_run(
            folder,
            ready.recipe,
            ready.about,
            ready.made.learnt,
            held_out=ready.made.held_out,
            order=order,
        )
    except FactoryError as error:
        raise BadRequest(str(error)) from error


def _read(folder: Path) -> tuple[Exported, list[Line]]:
    try:
        about = msgspec.json.decode((folder / DATANET).read_bytes(), type=Exported)
        data = (folder / DOCUMENTS).read_bytes()
        lines = [msgspec.json.decode(line, type=Line) for line in data.splitlines() if line.strip()]
    except (OSError, msgspec.DecodeError) as error:
        raise BadRequest(f"{folder} is no export of a datanet: {error}") from error
    if hashlib.sha256(data).hexdigest() != about.documents_sha256:
        raise BadRequest(f"{folder / DOCUMENTS} is not what {DATANET} says; export it again")
    return about, lines


def _shared(values: set[str]) -> str:
    """Return what all say, in a line; several are listed."""
    return ", ".join(sorted(value for value in values if value))[:4096]
