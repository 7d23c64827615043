"""Writes the card of an adapter: what people should know of it, as Markdown with the front matter
of a model hub. Says what was measured, and what not. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from factory.training.judging import Beside, Evaluation
from factory.training.recipe import Recipe

from .dividing import Division
from .learnt import Learnt
from .texts import Source


@dataclass(frozen=True)
class Told:
    """What a creator says of an adapter."""

    name: str
    description: str
    licence: str
    languages: tuple[str, ...]


def write_card(
    told: Told,
    recipe: Recipe,
    sources: Sequence[Source],
    learnt: Learnt,
    division: Division,
    *,
    evaluation: Evaluation,
    base: str,
    threads: int,
) -> str:
    """Write it; the same text for the same adapter."""
    parts = [
        _front(told, base),
        [f"# {told.name}", "", told.description],
        _whose(sources, learnt, division),
        _trained(recipe, base, threads),
        _measured(evaluation),
        _beware(told.name),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _front(told: Told, base: str) -> Iterator[str]:
    yield "---"
    if told.licence:
        yield f"license: {json.dumps(told.licence, ensure_ascii=False)}"
    if told.languages:
        yield f"language: [{', '.join(told.languages)}]"
    yield f"base_model: {json.dumps(base, ensure_ascii=False)}"
    yield "library_name: peft"
    yield "tags: [lora, lorikeet]"
    yield "---"


def _whose(sources: Sequence[Source], learnt: Learnt, division: Division) -> Iterator[str]:
    yield "## Whose words"
    yield ""
    for source in sources:
        about = source.about
        yield (
            f"* version {about.version} of the datanet {cell(about.name)} (`{about.datanet}`, its"
            f" record `{about.digest}`)"
        )
    yield ""
    yield "| who | tokens | of which count | standing weight |"
    yield "|---|---|---|---|"
    for giver, weight in zip(learnt.givers, division.weights, strict=True):
        name = cell(giver.name) or giver.pay_to
        yield f"| {name} | {giver.tokens:,} | {giver.owned:,} | {weight / 100:.2f} % |"
    yield ""
    eighths = division.attribution["lambda_eighths"]
    measured = (
        f"Standing weights and λ were measured on {division.answers} answers, by training again"
        " without each of these people."
        if division.answers
        else "Standing weights are parts of those that count: what each text did to the adapter's"
        " answers was not measured."
    )
    yield (
        f"Tokens count for whoever gave them first. {measured} Of the contributors' part of a fee,"
        f" {eighths}/8 follow what the answer drew on, {8 - eighths}/8 the standing weights."
    )


def _trained(recipe: Recipe, base: str, threads: int) -> Iterator[str]:
    adapter, train = recipe.adapter, recipe.train
    yield "## How it was trained"
    yield ""
    yield (
        f"{adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha}, over {base}"
        f" (`{recipe.base}`): {train.epochs} epochs, steps of {train.batch_tokens} tokens, a rate"
        f" of {train.learning_rate}, seed {train.seed}, {threads} threads. `recipe.toml` has all of"
        " it: the same bytes make the same adapter on the same kind of machine, with as many"
        " threads."
    )


def _measured(found: Evaluation) -> Iterator[str]:
    yield "## What it is worth"
    yield ""
    yield f"{found.verdict[:1].upper()}{found.verdict[1:]}."
    yield ""
    yield "| text | tokens | base loses | adapter loses | gain |"
    yield "|---|---|---|---|---|"
    held_out = [found.held_out] if found.held_out else []
    for one in [*held_out, *found.people, *found.unseen, found.learnt, found.forgetting]:
        yield _row(one)
    yield ""
    yield (
        f"In nats a token. {found.memorised:.0%} of the tokens of its answers stand in runs of 16"
        " and more in what it learnt."
    )


def _row(one: Beside) -> str:
    return (
        f"| {cell(one.of)} | {one.tokens:,} | {one.base:.3f} | {one.adapter:.3f} |"
        f" {one.gain:+.1%} |"
    )


def _beware(name: str) -> Iterator[str]:
    yield "## What to know"
    yield ""
    yield (
        "`attribution.tokens` publishes the texts, as token ids. A text that is withdrawn is paid"
        " no more from the next version on; what the weights remember of it goes when the adapter"
        " is trained again without it. Influence on an answer is measured, not proved."
    )
    yield ""
    yield f"Check all of this: `lorikeet train verify {name}`."


def cell(text: str) -> str:
    """Return a text that breaks no table and no line."""
    return " ".join(text.replace("|", "/").replace("`", "'").split())
