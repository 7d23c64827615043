"""Notes each question that is paid here, for clientele.py: what of it is one client's way to ask.

Reads token ids only as far as that: whether they go on with the client's last prompt, and whether a
system prompt of the client's own stands before them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Protocol

from ..api.answers import ChatMessage
from ..errors import BadRequest
from ..wire.infer import Ask
from .clientele import Clientele, Question
from .habits import Habits

MAX_TALKS = 2_048


class Lays(Protocol):
    """Lays a conversation out as token ids: implemented by answering/tokenizer.py."""

    def encode_prompt(self, prompt: str | tuple[ChatMessage, ...]) -> list[int]:
        """Return a prompt's ids. Raises BadRequest."""


class Noting:
    """Notes questions for a clientele. `clock` in Unix seconds."""

    def __init__(self, clientele: Clientele, lays: Lays, clock: Callable[[], float]) -> None:
        self._clientele = clientele
        self._clock = clock
        self._talks = Talks()
        self._plain = begins_as(lays, "user")
        self._system = begins_as(lays, "system")

    def note(self, ask: Ask, deposit: int) -> None:
        """Note a question that was paid out of a channel with so much in it. What goes on with
        another node's answer is no question of its own.
        """
        if ask.resumed is not None:
            return
        terms = ask.terms
        habits = Habits(
            round(1_000 * terms.temperature), max(1, round(1_000 * terms.top_p)), ask.max_tokens
        )
        asked = Question(
            int(self._clock()),
            habits,
            self._has_system(ask.prompt_ids),
            deposit,
            follows=self._talks.goes_on(ask.client, ask.prompt_ids),
        )
        self._clientele.note(ask.client, asked)

    def _has_system(self, ids: Sequence[int]) -> bool:
        """Return whether a prompt begins as those with a system prompt do, and not as a question
        alone, before which a template may set one of its own.
        """
        return begins(ids, self._system) and not begins(ids, self._plain)


class Talks:
    """Says whether a prompt goes on with the last one of its client. Keeps a digest of that."""

    def __init__(self) -> None:
        self._last: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()

    def goes_on(self, client: bytes, prompt_ids: Sequence[int]) -> bool:
        """Return whether the client's last prompt begins this one, and remember this one."""
        length, digest = self._last.pop(client, (0, b""))
        self._last[client] = (len(prompt_ids), _digest(prompt_ids))
        if len(self._last) > MAX_TALKS:
            self._last.popitem(last=False)
        return 0 < length < len(prompt_ids) and _digest(prompt_ids[:length]) == digest


def begins_as(lays: Lays, role: str) -> list[int]:
    """Return the ids with which all prompts begin whose first turn is of a role; none where the
    base lays none out.
    """
    try:
        one, other = [
            lays.encode_prompt((ChatMessage(role, text), ChatMessage("user", "a")))
            if role == "system"
            else lays.encode_prompt((ChatMessage(role, text),))
            for text in ("a", "1")
        ]
    except BadRequest:
        return []
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [each for each, _ in alike]


def begins(ids: Sequence[int], with_ids: Sequence[int]) -> bool:
    """Return whether ids begin with these, of which there are some."""
    return bool(with_ids) and list(ids[: len(with_ids)]) == list(with_ids)


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(b"".join(one.to_bytes(4, "big") for one in ids)).digest()
