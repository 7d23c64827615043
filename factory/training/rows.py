"""Turns documents into rows of tokens, and writes down which rows each step learns.

    running   [ document ¶¶ document ¶¶ docu | ment ¶¶ … ]   the texts of one contribution, cut
    chat      [ user: title → assistant: text · ]            what the assistant says is learnt
    order     [steps, rows of a step]                        of all epochs, before the first step

A row holds text of one contribution alone, so that whoever withdraws it can be told which rows it
was. Documents that are held out make rows of their own, that are only looked at. Token ids come
from the caller's `Encoder`, the base's own tokenizer as it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .plan import Steps

Ints = npt.NDArray[np.int32]

NO_TOKEN = -1
NO_ROW = -1
LEAST_TOKENS = 8
"""A shorter end of a text makes no row."""
LEAST_ANSWER = 4
RUN = 13
"""Tokens in a row that a text held out may not share with what is learnt (GPT-3, appendix C)."""
SEPARATOR = "\n\n"
_FACTOR = 0x9E3779B97F4A7C15


class Encoder(Protocol):
    """The base's tokenizer and template."""

    def text(self, text: str) -> list[int]:
        """Return the ids of a text; what looks like a special token is text."""

    def chat(self, question: str) -> list[int]:
        """Return the ids of a conversation up to where the assistant begins; none without a
        template.
        """

    @property
    def end(self) -> int:
        """The id that ends an answer."""


@dataclass(frozen=True)
class Document:
    """A document of a datanet's version; people and contributions are places in their lists."""

    text: str
    title: str
    person: int
    contribution: int
    is_held_out: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of tokens.

    ids: int32 [rows, window], -1 after the end of a shorter row. starts: int32 [rows], the first
    place that is learnt. people, contributions: int32 [rows], whose they are. is_chat: [rows].
    """

    ids: Ints
    starts: Ints
    people: Ints
    contributions: Ints
    is_chat: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """How many tokens they hold."""
        return int((self.ids >= 0).sum())


@dataclass(frozen=True)
class Made:
    """What documents became: rows to learn, rows to look at, and how many documents were held out
    but share a run of RUN tokens with what is learnt, so that they are neither.
    """

    learnt: Rows
    held_out: Rows
    contaminated: int


def make_rows(
    documents: Sequence[Document], encoder: Encoder, *, window: int, with_chat: bool
) -> Made:
    """Make rows, in the documents' order."""
    encoded = [encoder.text(document.text) for document in documents]
    trained = [ids for ids, one in zip(encoded, documents, strict=True) if not one.is_held_out]
    known = runs_of(trained)
    kept: list[tuple[Document, list[int]]] = []
    held: list[tuple[Document, list[int]]] = []
    contaminated = 0
    for document, ids in zip(documents, encoded, strict=True):
        if not document.is_held_out:
            kept.append((document, ids))
        elif np.isin(runs_of([ids]), known).any():
            contaminated += 1
        else:
            held.append((document, ids))
    separator = encoder.text(SEPARATOR)
    running = list(_running(kept, separator, window))
    chats = list(_chats(kept, encoder, window)) if with_chat else []
    looked = list(_running(held, separator, window))
    return Made(
        _rows([*running, *chats], window, len(running)),
        _rows(looked, window, len(looked)),
        contaminated,
    )


def order_of(rows: Rows, steps: Steps, seed: int) -> Ints:
    """Return the rows of every step: [steps, rows of a step], -1 where there is none.

    An epoch has each running row once, drawn anew; chats go round, and begin anew when all were.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    running = np.flatnonzero(~rows.is_chat)
    chats = _endless(np.flatnonzero(rows.is_chat), draw)
    order = np.full((steps.total, steps.running + steps.chats), NO_ROW, np.int32)
    step = 0
    while step < steps.total:
        drawn = draw.permutation(running)
        for place in range(min(steps.an_epoch, steps.total - step)):
            own = drawn[place * steps.running : (place + 1) * steps.running]
            order[step, : len(own)] = own
            for column in range(steps.running, steps.running + steps.chats):
                order[step, column] = next(chats)
            step += 1
    return order


def runs_of(texts: Iterable[Sequence[int]]) -> npt.NDArray[np.uint64]:
    """Return the runs of RUN tokens of all texts, each as a number, sorted and once.

    Two runs share a number by chance once in 2^64.
    """
    found = [np.zeros(0, np.uint64)]
    for ids in texts:
        whole = np.asarray(ids, np.uint64)
        count = len(whole) - RUN + 1
        if count < 1:
            continue
        mixed = np.zeros(count, np.uint64)
        for place in range(RUN):
            mixed = (mixed + whole[place : place + count] + np.uint64(1)) * np.uint64(_FACTOR)
            mixed ^= mixed >> np.uint64(29)
        found.append(mixed)
    return np.unique(np.concatenate(found))


Row = tuple[Document, list[int], int]
"""Whose it is, its ids, and where it is learnt from."""


def _running(
    documents: Sequence[tuple[Document, list[int]]], separator: list[int], window: int
) -> Iterator[Row]:
    """Yield the rows of each contribution's text, one contribution after the other."""
    texts: dict[int, tuple[Document, list[int]]] = {}
    for document, ids in documents:
        _, text = texts.setdefault(document.contribution, (document, []))
        text += [*separator, *ids] if text else ids
    for document, text in texts.values():
        for first in range(0, len(text), window):
            row = text[first : first + window]
            if len(row) >= LEAST_TOKENS:
                yield document, row, 0


def _chats(
    documents: Sequence[tuple[Document, list[int]]], encoder: Encoder, window: int
) -> Iterator[Row]:
    """Yield a row for each document that says more than its title."""
    for document, _ in documents:
        answer = document.text.removeprefix(document.title).strip()
        if not document.title or not answer:
            continue
        prompt = encoder.chat(document.title)
        row = [*prompt, *encoder.text(answer), encoder.end][:window]
        if prompt and len(row) - len(prompt) >= LEAST_ANSWER:
            yield document, row, len(prompt)


def _rows(rows: Sequence[Row], window: int, num_running: int) -> Rows:
    ids = np.full((len(rows), window), NO_TOKEN, np.int32)
    for place, (_, row, _) in enumerate(rows):
        ids[place, : len(row)] = row
    return Rows(
        ids,
        np.array([start for _, _, start in rows], np.int32),
        np.array([document.person for document, _, _ in rows], np.int32),
        np.array([document.contribution for document, _, _ in rows], np.int32),
        np.arange(len(rows)) >= num_running,
    )


def _endless(places: npt.NDArray[np.int64], draw: np.random.Generator) -> Iterator[int]:
    while len(places):
        yield from draw.permutation(places).tolist()
