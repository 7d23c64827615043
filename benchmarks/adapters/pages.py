"""What is written into an adapter's folder beside its weights: its recipe and tokens, where they
were given, and what was measured, in lorikeet.toml for machines and in README.md for people.
Decides nothing but words.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.influence.measures import Estimate
from factory.influence.result import Result, given_tokens
from factory.training.folder import Run
from factory.training.judging import Beside, Evaluation
from factory.training.recipe import render
from node.config import bundled_weights
from proofs.attribution.blend import BIT, NONE_BITS, WHOLE_BPS, divide
from proofs.attribution.index import Index
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.tokens import Contribution, Tokens, read_tokens, write_tokens
from proofs.manifest import MAX_CONTRIBUTORS

from .corpus import Corpus
from .datanets import Datanet, counted
from .measuring import said_of_run
from .texts import contributor_address

VERSION = "3"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
TOML_BEGIN = "# --- of its datanet, and what was measured (python -m benchmarks.adapters) ---"
UNMEASURED_EIGHTHS = 4
Decode = Callable[[Sequence[int]], str]
ANYTHING = Estimate(0.0, -1.0, 1.0, 0)
"""Of a figure that was not measured."""


@dataclass(frozen=True)
class Learnt:
    """What an adapter has learnt, by who gave it."""

    tokens: Tokens
    data: bytes
    listing: bytes
    owned: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """An adapter as its run left it, and all that is told of it. `found` None: nobody's part was
    measured. `steps`: after so many the adapter was what is kept.
    """

    corpus: Corpus
    datanet: Datanet
    run: Run
    steps: int
    evaluation: Evaluation
    learnt: Learnt
    background: bytes
    found: Result | None

    @property
    def standing(self) -> tuple[int, ...]:
        """Each contributor's standing weight in basis points: that of his contributions, or his
        part of the tokens that somebody owns where nothing was measured.
        """
        if self.found is None:
            return tuple(divide(WHOLE_BPS, self.learnt.owned))
        weights = [0] * len(self.corpus.domain.contributors)
        for one, person in zip(self.datanet.given, self.found.contributors, strict=True):
            weights[one.contributor] += person.standing_bps
        return tuple(weights)


def learnt_of(
    corpus: Corpus,
    datanet: Datanet,
    stretches: Sequence[Sequence[tuple[int, list[int]]]],
    tokenizer_hash: bytes,
) -> Learnt:
    """Put what was drawn of each contribution under who gave it, in log order."""
    given: list[Contribution] = []
    listed: list[Listed] = []
    for one, drawn in zip(datanet.given, stretches, strict=True):
        if drawn:
            given.append(Contribution(one.contributor, [ids for _, ids in drawn]))
            numbers = [place + 1 for place, _ in drawn]
            listed.append(Listed(one.contributor, 0, one.digest, one.title, numbers))
    people = len(corpus.domain.contributors)
    assert people <= MAX_CONTRIBUTORS
    data = write_tokens(tokenizer_hash, people, given)
    tokens = read_tokens(data)
    return Learnt(tokens, data, write_listing(listed), Index.build(tokens).owned_tokens())


def write_pages(folder: Path, made: Made, decode: Decode) -> None:
    """Write all of it into an adapter's folder."""
    (folder / "recipe.toml").write_text(render(made.run.recipe), encoding="utf-8")
    (folder / "attribution.tokens").write_bytes(made.learnt.data)
    (folder / "background.tokens").write_bytes(made.background)
    (folder / "contributors.msgpack").write_bytes(made.learnt.listing)
    toml = [*push_lines(made), "", *toml_lines(made.datanet, made.found)]
    (folder / "lorikeet.toml").write_text("\n".join(toml) + "\n", encoding="utf-8")
    page = [*head_lines(made, decode), "", *page_lines(made)]
    (folder / "README.md").write_text("\n".join(page) + "\n", encoding="utf-8")


