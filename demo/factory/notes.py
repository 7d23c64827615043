"""Twelve people's notes: each takes what this project's own pages say of one matter, in sentences.
Reads those pages; writes a text for each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_WORDS = 2_600  # of each, so that a training is a matter of minutes
LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
NOT_PROSE = ("    ", "|", "#", "```", "<", "\t")


@dataclass(frozen=True)
class Person:
    """Somebody, what the notes are about, and the pages they follow."""

    name: str
    title: str
    pages: tuple[str, ...]


PEOPLE = (
    Person("Farida", "How a request becomes an answer", ("ARCHITECTURE.md",)),
    Person("Karim", "Using a node", ("docs/usage.md",)),
    Person("Nasrin", "The engine", ("docs/engine.md", "docs/vllm.md")),
    Person("Rafiq", "How peers find each other", ("docs/protocols/p2p.md",)),
    Person("Shirin", "Asking another node", ("docs/protocols/infer.md",)),
    Person("Tahmid", "Settling on the chain", ("docs/protocols/settlement.md",)),
    Person("Lamia", "What the contracts do", ("docs/protocols/chain.md",)),
    Person("Jamal", "Collecting texts together", ("docs/protocols/datanet.md",)),
    Person(
        "Rokeya", "Receipts and quotes", ("docs/protocols/receipt.md", "docs/protocols/quote.md")
    ),
    Person(
        "Anwar",
        "Delivery and conversations",
        ("docs/protocols/delivery.md", "docs/protocols/conversations.md"),
    ),
    Person("Salma", "Whose words", ("docs/protocols/attribution.md", "docs/influence.md")),
    Person("Habib", "Where a change goes", ("CONTRIBUTING.md", "GLOSSARY.md")),
)


def write_notes(person: Person, folder: Path) -> Path:
    """Write somebody's notes as a text file in a folder, and return where."""
    paragraphs = [
        each for page in person.pages for each in prose_of((ROOT / page).read_text("utf-8"))
    ]
    kept: list[str] = []
    for paragraph in paragraphs:
        if sum(len(each.split()) for each in kept) >= MOST_WORDS:
            break
        kept.append(paragraph)
    path = folder / f"{person.name.lower()}.txt"
    path.write_text("\n\n".join(kept) + "\n", encoding="utf-8")
    return path


def prose_of(page: str) -> list[str]:
    """Return a page's paragraphs and list items that are sentences, without its marks."""
    found = []
    for part in re.split(r"\n\s*\n|\n(?=[*-] )", page):
        if part.startswith(NOT_PROSE):
            continue
        text = " ".join(LINK.sub(r"\1", part.removeprefix("* ").removeprefix("- ")).split())
        text = text.replace("`", "").replace("**", "")
        if text.endswith((".", ":", ")")) and len(text.split()) >= 8:
            found.append(text)
    return found
