"""The text that an adapter learnt from, as token ids in the order in which it was registered.

Normative text: docs/protocols/attribution.md. The same form, without contributors, is a background:
text that is nobody's. Decides what well-formed bytes are, and who gave which document; knows no
index, no text, and not whether anybody wrote what he gave.

    data = write_tokens(tokenizer_hash, num_contributors, [Contribution(0, [ids, ids]), …])
    tokens = read_tokens(data)               # data may be a memory map; nothing is copied

An id is stored as its rank among the ids that occur, from 1 on, so two bytes suffice for nearly
every text whatever the tokenizer. Rank 0 is the end mark: one stands before the first document and
one after each.

    ranks    0  5 9 5 7  0  3 3  0           documents (5 9 5 7) and (3 3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from ..codec import Digest, NotCanonical, Record, decode, encode
from ..errors import TokensError
from ..manifest import MAX_CONTRIBUTORS

KIND = "lorikeet tokens"
VERSION = 1
END = 0  # the rank that stands between documents
MAX_RANKS = 1 << 27  # end marks included; the suffix array of so many has half a GiB
MAX_VOCABULARY = 1 << 20
MAX_CONTRIBUTIONS = 1 << 16
MAX_HEADER_BYTES = 8 << 20
ALIGNMENT_BYTES = 64  # where the ranks begin, so that a memory map of them is aligned
MAX_TOKENS_BYTES = MAX_HEADER_BYTES + 4 * MAX_RANKS

_NO_ID = -1
_SLICE = 1 << 20  # ranks looked at together, so that what is made of them stays small

Ints = npt.NDArray[np.int64]
Ranks = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Contribution:
    """What one contributor gave at one time: documents of one token or more each.

    `contributor` is a place in the manifest's list.
    """

    contributor: int
    documents: Sequence[Sequence[int] | Ints]


class Header(Record, frozen=True):
    """What stands before the ranks. `gaps` are the ids that occur, ascending: the first, then each
    one's distance from the one before. A contribution is (contributor, number of documents).
    """

    kind: Annotated[str, msgspec.Meta(max_length=64)]
    version: Annotated[int, msgspec.Meta(ge=0, lt=256)]
    tokenizer_hash: Digest
    width: Annotated[int, msgspec.Meta(ge=2, le=4)]
    num_ranks: Annotated[int, msgspec.Meta(ge=1, le=MAX_RANKS)]
    num_contributors: Annotated[int, msgspec.Meta(ge=0, le=MAX_CONTRIBUTORS)]
    contributions: Annotated[
        list[
            tuple[
                Annotated[int, msgspec.Meta(ge=0, lt=MAX_CONTRIBUTORS)],
                Annotated[int, msgspec.Meta(ge=1, le=MAX_RANKS)],
            ]
        ],
        msgspec.Meta(max_length=MAX_CONTRIBUTIONS),
    ]
    gaps: Annotated[
        list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]],
        msgspec.Meta(max_length=MAX_VOCABULARY),
    ]


@dataclass(frozen=True)
class Place:
    """Where a rank stands in the log: which contributor's, which contribution, which of its
    documents, and how many tokens into it. All count from 0.
    """

    contributor: int
    contribution: int
    document: int
    offset: int


@dataclass(frozen=True)
class Tokens:
    """Documents of contributors in the log's order; of none, where it is a background.

    `vocabulary` has the id of rank r at r - 1; `row` has the ranks, behind ALIGNMENT_BYTES of
    whatever stands before them, and may be a view of a memory map. `digest` is the sha-256 of the
    bytes read.
    """

    digest: bytes
    tokenizer_hash: bytes
    num_contributors: int
    contributions: tuple[tuple[int, int], ...]
    num_documents: int
    vocabulary: Ints
    row: Ranks

    @cached_property
    def ranks(self) -> Ranks:
        """The ranks."""
        return self.row[room_in(self.row) :]

    @cached_property
    def ends(self) -> Ints:
        """The positions of the end marks: document d lies between the d-th and the next. Eight
        bytes each, and a stranger's text may have as many as tokens: not for a daemon.
        """
        return np.flatnonzero(self.ranks == END).astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """How many tokens all documents have."""
        return len(self.ranks) - self.num_documents - 1

    @cached_property
    def starts(self) -> Ints:
        """The position before each contribution's first token, and that of the last end mark."""
        first = np.cumsum([0, *(documents for _, documents in self.contributions)])
        return _find_ends(self.ranks, first)

    def ranks_of(self, ids: Sequence[int] | Ints) -> Ints:
        """Return each id's rank; one that occurs nowhere gets a rank above all others."""
        wanted = np.asarray(ids, dtype=np.int64)
        found = np.searchsorted(self.vocabulary, wanted)
        known = found < len(self.vocabulary)
        known[known] = self.vocabulary[found[known]] == wanted[known]
        ranks: Ints = np.where(known, found + 1, len(self.vocabulary) + 1)
        return ranks

    def document(self, number: int) -> Ints:
        """Return the ids of a document; they count from 0 through all contributions."""
        ends = self.ends
        ranks = self.ranks[int(ends[number]) + 1 : int(ends[number + 1])]
        ids: Ints = self.vocabulary[ranks.astype(np.int64) - 1]
        return ids

    def place_of(self, position: int) -> Place:
        """Tell where the rank at a position stands, which is no end mark."""
        contribution = int(np.searchsorted(self.starts, position, side="left")) - 1
        backwards = self.ranks[int(self.starts[contribution]) : position][::-1] == END
        return Place(
            contributor=self.contributions[contribution][0],
            contribution=contribution,
            document=int(np.count_nonzero(backwards)) - 1,
            offset=int(np.argmax(backwards)),
        )


