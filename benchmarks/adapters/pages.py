"""What is written into an adapter's folder: its tokens, where they were given, and what was
measured, in lorikeet.toml for machines and in README.md for people. Decides nothing but words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attribution.texts import train_adapters
from factory.influence.measures import Estimate
from factory.influence.result import Result, given_tokens
from proofs.attribution.blend import BIT, NONE_BITS, WHOLE_BPS, divide
from proofs.attribution.index import Index
from proofs.attribution.listing import Listed, write_listing
from proofs.attribution.tokens import Contribution, Tokens, read_tokens, write_tokens
from proofs.manifest import MAX_CONTRIBUTORS

from .corpus import Corpus
from .datanets import Datanet, counted
from .measuring import said_of_run

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
TOML_BEGIN = "# --- of its datanet, and what was measured (python -m benchmarks.adapters) ---"
UNMEASURED_EIGHTHS = 4
ANYTHING = Estimate(0.0, -1.0, 1.0, 0)
"""Of a figure that was not measured."""


@dataclass(frozen=True)
class Learnt:
    """What an adapter has learnt, by who gave it."""

    tokens: Tokens
    data: bytes
    listing: bytes
    owned: tuple[int, ...]


def learnt_of(
    corpus: Corpus, datanet: Datanet, stretches: dict[int, list[list[int]]], tokenizer_hash: bytes
) -> Learnt:
    """Put the trained stretches of every passage under who gave it, in log order."""
    given: list[Contribution] = []
    listed: list[Listed] = []
    for one in datanet.given:
        documents: list[list[int]] = []
        numbers: list[int] = []
        for number, passage in enumerate(one.passages, 1):
            parts = stretches.get(passage, [])
            documents += parts
            numbers += [number] * len(parts)
        if documents:
            given.append(Contribution(one.contributor, documents))
            listed.append(Listed(one.contributor, 0, one.digest, one.title, numbers))
    people = len(corpus.domain.contributors)
    assert people <= MAX_CONTRIBUTORS
    data = write_tokens(tokenizer_hash, people, given)
    tokens = read_tokens(data)
    return Learnt(tokens, data, write_listing(listed), Index.build(tokens).owned_tokens())


def standing_of(
    corpus: Corpus, datanet: Datanet, learnt: Learnt, found: Result | None
) -> tuple[int, ...]:
    """Return each contributor's standing weight in basis points: that of his contributions, or his
    part of the tokens that somebody owns where nothing was measured.
    """
    if found is None:
        return tuple(divide(WHOLE_BPS, learnt.owned))
    weights = [0] * len(corpus.domain.contributors)
    for one, person in zip(datanet.given, found.contributors, strict=True):
        weights[one.contributor] += person.standing_bps
    return tuple(weights)


def write_pages(
    folder: Path,
    corpus: Corpus,
    datanet: Datanet,
    learnt: Learnt,
    background: bytes,
    found: Result | None,
) -> None:
    """Write all of it into an adapter's folder; `found` None: nothing was measured."""
    (folder / "attribution.tokens").write_bytes(learnt.data)
    (folder / "background.tokens").write_bytes(background)
    (folder / "contributors.msgpack").write_bytes(learnt.listing)
    standing = standing_of(corpus, datanet, learnt, found)
    toml = folder / "lorikeet.toml"
    head = toml.read_text(encoding="utf-8").partition(TOML_BEGIN)[0].rstrip()
    lines = [*weighted(head.splitlines(), standing), "", *toml_lines(datanet, found)]
    toml.write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] or "\n"
    told = "\n".join([BEGIN, *page_lines(corpus, datanet, learnt, found, standing), END])
    page.write_text(f"{before.rstrip()}\n\n{told}{after}", encoding="utf-8")


def weighted(lines: Sequence[str], standing: Sequence[int]) -> Iterator[str]:
    """Put other weights into the lines of a lorikeet.toml."""
    left = iter(standing)
    for line in lines:
        yield f"weight = {next(left)}" if line.startswith("weight = ") else line


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


def page_lines(
    corpus: Corpus,
    datanet: Datanet,
    learnt: Learnt,
    found: Result | None,
    standing: Sequence[int],
) -> Iterator[str]:
    """Say for people whose words it learnt, and how far pay follows them."""
    yield "## Whose words, and how far pay follows them"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from _rows_of_datanet(corpus, datanet, learnt, standing)
    eighths = _lambda(found)
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
        yield from _effects(corpus, found)
    if len(standing) == 1:
        yield from said(
            "With one contributor the contributors' part is his, whatever an answer draws on."
        )
    yield ""
    one_in = train_adapters().HOLD_OUT_EVERY
    yield from said(
        "The adapter was trained before its datanet was made, so what the version holds out by lot"
        f" may have been trained on; what was not is one passage in {one_in}, as above. Made by"
        " `python -m benchmarks.adapters --texts DIR --work FOLDER`, which makes the same datanet,"
        " byte for byte, out of the same texts."
    )


def _rows_of_datanet(
    corpus: Corpus, datanet: Datanet, learnt: Learnt, standing: Sequence[int]
) -> Iterator[str]:
    num_given = sum(len(one.passages) for one in datanet.given)
    yield f"| datanet | `{datanet.datanet.hex()}` |"
    yield f"| its version {datanet.version} | `{datanet.digest.hex()}` |"
    yield (
        f"| what it holds | {num_given:,} documents in {len(datanet.given)} contributions;"
        f" {datanet.num_held_out} of them are held out by lot |"
    )
    yield (
        f"| what intake found | refused: {counted(list(datanet.refused.values()))}; to be looked"
        f" at, and accepted: {datanet.held} findings |"
    )
    yield (
        f"| published as token ids | {learnt.tokens.num_tokens:,} tokens: what training drew, and"
        " no more |"
    )
    sizes = given_tokens(learnt.tokens)
    for who, weight, size, owned in zip(
        corpus.domain.contributors, standing, sizes, learnt.owned, strict=True
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


def _effects(corpus: Corpus, found: Result) -> Iterator[str]:
    yield "| contribution | standing | left out, nats an answer |"
    yield "|---|---|---|"
    for person in found.contributors:
        yield f"| {person.name} | {person.standing_bps / 100:.1f} % | {person.mean_effect:+.2f} |"
    yield ""
    yield from said(
        f"Measured over {found.num_answers} answers of 48 tokens, half of them to prompts that were"
        f" trained on: {said_of_run(found)}. That is not the recipe that made the weights above"
        f" ({corpus.domain.num_steps} steps over all layers, each time). r and LDS say how well the"
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