def push_lines(made: Made) -> Iterator[str]:
    """Say for `lorikeet push` what the adapter is, and who is paid for it."""
    domain = made.corpus.domain
    yield f"name = {json.dumps(domain.name)}"
    yield f"version = {json.dumps(VERSION)}"
    yield f"licence = {json.dumps(domain.licence)}"
    yield f"source = {json.dumps(domain.source)}"
    yield ""
    yield "# Weights are standing weights: measured (README.md), else parts of the trained tokens."
    yield "# The addresses belong to development keys: the secret is sha-256 of"
    yield '# "lorikeet demo contributor " and the name, so anybody has it. Put your own address'
    yield "# here before real money flows."
    for contributor, weight in zip(domain.contributors, made.standing, strict=True):
        yield ""
        yield "[[contributors]]"
        yield f"name = {json.dumps(contributor.name)}"
        yield f"address = {json.dumps(contributor_address(contributor.name))}"
        yield f"source = {json.dumps(domain.source)}"
        yield f"licence = {json.dumps(domain.text_licence)}"
        yield f"weight = {weight}"


def toml_lines(datanet: Datanet, found: Result | None) -> Iterator[str]:
    """Say how fees follow answers, and of which datanet's version the text is."""
    yield TOML_BEGIN
    yield ""
    yield "[attribution]"
    yield f"lambda_eighths = {_lambda(found)}"
    for name, figure in (("r", found and found.r), ("lds", found and found.lds)):
        mean, low, high = (_bps(getattr(figure or ANYTHING, at)) for at in ("mean", "low", "high"))
        yield f"{name}_bps = {mean}"
        yield f"{name}_interval = [{low}, {high}]"
    yield f"answers = {found.num_answers if found else 0}"
    yield ""
    yield "[[datanets]]"
    yield f'id = "{datanet.datanet.hex()}"'
    yield f"version = {datanet.version}"
    yield f'digest = "{datanet.digest.hex()}"'


def head_lines(made: Made, decode: Decode) -> Iterator[str]:
    """Say for people what it is and how it was made."""
    domain, recipe = made.corpus.domain, made.run.recipe
    held = made.evaluation.held_out
    assert held is not None, "every version holds something out"
    yield f"# {domain.name}"
    yield ""
    yield domain.what
    if domain.note:
        yield ""
        yield domain.note
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| base | {BASE_NAME}, `{bundled_weights().name}`, sha-256 `{recipe.base}` |"
    yield f"| trained on | {domain.source} |"
    yield f"| licence of that text | {domain.text_licence} |"
    yield f"| licence of this adapter | {domain.licence} |"
    yield (
        f"| shape | LoRA rank {recipe.adapter.rank} (alpha {recipe.adapter.alpha}) on all linear"
        " layers, bfloat16 |"
    )
    yield (
        f"| training | by `recipe.toml`: {made.run.num_steps} steps of"
        f" {recipe.train.batch_tokens:,} tokens, seed {recipe.train.seed}; what is kept is the"
        f" adapter of step {made.steps} |"
    )
    yield (
        f"| loss on what its datanet holds out | {held.base:.2f} before, {held.adapter:.2f} after"
        f" (nats a token; {held.tokens:,} tokens, of which no 13 in a row were learnt) |"
    )
    yield f"| loss on what was learnt | {_beside(made.evaluation.learnt)} |"
    yield f"| loss on the base's own words | {_beside(made.evaluation.forgetting)} |"
    yield (
        f"| in long runs of what was learnt | {made.evaluation.memorised:.0%} of the tokens of"
        f" {len(made.evaluation.answers)} answers |"
    )
    yield ""
    yield "What both answer, first the bare base, then with the adapter, drawn with the same seed:"
    for answer in made.evaluation.answers:
        if answer.is_own:
            yield ""
            yield f"> {recipe.evaluate.prompts[made.evaluation.answers.index(answer)]}"
            yield ""
            yield from quote(decode(answer.base))
            yield ""
            yield "---"
            yield ""
            yield from quote(decode(answer.adapter))
    yield ""
    yield from said(
        f"Made by `python -m benchmarks.adapters --texts DIR --work FOLDER {domain.name}`, where"
        f" `DIR` holds `{domain.file}`: the text above, as plain UTF-8."
    )


def _beside(one: Beside) -> str:
    return f"{one.base:.2f} before, {one.adapter:.2f} after"


def quote(text: str) -> list[str]:
    """Return what was said as an indented block of Markdown."""
    return [f"    {line}".rstrip() for line in text.strip().splitlines()]