def room_in(row: Ranks) -> int:
    """Return how many ranks' room there is in a row before the text."""
    return ALIGNMENT_BYTES // row.itemsize


def write_tokens(
    tokenizer_hash: bytes, num_contributors: int, contributions: Iterable[Contribution]
) -> bytes:
    """Write contributions, in the log's order, in their one byte form.

    A background is 0 contributors and one contribution, of contributor 0. Raises TokensError when
    nobody would accept it.
    """
    given = list(contributions)
    rows = [np.array([_NO_ID], dtype=np.int64), *map(_row, given)]
    vocabulary = np.unique(np.concatenate([np.unique(row) for row in rows]))[1:]
    width = _width(len(vocabulary))
    header = Header(
        kind=KIND,
        version=VERSION,
        tokenizer_hash=tokenizer_hash,
        width=width,
        num_ranks=sum(map(len, rows)),
        num_contributors=num_contributors,
        contributions=[(one.contributor, len(one.documents)) for one in given]
        if num_contributors
        else [],
        gaps=np.diff(vocabulary, prepend=0).tolist(),
    )
    ranks = (np.searchsorted(vocabulary, row, side="right").astype(f"<u{width}") for row in rows)
    data = b"".join([_head(header), *(some.tobytes() for some in ranks)])
    read_tokens(data)
    return data


def _row(contribution: Contribution) -> Ints:
    """Return a contribution's documents in a row, what is no id after each."""
    end = np.array([_NO_ID], dtype=np.int64)
    parts = []
    for document in contribution.documents:
        ids = np.asarray(document, dtype=np.int64)
        if ids.ndim != 1 or not len(ids) or int(ids.min()) < 0:
            raise TokensError("documents", "each is a row of one token id or more")
        parts += [ids, end]
    return np.concatenate([end[:0], *parts])


def read_tokens(data: bytes | memoryview, max_ranks: int = MAX_RANKS) -> Tokens:
    """Read a text from bytes nobody vouched for: bounded, in its one form, consistent.

    `data` must not change while the tokens are in use. Raises TokensError.
    """
    view = memoryview(data)
    header = _read_header(view)
    if header.num_ranks > max_ranks:
        raise TokensError("size", f"{header.num_ranks} ranks; at most {max_ranks} are read here")
    start = len(_head(header))
    body = view[start:]
    vocabulary = np.cumsum(np.array(header.gaps, dtype=np.int64))
    _check_vocabulary(header, vocabulary)
    if len(body) != header.width * header.num_ranks:
        raise TokensError(
            "size",
            f"{header.num_ranks} ranks of {header.width} bytes take"
            f" {header.width * header.num_ranks} bytes; {len(body)} follow the header",
        )
    row = np.frombuffer(view[start - ALIGNMENT_BYTES :], dtype=f"<u{header.width}")
    num_documents = _check_ranks(row[room_in(row) :], len(vocabulary))
    _check_contributions(header, num_documents)
    return Tokens(
        digest=hashlib.sha256(view).digest(),
        tokenizer_hash=header.tokenizer_hash,
        num_contributors=header.num_contributors,
        contributions=tuple(header.contributions),
        num_documents=num_documents,
        vocabulary=vocabulary,
        row=row,
    )


