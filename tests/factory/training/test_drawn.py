"""What benchmarks/adapters publishes of an adapter's text: what its steps drew, and no more."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from benchmarks.adapters.datanets import Datanet, Given
from benchmarks.adapters.trained import stretches_of
from factory.training.rows import Document, Made, make_rows

WINDOW = 32
DIGESTS = (b"\1" * 32, b"\2" * 32)
TEXTS = (
    (
        "Rice\nWash it, boil it and wait until it has no water left.",
        "Never learnt, whatever it is.",
    ),
    ("Salt\nA pinch of it is enough for a pot, and two are too much.",),
)
HELD_OUT = (frozenset({1}), frozenset[int]())


class Bytes:
    """One token for each byte."""

    end = 0

    def text(self, text: str) -> list[int]:
        return list(text.encode())

    def chat(self, question: str) -> list[int]:
        return [1, *question.encode(), 2]


def datanet() -> Datanet:
    given = tuple(
        Given(digest, 0, "part", texts, held_out)
        for digest, texts, held_out in zip(DIGESTS, TEXTS, HELD_OUT, strict=True)
    )
    return Datanet(b"\3" * 32, 1, b"\4" * 32, given=given, refused=(), held=0)


def rows() -> Made:
    documents = [
        Document(text, text.partition("\n")[0], 0, place, number in HELD_OUT[place])
        for place, texts in enumerate(TEXTS)
        for number, text in enumerate(texts)
    ]
    return make_rows(documents, Bytes(), window=WINDOW, with_chat=True)


def drawn(*order: int) -> list[list[tuple[int, bytes]]]:
    """What is published when these rows were drawn, one in each step."""
    about = SimpleNamespace(contributions=[one.hex() for one in DIGESTS], end=Bytes.end)
    run = SimpleNamespace(rows=rows().learnt, about=about, order=np.array([order]).T)
    found = stretches_of(datanet(), run, len(order), Bytes())
    return [[(place, bytes(ids)) for place, ids in one] for one in found]


def test_all_rows_drawn_are_all_that_may_be_learnt() -> None:
    whole = [[(0, texts[0].encode())] for texts in TEXTS]
    assert drawn(*range(len(rows().learnt))) == whole


def test_a_row_is_the_stretch_that_it_was_cut_from() -> None:
    assert drawn(1) == [[(0, TEXTS[0][0].encode()[WINDOW : 2 * WINDOW])], []]
    assert drawn(0, -1) == [[(0, TEXTS[0][0].encode()[:WINDOW])], []]


def test_an_answer_is_marked_where_its_document_has_it() -> None:
    chats = np.flatnonzero(rows().learnt.is_chat)
    [first], [second] = drawn(*chats)
    assert first[1] in TEXTS[0][0].encode()
    assert second[1].startswith(b"A pinch of it")
    assert b"Salt" not in second[1]
