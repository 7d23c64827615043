"""Reads what vLLM says: pieces of answers, lists of models, errors, figures. Bytes to values.

Read against vLLM 0.32: vllm/entrypoints/scale_out/token_in_token_out/protocol.py (answers),
vllm/entrypoints/openai/models/protocol.py (models), its /metrics page.
"""

from __future__ import annotations

import math
import re

import msgspec

from .errors import ServerBroke

MAX_MESSAGE_CHARS = 600
UNREADABLE = (msgspec.MsgspecError, UnicodeError)


class Likely(msgspec.Struct, frozen=True):
    """One id and the logarithm of its probability."""

    token_id: int
    logprob: float


class Drawn(Likely, frozen=True):
    """A drawn token's, and the likeliest ids beside it; vLLM puts the drawn one among them."""

    top_logprobs: list[Likely] = []


class Logprobs(msgspec.Struct, frozen=True):
    """One for each token."""

    content: list[Drawn] | None = None


class Choice(msgspec.Struct, frozen=True):
    """The next tokens; `finish_reason` stands in the last."""

    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Details(msgspec.Struct, frozen=True):
    """What vLLM says where it runs with --enable-prompt-tokens-details."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Counts at the end of a piece."""

    prompt_tokens_details: Details | None = None


class Fault(msgspec.Struct, frozen=True):
    """What went wrong, in words."""

    message: str = ""


class Piece(msgspec.Struct, frozen=True):
    """One event of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Fault | None = None


class Model(msgspec.Struct, frozen=True):
    """What is served under a name: the base, or with a `parent` an adapter; `root` is its path."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class Models(msgspec.Struct, frozen=True):
    """Everything that is served."""

    data: list[Model]


class Refusal(msgspec.Struct, frozen=True):
    """The body of an error."""

    error: Fault = Fault()


class Figures(msgspec.Struct, frozen=True):
    """What the page of figures says of keys and values; `used` is a part of 1."""

    pages: int = 0
    page_tokens: int = 16
    used: float = 0.0

    @property
    def pages_free(self) -> int:
        """Return how many pages nobody has."""
        return self.pages - math.ceil(self.used * self.pages)


_pieces = msgspec.json.Decoder(Piece)
_models = msgspec.json.Decoder(Models)
_refusals = msgspec.json.Decoder(Refusal)


def read_event(line: bytes) -> Piece | None:
    """Read one line of a stream of events; None for one that says nothing, or the last.

    Raises ServerBroke.
    """
    if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
        return None
    try:
        return _pieces.decode(line[5:])
    except UNREADABLE as error:
        raise ServerBroke(f"vLLM sent what is no piece of an answer: {error}") from error


def read_models(body: bytes) -> list[Model]:
    """Read /v1/models. Raises ServerBroke."""
    try:
        return _models.decode(body).data
    except UNREADABLE as error:
        raise ServerBroke(f"vLLM's list of models cannot be read: {error}") from error


def read_refusal(body: bytes) -> str:
    """Read the words of an error, as far as there are any."""
    try:
        said = _refusals.decode(body).error.message
    except UNREADABLE:
        said = body.decode(errors="replace")
    return " ".join(said.split())[:MAX_MESSAGE_CHARS]


def read_figures(page: str) -> Figures:
    """Read /metrics; what is not said there stays at its default."""
    info = re.search(r"^vllm:cache_config_info\{([^}]*)\}", page, re.MULTILINE)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', info[1])) if info else {}
    used = re.search(r"^vllm:kv_cache_usage_perc\{[^}]*\} (\S+)$", page, re.MULTILINE)
    return Figures(
        pages=_whole(labels.get("num_gpu_blocks", ""), 0),
        page_tokens=_whole(labels.get("block_size", ""), 16),
        used=min(1.0, max(0.0, _part(used[1]))) if used else 0.0,
    )


def _whole(text: str, otherwise: int) -> int:
    return int(text) if re.fullmatch(r"\d{1,12}", text) else otherwise


def _part(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
