"""Declares what nodes say to one another about datanets: the newest place of a log, its rows, and
what somebody would add to it.

Normative text: docs/protocols/datanet.md. Sends nothing, and decides nothing.

    asker → holder   AskHead(datanet) | AskEntries(datanet, first, count) | Submit(datanet, entry)
    holder → asker   Head(…) | Entries(…) | Registered(…) | Refused(…)
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from proofs.datanet.entries import MAX_REGISTRATION_BYTES, MAX_VERSION_BYTES

from .infer import Digest, Message, WireError, decode_canonical

PROTOCOL = "/lorikeet/datanet/1"
MAX_ASK_BYTES = MAX_VERSION_BYTES + 256  # of a frame to a holder
MAX_ANSWER_BYTES = 1 << 20
MAX_ROWS = 64
MAX_ROWS_BYTES = 1_000_000  # of the registrations and entries of one answer
IDLE_DEADLINE_S = 30.0
SEND_DEADLINE_S = 30.0
MAX_SAID_CHARS = 1_024

Seq = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Said = Annotated[str, msgspec.Meta(max_length=MAX_SAID_CHARS)]
RegistrationBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_REGISTRATION_BYTES)]
EntryBytes = Annotated[bytes, msgspec.Meta(max_length=MAX_VERSION_BYTES)]
Row = tuple[RegistrationBytes, EntryBytes]


class AskHead(Message, frozen=True, array_like=True):
    """Which is the newest place."""

    datanet: Digest


class AskEntries(Message, frozen=True, array_like=True):
    """Rows from `first` on, `count` at most."""

    datanet: Digest
    first: Seq
    count: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]


class Submit(Message, frozen=True, array_like=True):
    """An entry that should get the next place."""

    datanet: Digest
    entry: EntryBytes


class Head(Message, frozen=True, array_like=True):
    """The newest registration; and two for one place, where the sequencer signed such."""

    registration: RegistrationBytes
    fork: Annotated[list[RegistrationBytes], msgspec.Meta(max_length=2)]


class Entries(Message, frozen=True, array_like=True):
    """Rows of the log, in order, without gaps."""

    rows: Annotated[list[Row], msgspec.Meta(max_length=MAX_ROWS)]


class Registered(Message, frozen=True, array_like=True):
    """The place that an entry has."""

    registration: RegistrationBytes


class Refused(Message, frozen=True, array_like=True):
    """Why not. `document` counts from 1; 0 is the whole."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    document: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    detail: Said
    mend: Said


Ask = AskHead | AskEntries | Submit
Answer = Head | Entries | Registered | Refused

_ASK: msgspec.msgpack.Decoder[Ask] = msgspec.msgpack.Decoder(Ask)
_ANSWER: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Ask | Answer) -> bytes:
    """Give the only byte form of a message."""
    return msgspec.msgpack.encode(message)


def decode_ask(frame: bytes) -> Ask:
    """Parse what an asker sent; WireError when it is no ask of ours."""
    return decode_canonical(frame, _ASK)


def decode_answer(frame: bytes) -> Answer:
    """Parse what a holder sent; WireError when it is no answer of ours."""
    answer = decode_canonical(frame, _ANSWER)
    if isinstance(answer, Head) and len(answer.fork) == 1:
        raise WireError("a fork is two registrations")
    return answer
