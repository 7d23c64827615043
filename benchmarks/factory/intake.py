"""How long it takes to take documents in, and how well it tells copies from honest documents.

Time: each text alone, children and checks, and all together; processor seconds of everything that
ran. Copies: a text is dealt among twelve people who give one after another; of what is honest, how
much would be refused or held as hardly new, and of copies with some of their words changed? An
honest document of which one earlier document holds half is counted apart: it is a copy, whoever
wrote it.

python -m benchmarks.factory.intake FOLDER      with the texts; about three minutes of one core
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from benchmarks import write_result
from factory.intake import Earlier, Known, Rules, examine
from factory.intake.checks import duplicates, novelty
from factory.intake.clean import clean
from factory.intake.looked import Looked, look_at
from factory.intake.split import split_text
from factory.intake.traces import pack_trace
from factory.intake.words import Shingles

NUM_PEOPLE = 12
COPIED_EACH = 10
NUMBERING = Shingles()
SEED = 20261130

Deal = list[list[str]]
Change = Callable[[int, random.Random], bool]
"""Whether the word at a place is changed."""

CHANGES: dict[str, Change] = {
    "5 % of words": lambda place, dice: dice.random() < 0.05,
    "10 % of words": lambda place, dice: dice.random() < 0.1,
    "20 % of words": lambda place, dice: dice.random() < 0.2,
    # By somebody who knows the rule: words so far apart that a passage of shingles is new.
    "5 % of words, by threes": lambda place, dice: place % 60 in (0, 5, 10),
    "10 % of words, by threes": lambda place, dice: place % 30 in (0, 5, 10),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with texts (*.txt)")
    files = sorted(parser.parse_args().folder.glob("*.txt"))
    figures: dict[str, object] = dict(measure_time(files))
    for file in files:
        text = clean(file.read_text()).text
        for name, deal in deals(text):
            for least in (2, 3, 4) if name == "in order" else (3,):
                figures[f"{file.stem} {name}, boilerplate from {least}"] = measure(deal, least)
    for name, figure in figures.items():
        print(f"{name}\n    {figure}")
    write_result("factory-intake", figures)


# --- time ---


def measure_time(files: Sequence[Path]) -> Iterator[tuple[str, object]]:
    """Processor and wall seconds of an examination, children and all."""
    for name, given in [*((file.name, [file]) for file in files), ("all together", files)]:
        wall = time.monotonic()
        before = _spent()
        examined = examine(given, Rules(languages=("en",)), Known())
        yield (
            f"intake of {name}",
            {
                "bytes": sum(file.stat().st_size for file in given),
                "documents": len(examined.documents),
                "refused": len(examined.documents) - len(examined.kept),
                "held": examined.numbers["documents held"],
                "cpu s": round(_spent() - before, 1),
                "wall s": round(time.monotonic() - wall, 1),
            },
        )


def _spent() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


# --- copies ---


def deals(text: str) -> Iterator[tuple[str, Deal]]:
    """The documents of a text, dealt among people in several ways."""
    is_asked = text.startswith("Question:")
    documents = split_text(text, Rules(split_words=50 if is_asked else 100))
    size = len(documents)
    bounds = [size * person // NUM_PEOPLE for person in range(NUM_PEOPLE + 1)]
    yield "in order", [documents[start:end] for start, end in pairwise(bounds)]
    dice = random.Random(SEED)
    if is_asked:
        topics: dict[str, list[str]] = {}
        for document in documents:
            topics.setdefault(_topic(document), []).append(document)
        shuffled = list(topics.values())
        dice.shuffle(shuffled)
        yield (
            "by topic",
            [list(chain(*shuffled[person::NUM_PEOPLE])) for person in range(NUM_PEOPLE)],
        )
    dice.shuffle(documents)
    yield "at random", [documents[person::NUM_PEOPLE] for person in range(NUM_PEOPLE)]


def _topic(document: str) -> str:
    """What a question is about: its last words."""
    return " ".join(re.findall(r"\w+", document.partition("?")[0])[-3:])


def measure(deal: Deal, least: int) -> dict[str, float]:
    """Percent of honest documents and of copies that are refused or held."""
    given = [[look_at("", text, NUMBERING) for text in texts] for texts in deal]
    with tempfile.TemporaryDirectory() as place:
        known = list(_follow(given, Path(place)))
        held = refused = copies = 0
        for person, looked in enumerate(given):
            for document, code in zip(looked, _judge(looked, known[person], least), strict=True):
                refused += code == "not-new"
                if code is not None:
                    held += 1
                    copies += _is_in_one(document, given[:person])
        total = sum(map(len, given))
        figures = {
            "documents": total,
            "honest held or refused %": _percent(held, total),
            "honest refused %": _percent(refused, total),
            "of the held, half in one earlier document %": _percent(copies, held),
        }
        copies_of_all = list(_copies(deal, lambda place, dice: False))
        told = duplicates.check(copies_of_all, Rules(), known[-1], Counter())
        figures["copies as they are, refused %"] = _percent(len(told), len(copies_of_all))
        for name, change in CHANGES.items():
            codes = _judge(list(_copies(deal, change)), known[-1], least)
            found = sum(code is not None for code in codes)
            figures[f"copies with {name} changed, found %"] = _percent(found, len(codes))
    return figures


def _follow(given: Sequence[Sequence[Looked]], place: Path) -> Iterator[Known]:
    """What is known when each person gives, and at last when a stranger does."""
    earlier: list[Earlier] = []
    for person, looked in enumerate(given):
        yield Known(giver=bytes([person]), earlier=tuple(earlier))
        path = place / str(person)
        trace = pack_trace([one.digest for one in looked], [one.shingles for one in looked])
        path.write_bytes(trace)
        earlier.append(Earlier(bytes([person] * 32), bytes([person]), path))
    yield Known(giver=b"stranger", earlier=tuple(earlier))


def _judge(looked: Sequence[Looked], known: Known, least: int) -> list[str | None]:
    shingles = np.concatenate([document.shingles for document in looked])
    table = novelty.build_table(shingles, known)
    found = [novelty.novelty(document, table, least) for document in looked]
    return [novelty.code_of(one, Rules()) for one in found]


def _is_in_one(document: Looked, earlier: Sequence[Sequence[Looked]]) -> bool:
    half = len(document.shingles) / 2
    return any(
        len(np.intersect1d(document.shingles, other.shingles, assume_unique=True)) >= half
        for looked in earlier
        for other in looked
    )


def _copies(deal: Deal, change: Change) -> Iterator[Looked]:
    """Documents of every person with some words replaced by others of the field."""
    dice = random.Random(SEED)
    words = [word for texts in deal for text in texts for word in text.split()]
    for texts in deal:
        for text in dice.sample(texts, min(COPIED_EACH, len(texts))):
            changed = [
                dice.choice(words) if change(place, dice) else word
                for place, word in enumerate(text.split())
            ]
            yield look_at("", " ".join(changed), NUMBERING)


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1) if whole else 0.0


if __name__ == "__main__":
    main()
