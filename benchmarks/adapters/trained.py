"""Which tokens an adapter has learnt: those that its run's steps drew, up to the one that was kept.

    a contribution's text   [ document ¶¶ document ¶¶ docu | ment ¶¶ … ]   cut as rows.py cuts it
    drawn                      ______           ________________           rows, answers of chats
    stretches                  within one document each

Follows from the run's folder and the version's texts. Knows no contributor's pay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from factory.training.folder import Run
from factory.training.rows import NO_ROW, SEPARATOR, Encoder

from .datanets import Datanet, Given

MIN_TOKENS = 8  # shorter ones have no window, so nobody owns them (docs/protocols/attribution.md)

Flags = npt.NDArray[np.bool_]


@dataclass
class Text:
    """A contribution's text as one row of ids. `documents`: the place of each in its contribution,
    and its tokens [first, end).
    """

    ids: npt.NDArray[np.int64]
    documents: list[tuple[int, int, int]]
    drawn: Flags

    @classmethod
    def of(cls, given: Given, encoder: Encoder) -> Text:
        """Lay the documents that may be learnt one after the other."""
        separator = encoder.text(SEPARATOR)
        ids: list[int] = []
        documents = []
        for place, text in given.learnt:
            ids += separator if documents else []
            first = len(ids)
            ids += encoder.text(text)
            documents.append((place, first, len(ids)))
        return cls(np.array(ids), documents, np.zeros(len(ids), bool))

    def draw(self, ids: npt.NDArray[np.int64], near: int) -> None:
        """Mark a row that begins at `near`."""
        assert (self.ids[near : near + len(ids)] == ids).all(), "a row is cut from its text"
        self.drawn[near : near + len(ids)] = True

    def draw_answer(self, ids: npt.NDArray[np.int64]) -> None:
        """Mark an answer where a document has it; its first token may be another, for no text
        stands before it.
        """
        for _, first, end in self.documents:
            rest = ids[1:]
            starts = np.flatnonzero(self.ids[first : end - len(rest) + 1] == rest[0]) + first
            for start in starts:
                if (self.ids[start : start + len(rest)] == rest).all():
                    self.drawn[max(first, int(start) - 1) : start + len(rest)] = True
                    return

    def stretches(self) -> Iterator[tuple[int, list[int]]]:
        """Yield what was drawn, by the document's place."""
        for place, first, end in self.documents:
            for a, b in _runs(self.drawn[first:end]):
                if b - a >= MIN_TOKENS:
                    yield place, self.ids[first + a : first + b].tolist()


def stretches_of(
    datanet: Datanet, run: Run, steps: int, encoder: Encoder
) -> list[list[tuple[int, list[int]]]]:
    """Return for each contribution what so many steps drew of it: documents' places and ids."""
    texts = [Text.of(one, encoder) for one in datanet.given]
    places = {one.digest.hex(): place for place, one in enumerate(datanet.given)}
    owners = [places[digest] for digest in run.about.contributions]
    rows = run.rows
    drawn = set(run.order[:steps].ravel().tolist()) - {NO_ROW}
    before = [0] * len(owners)
    for row, contribution in enumerate(rows.contributions.tolist()):
        text = texts[owners[contribution]]
        ids = rows.ids[row][rows.ids[row] >= 0]
        if rows.is_chat[row]:
            if row in drawn:
                text.draw_answer(_answer(ids, int(rows.starts[row]), run.about.end))
            continue
        if row in drawn:
            text.draw(ids, before[contribution])
        before[contribution] += rows.ids.shape[1]
    return [list(text.stretches()) for text in texts]


def _answer(ids: npt.NDArray[np.int32], start: int, end: int) -> npt.NDArray[np.int64]:
    """Return what is learnt of a chat's row, without the id that ends it."""
    answer = np.asarray(ids[start:], np.int64)
    return answer[:-1] if answer[-1] == end else answer


def _runs(flags: Flags) -> Sequence[tuple[int, int]]:
    """Return the runs [first, end) of what is set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
