"""What the two machines of the infer protocol have in common: facts that come in, deeds that go
out.

Decides nothing. The machines are client_session.py and node_session.py; their events are the other
side's messages (infer.py), what stands here, and what only one of them needs.

Whoever runs a machine does its deeds in order, and `Persist` (channels.py) as soon as it comes out:
sessions share a channel, and a row that waited behind a slow send would undo what another session
wrote meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from proofs.attribution.credit import Drawn

from ..errors import NodeError
from .infer import Message, WireError
from .metering import Deal


@dataclass(frozen=True)
class Tick:
    """Time has passed: the machine's deadline is over."""


@dataclass(frozen=True)
class PeerGone:
    """The other side ended the stream, or no longer takes what is sent."""

    reason: str


@dataclass(frozen=True)
class Malformed:
    """The other side sent what is no message of ours."""

    error: WireError


@dataclass(frozen=True)
class Failed:
    """A deed that takes time came to nothing."""

    error: NodeError


@dataclass(frozen=True)
class Drew:
    """What the answer drew on was computed here."""

    drawn: Drawn


@dataclass(frozen=True)
class Draw:
    """Compute on whose text a whole answer drew; answer with Drew or Failed."""

    deal: Deal
    answer_ids: tuple[int, ...]


@dataclass(frozen=True)
class Send:
    """Send a message."""

    message: Message


@dataclass(frozen=True)
class Fail:
    """The session is over, and this is why."""

    error: NodeError | WireError
