"""The two worlds as documents: who gave what, in the order in which it was registered.

    X   four domains, two honest people each; a copycat, a paraphraser, a stuffer, a noise-maker
    S   one field (MedQuAD, rare diseases), eight honest people; a copycat, a paraphraser

Decides texts and prompts; trains nothing. The texts are no part of this project: DIR holds them, as
for benchmarks/adapters, whose passages these are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adapters.texts import TEXTS, passages_of

from .rewording import paraphrase

WINDOW = 128
PROMPT_TOKENS = 16
HONEST = "honest"
COPYCAT = "copycat"
PARAPHRASER = "paraphraser"
STUFFER = "stuffer"
NOISE = "noise"
NUM_QUESTIONS = 1721
FIRST_RARE = 729  # questions before are about cancer

Document = list[int]
Encode = Callable[[str], Document]


@dataclass(frozen=True)
class Giver:
    """Somebody in a world; `copies` is whom a copycat or a paraphraser took from."""

    name: str
    kind: str
    documents: tuple[Document, ...]
    copies: int | None = None


@dataclass(frozen=True)
class Asked:
    """A beginning, and whose text it is: one that was trained on, or the next of that source."""

    ids: tuple[int, ...]
    owner: int
    seen: bool


@dataclass(frozen=True)
class World:
    """People and prompts; `field` is public text of the field, for the background."""

    name: str
    givers: tuple[Giver, ...]
    asked: tuple[Asked, ...]
    field: tuple[Document, ...]
    tokens_each: int


@dataclass(frozen=True)
class Stretch:
    """Where an honest person's text begins: a domain of benchmarks/adapters, a passage."""

    domain: str
    first: float  # as part of the domain's passages


X_PEOPLE = tuple(
    Stretch(domain, first)
    for domain, places in (
        ("law", (0.06, 0.55)),
        ("medicine", (0.10, 0.70)),
        ("recipes", (0.10, 0.60)),
        ("verse", (0.10, 0.60)),
    )
    for first in places
)
S_PEOPLE = tuple(Stretch("medicine", (FIRST_RARE + 20 + 115 * i) / NUM_QUESTIONS) for i in range(8))


def world_x(texts: Path, encode: Encode, samples: Sequence[Document], size: int) -> World:
    """Four domains; `samples` of the base are what the stuffer gives."""
    return _world("X", X_PEOPLE, texts, encode, size=size, asked_each=7, samples=samples)


def world_s(texts: Path, encode: Encode, size: int) -> World:
    """One field, in which people write alike."""
    return _world("S", S_PEOPLE, texts, encode, size=size, asked_each=6)


def _world(
    name: str,
    people: Sequence[Stretch],
    texts: Path,
    encode: Encode,
    *,
    size: int,
    asked_each: int,
    samples: Sequence[Document] = (),
) -> World:
    wanted = {stretch.domain for stretch in people}
    passages = {
        domain.name: [one.text for one in passages_of(domain, texts)]
        for domain in TEXTS
        if domain.name in wanted
    }
    givers = []
    asked: list[Asked] = []
    taken: dict[str, set[int]] = {domain: set() for domain in passages}
    words: list[list[str]] = []
    for place, stretch in enumerate(people):
        all_of = passages[stretch.domain]
        first = int(stretch.first * len(all_of))
        documents, after = _take(all_of, first, encode, size)
        taken[stretch.domain] |= set(range(first - 8, after + 12))
        words.append(all_of[first:after])
        label = (
            f"{stretch.domain} {1 + sum(1 for g in givers if g.name.startswith(stretch.domain))}"
        )
        givers.append(Giver(label, HONEST, tuple(documents)))
        unseen = [encode(text) for text in all_of[after + 1 : after + 9]]
        asked += _asked(documents, unseen, place, asked_each)
    copied, reworded = (0, 4) if name == "X" else (3, 6)
    givers.append(Giver(COPYCAT, COPYCAT, givers[copied].documents, copied))
    said = [encode(paraphrase(text)) for text in words[reworded]]
    givers.append(Giver(PARAPHRASER, PARAPHRASER, _cut(said, size), reworded))
    if samples:
        givers.append(Giver(STUFFER, STUFFER, _cut(samples, size)))
        draw = random.Random(4)
        known = sorted(
            {token for one in givers for document in one.documents for token in document}
        )
        noise = [[draw.choice(known) for _ in range(WINDOW)] for _ in range(size // WINDOW)]
        givers.append(Giver(NOISE, NOISE, tuple(noise)))
    field: tuple[Document, ...] = ()
    if name == "S":
        all_of = passages["medicine"]
        rest = [i for i in range(FIRST_RARE, len(all_of)) if i not in taken["medicine"]]
        field = tuple(encode(all_of[i]) for i in random.Random(5).sample(rest, min(160, len(rest))))
    return World(name, tuple(givers), tuple(asked), field, size)


def _take(
    passages: Sequence[str], first: int, encode: Encode, size: int
) -> tuple[tuple[Document, ...], int]:
    """Return documents from a passage on, `size` tokens in all, and where they end."""
    documents = []
    after = first
    while sum(map(len, documents)) < size:
        documents.append(encode(passages[after]))
        after += 1
    return _cut(documents, size), after


def _cut(documents: Sequence[Document], size: int) -> tuple[Document, ...]:
    kept: list[Document] = []
    for document in documents:
        room = size - sum(map(len, kept))
        if room > 0:
            kept.append(list(document[:room]))
    return tuple(kept)


def _asked(
    seen: Sequence[Document], unseen: Sequence[Document], owner: int, count: int
) -> list[Asked]:
    """Return beginnings, every other one of a text that was trained on."""
    draw = random.Random(owner)
    found = []
    for number in range(count):
        is_seen = (number + owner) % 2 == 0
        source = [one for one in (seen if is_seen else unseen) if len(one) > PROMPT_TOKENS + 8]
        document = source[(number // 2) % len(source)]
        again = (number // 2) // len(source)  # a source with too few begins further on
        first = min(again * draw.randrange(24, 40), len(document) - PROMPT_TOKENS - 1)
        found.append(Asked(tuple(document[first : first + PROMPT_TOKENS]), owner, is_seen))
    return found
