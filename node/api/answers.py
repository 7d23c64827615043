"""What is asked of a model, and what comes back while it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.messages import Choosing

from .traces import TraceContext

EndReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolChoice:
    """Whether an answer calls tools: it may, it must not, it must.

    With `only`, it may or must call that one. Without `is_parallel` it calls one at most.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    only: str = ""
    is_parallel: bool = True


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote in an earlier answer; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatMessage:
    """One turn: `role` is "system", "user", "assistant" or "tool".

    `tool_calls` are an assistant's beside its text; what came of the call `tool_call_id` is a turn
    of the role "tool".
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt that is given as the base's own token ids."""

    token_ids: tuple[int, ...]


Prompt = str | tuple[ChatMessage, ...] | TokenPrompt
"""Raw text, chat turns (the base's template is applied to them) or token ids."""


@dataclass(frozen=True)
class CompletionRequest:
    """One question.

    `choosing` is how its tokens are chosen; `logprobs` is how many likely tokens to report beside
    each. `model` is "base", "name", "name@version", "peerid/name", a CID, several of them with
    weights ("law:0.7+verse:0.3") or "auto". `node` names the peer that must answer; None lets the
    router choose. `seed` makes the client's half of the seed reproducible; None draws it at
    random.

    `max_tokens` None lets the answer run to the end of its text or of what fits; more than fits is
    cut, and `Ended` tells to what. `tools` need chat turns, and so do `template_options`, which the
    base's template finds under their names; a grammar in `choosing` binds what is no call. With
    `echo` the first `Delta` is the prompt, with its log-probabilities where `logprobs` are asked
    for, which a node's own engine alone computes; `max_tokens` may be 0 then. A `private` answer
    tells nobody whose text it drew on, and is not remembered here. `trace`: in which trace its
    steps are noted, None for one of its own.
    """

    model: str
    prompt: Prompt
    max_tokens: int | None = None
    choosing: Choosing = field(default_factory=Choosing)
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    node: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    template_options: Mapping[str, Any] = field(default_factory=dict)
    echo: bool = False
    private: bool = False
    trace: TraceContext | None = None


@dataclass(frozen=True)
class MixedIn:
    """One adapter of a cocktail, and how much of it is in."""

    name: str
    cid: str
    weight: float


AUTO = "auto"
"""The model that is chosen by the prompt."""


@dataclass(frozen=True)
class Scored:
    """An adapter, or the base, and how well it fits a prompt, 0 to 1."""

    model: str
    cid: str | None
    score: float


@dataclass(frozen=True)
class Chosen:
    """Which adapter `auto` chose for a prompt, and what came next."""

    model: Scored
    runner_up: Scored | None


@dataclass(frozen=True)
class Started:
    """A node took the request.

    `cid` is None for the bare base; a cocktail has `parents`. `timings_ms` holds what is known so
    far ("lookup", "connect", …). `prompt_tokens` is what `Ended` has too. `chosen` tells
    what `auto` came to.
    """

    served_by: str
    model: str
    cid: str | None
    timings_ms: Mapping[str, float]
    prompt_tokens: int = 0
    parents: tuple[MixedIn, ...] = ()
    chosen: Chosen | None = None


@dataclass(frozen=True)
class LikelyToken:
    """A token and the natural logarithm of the model's own probability for it.

    `data` is what it spells; `text` as far as that is UTF-8. `logprob` is None for a prompt's first
    token, which nothing foretells.
    """

    text: str
    data: bytes
    logprob: float | None


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of the answer, and the likeliest ones in its place, highest first."""

    token: LikelyToken
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True)
class Delta:
    """More of the answer, in order.

    `text` may be empty while a character is incomplete; `logprobs` is empty unless asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class CallDelta:
    """More of a call that the answer makes, beside its text or instead of it.

    `index` counts the calls of one answer from 0. The first part of each call has its `id` and
    `name`; `arguments`, joined, are JSON text.
    """

    index: int
    arguments: str
    id: str = ""
    name: str = ""


@dataclass(frozen=True)
class Continued:
    """The node that answered was lost, and another one goes on where it stopped.

    The text is the one that an unbroken answer would have been. `after_tokens`: how many were there
    already.
    """

    served_by: str
    after_tokens: int
    reason: str


@dataclass(frozen=True)
class Ended:
    """The answer is complete.

    `amount` and `receipt` are the last node's. What an earlier node is owed for its part of an
    answer that went on elsewhere, its own receipt says, on the next visit there.

    `receipt` is the hex sha-256 of the receipt's body, None when nothing was paid (one's own
    engine).

    `timings_ms` has, where it applies: lookup, quote, connect, fetch, verify, load, queue, prefill,
    first_token, total; resume is the longest time without a token because a node was lost.
    `neighbours`: the most distinct adapters that shared one engine step with
    this request. `max_tokens`: how many tokens the answer could have had, where that is less than
    what was asked for, or nothing was said; a face tells of calls by the `CallDelta`s that came.
    `stop_text`: which of the request's stop texts ended it, empty where none did.
    `not_enforced`: places in the schema that no grammar follows, as "#/properties/a/uniqueItems".
    """

    reason: EndReason
    prompt_tokens: int
    completion_tokens: int
    amount: int
    receipt: str | None
    timings_ms: Mapping[str, float]
    neighbours: int
    max_tokens: int | None = None
    stop_text: str = ""
    not_enforced: tuple[str, ...] = ()


CompletionEvent = Started | Delta | CallDelta | Continued | Ended


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts, or token ids of the base, to embed. `model` is as in `CompletionRequest`.

    `dimensions`: so many of each vector's first numbers are wanted, None for all.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None


@dataclass(frozen=True)
class EmbeddingAnswer:
    """One vector of length 1 for each input, in order, as little-endian float32.

    `cid` is None for the bare base; `prompt_tokens` counts all inputs together.
    """

    served_by: str
    model: str
    cid: str | None
    vectors: tuple[bytes, ...]
    prompt_tokens: int
    timings_ms: Mapping[str, float]