def _find_ends(ranks: Ranks, numbers: Ints) -> Ints:
    """Return the positions of end marks by their numbers, which ascend."""
    found = np.empty(len(numbers), dtype=np.int64)
    done = counted = 0
    for start in range(0, len(ranks), _SLICE):
        ends = start + np.flatnonzero(ranks[start : start + _SLICE] == END)
        here = int(np.searchsorted(numbers, counted + len(ends)))
        found[done:here] = ends[numbers[done:here] - counted]
        done = here
        counted += len(ends)
    return found


def _width(num_ids: int) -> int:
    return 2 if num_ids < 1 << 16 else 4


def _head(header: Header) -> bytes:
    packed = encode(header)
    head = len(packed).to_bytes(4, "big") + packed
    return head + bytes(-len(head) % ALIGNMENT_BYTES)


def _read_header(view: memoryview) -> Header:
    size = int.from_bytes(view[:4], "big")
    if len(view) < 4 or size > MAX_HEADER_BYTES or 4 + size > len(view):
        raise TokensError(
            "size", f"a header of {size} bytes in {len(view)}; at most {MAX_HEADER_BYTES}"
        )
    try:
        header = decode(bytes(view[4 : 4 + size]), _DECODER, MAX_HEADER_BYTES)
    except NotCanonical as error:
        raise TokensError(error.rule, str(error)) from error
    if header.kind != KIND or header.version != VERSION:
        raise TokensError(
            "version",
            f"{header.kind!r} {header.version} is unknown; this node reads {KIND!r} {VERSION}",
        )
    head = _head(header)
    if bytes(view[: len(head)]) != head:
        raise TokensError("canonical", "what fills up the header is not all zero")
    return header


def _check_vocabulary(header: Header, vocabulary: Ints) -> None:
    if header.width != _width(len(vocabulary)):
        raise TokensError(
            "width", f"{len(vocabulary)} ids take {_width(len(vocabulary))} bytes each"
        )
    if 0 in header.gaps[1:]:
        raise TokensError("vocabulary", "an id stands in it twice")
    if len(vocabulary) and vocabulary[-1] >= 1 << 31:
        raise TokensError("vocabulary", f"{vocabulary[-1]} is no token id")


def _check_ranks(ranks: Ranks, num_ids: int) -> int:
    """Return how many documents there are."""
    if ranks[0] != END or ranks[-1] != END:
        raise TokensError("documents", "they begin and close with an end mark")
    seen = np.zeros(num_ids + 1, dtype=bool)
    num_ends = 0
    for start in range(0, len(ranks), _SLICE):
        some = ranks[start : start + _SLICE + 1]
        if int(some.max()) > num_ids:
            raise TokensError("ranks", f"{some.max()} where there are {num_ids} ids")
        if ((some[1:] == END) & (some[:-1] == END)).any():
            raise TokensError("documents", "one of them is empty")
        seen[some] = True
        num_ends += int(np.count_nonzero(some[:_SLICE] == END))
    if not seen.all():
        raise TokensError("vocabulary", "one of its ids occurs nowhere")
    return num_ends - 1


def _check_contributions(header: Header, num_documents: int) -> None:
    if not header.num_contributors:
        if header.contributions:
            raise TokensError("contributions", "a background has none")
        return
    if not header.contributions:
        raise TokensError("contributions", "there are contributors, and nobody gave anything")
    for contributor, _ in header.contributions:
        if contributor >= header.num_contributors:
            raise TokensError(
                "contributions",
                f"one is of contributor {contributor}, and there are {header.num_contributors}",
            )
    listed = sum(documents for _, documents in header.contributions)
    if listed != num_documents:
        raise TokensError("contributions", f"they list {listed} documents of {num_documents}")


_DECODER = msgspec.msgpack.Decoder(Header)