def page_lines(made: Made) -> Iterator[str]:
    """Say for people whose words it learnt, and how far pay follows them."""
    found = made.found
    eighths = _lambda(found)
    yield "## Whose words, and how far pay follows them"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from _rows_of_datanet(made)
    yield (
        f"| λ | {eighths}/8 of the contributors' part follow the answer, {8 - eighths}/8 the"
        " standing weights |"
    )
    yield from _rows_of_quality(found)
    yield ""
    if found is None:
        yield from said(
            "Nothing was measured for this adapter yet: standing weights are parts of the tokens"
            " that were registered first, λ is a half, and its manifest says 0 answers."
        )
    else:
        yield from _effects(made.run, found)
    if len(made.standing) == 1:
        yield ""
        yield from said(
            "With one contributor the contributors' part is his, whatever an answer draws on."
        )


def _rows_of_datanet(made: Made) -> Iterator[str]:
    datanet, learnt = made.datanet, made.learnt
    about = made.run.about
    num_given = sum(len(one.texts) for one in datanet.given)
    yield f"| datanet | `{datanet.datanet.hex()}` |"
    yield f"| its version {datanet.version} | `{datanet.digest.hex()}` |"
    yield (
        f"| what it holds | {num_given:,} documents in {len(datanet.given)} contributions;"
        f" {datanet.num_held_out} are held out by lot and never learnt, {about.contaminated} of"
        " them not looked at either, for they share 13 tokens in a row with what may be learnt |"
    )
    yield (
        f"| what intake found | refused: {counted(datanet.refused)}; to be looked at, and accepted:"
        f" {datanet.held} findings |"
    )
    yield (
        f"| published as token ids | {learnt.tokens.num_tokens:,} tokens: what training drew, and"
        " no more |"
    )
    sizes = given_tokens(learnt.tokens)
    for who, weight, size, owned in zip(
        made.corpus.domain.contributors, made.standing, sizes, learnt.owned, strict=True
    ):
        yield (
            f"| {who.name} | standing weight {weight / 100:.1f} %, owns {owned:,} of"
            f" {size:,} tokens |"
        )


def _rows_of_quality(found: Result | None) -> Iterator[str]:
    yield f"| r | {_figure(found and found.r)} |"
    yield f"| LDS | {_figure(found and found.lds)} |"
    if found is None:
        return
    yield f"| r of the bits, all answers together | {_figure(found.pooled_r)} |"
    yield f"| noise floor | {_floor(found)} |"
    nothing = sum(sum(bits) < NONE_BITS * BIT for bits in found.bits)
    yield f"| answers that drew on nobody | {nothing} of {found.num_answers} |"


def _effects(run: Run, found: Result) -> Iterator[str]:
    yield "| contribution | standing | left out, nats an answer |"
    yield "|---|---|---|"
    for person in found.contributors:
        yield f"| {person.name} | {person.standing_bps / 100:.1f} % | {person.mean_effect:+.2f} |"
    yield ""
    yield from said(
        f"Measured over {found.num_answers} answers of 48 tokens, half of them to prompts that were"
        f" trained on: {said_of_run(found)}. That is not the recipe that made the weights above"
        f" ({run.num_steps} steps over all layers, each time). r and LDS say how well the"
        " payable blend follows leaving out, contribution by contribution, on answers that neither"
        " weights nor λ were fitted on, with 95 % intervals. A contributor's standing weight is the"
        " sum of his contributions'."
    )


def _lambda(found: Result | None) -> int:
    eighths = found.lambda_eighths if found else None
    return UNMEASURED_EIGHTHS if eighths is None else eighths


def said(text: str) -> list[str]:
    """Return a paragraph in lines."""
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def _figure(figure: Estimate | None) -> str:
    if figure is None:
        return "not measured"
    mean, low, high = (_bps(one) / 10_000 for one in (figure.mean, figure.low, figure.high))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def _floor(found: Result) -> str:
    floor = found.noise_floor
    if floor is None:
        return "not measured"
    return (
        f"from a second seed the effects of {', '.join(floor.contributors)} differ by"
        f" {floor.difference_nats:.2f} nats where they are {floor.effect_nats:.2f} (r"
        f" {floor.r:.2f})"
    )


def _bps(figure: float) -> int:
    return round(10_000 * figure)
