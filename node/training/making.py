"""Makes a run of a recipe: texts of datanets' versions become rows of tokens in a run's folder.

Everything here blocks. Knows texts and the factory; asks no peer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from engine.base_files import count_parameters
from engine.errors import ModelError
from factory.errors import FactoryError
from factory.training.folder import About, PersonAbout, write_run
from factory.training.plan import Amount, Steps, resolve, steps_of
from factory.training.recipe import Recipe
from factory.training.rows import Document, Made, make_rows, order_of

from ..bases.loading import Base
from ..errors import BadRequest
from .encoding import BaseEncoder
from .texts import Line, Source

LEAST_ROWS = 8


@dataclass(frozen=True)
class Ready:
    """A recipe with nothing left open, and all that its run's folder takes; `dropped` documents may
    not be learnt from any more.
    """

    recipe: Recipe
    asked: Recipe
    about: About
    made: Made
    steps: Steps
    amount: Amount
    dropped: int


def make_ready(recipe: Recipe, sources: Sequence[Source], base: Base, threads: int) -> Ready:
    """Turn texts into rows. Raises BadRequest, and FactoryError of the recipe."""
    if base.weights is None:
        raise BadRequest("the base's weights are not here; this daemon can train nothing")
    check_base(recipe, base)
    check_versions(recipe, sources)
    lines = [line for source in sources for line in source.lines]
    people = {line.person: PersonAbout(line.person, line.name, line.pay_to) for line in lines}
    given = dict.fromkeys(line.contribution for line in lines)
    documents = documents_of(lines)
    encoder = BaseEncoder(base.tokenizer)
    made = rows_of(recipe, documents, encoder)
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
    datanets = tuple(
        replace(wanted, digest=source.about.digest)
        for wanted, source in zip(recipe.datanets, sources, strict=True)
    )
    resolved = replace(
        resolve(recipe, amount),
        datanets=datanets,
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
        licence=shared(line.licence for line in lines),
        source=shared(line.source for line in lines),
    )
    steps = steps_of(resolved, amount, epochs=int(resolved.train.epochs))
    return Ready(
        resolved,
        recipe,
        about,
        made,
        steps=steps,
        amount=amount,
        dropped=sum(source.dropped for source in sources),
    )


def check_base(recipe: Recipe, base: Base) -> None:
    """Raise BadRequest where a recipe is for another base, or was made with another tokenizer or
    template than this base is served with.
    """
    identity = base.identity
    if recipe.base != identity.base.hex():
        raise BadRequest(
            f"the recipe is for the base {recipe.base[:16]}…, and this daemon has"
            f" {identity.base.hex()[:16]}… ({base.name}); start one with that base, or change"
            " base in the recipe"
        )
    for what, said, served in (
        ("tokenizer", recipe.tokenizer, identity.tokenizer_hash),
        ("template", recipe.template, identity.template_hash),
    ):
        if said and said != served.hex():
            raise BadRequest(
                f"the recipe was made with the {what} {said[:16]}…, and {base.name} is served with"
                f" {served.hex()[:16]}… here; put the base's files back as they were, or leave"
                f" {what} out of a new recipe and train again"
            )


def check_versions(recipe: Recipe, sources: Sequence[Source]) -> None:
    """Raise BadRequest where a recipe names a version by another digest than it has."""
    for wanted, source in zip(recipe.datanets, sources, strict=True):
        if wanted.digest not in ("", source.about.digest):
            raise BadRequest(
                f"version {wanted.version} of the datanet {source.about.name} has the digest"
                f" {source.about.digest[:16]}…, not {wanted.digest[:16]}… as in the recipe; name"
                " the datanet that was meant"
            )


def documents_of(lines: Sequence[Line]) -> list[Document]:
    """Return documents as rows are made of them: people and contributions by their places."""
    people = {person: n for n, person in enumerate(dict.fromkeys(one.person for one in lines))}
    given = {digest: n for n, digest in enumerate(dict.fromkeys(x.contribution for x in lines))}
    return [
        Document(
            line.text, line.title, people[line.person], given[line.contribution], line.held_out
        )
        for line in lines
    ]


def rows_of(recipe: Recipe, documents: Sequence[Document], encoder: BaseEncoder) -> Made:
    """Make a recipe's rows."""
    return make_rows(documents, encoder, window=recipe.rows.window, with_chat=recipe.rows.chat > 0)


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


def shared(values: Iterable[str], most: int = 4096) -> str:
    """Return what all say, in a line of at most so many characters; several are listed."""
    line = ", ".join(sorted({value for value in values if value}))
    return line if len(line) <= most else line[: most - 1] + "…"
