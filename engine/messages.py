"""The engine's border: every message that crosses the socket between a daemon and its engine
process.

Frames are a 4-byte big-endian length and one MessagePack array, whose first element is the
message's name. Imports no torch, so that the daemon can. Token ids are ints in [0, vocab_size); an
adapter is the 32-byte digest of its manifest; times are in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_FRAME_BYTES = 4 << 20
MAX_ADAPTER_CONFIG_BYTES = 256 << 10  # what the engine parses; so nothing larger is published
MAX_ADAPTER_WEIGHTS_BYTES = 2 << 30  # what nodes fetch; so nothing larger is served either
MAX_STOP_IDS = 16  # as the infer protocol carries
MAX_LOGPROBS = 20
MAX_REPLAYED_LOGPROBS = 200_000  # of all tokens together, each with the likeliest beside it
MAX_MIXED = 8  # adapters in a cocktail
MAX_MIX_WEIGHT = 2.0
TOKEN_IDS = 1 << 24  # no vocabulary has more
MAX_TEMPERATURE = 100.0
MAX_PENALTY = 100.0
MAX_BIAS = 100.0
MAX_BIASES = 1024
MAX_GRAMMAR_CHARS = 32 << 10
MAX_VECTOR_BYTES = 1 << 20

FinishReason = Literal["stop", "length", "cancelled"]
FailureCode = Literal["bad_request", "unknown_adapter", "busy", "deadline", "internal"]
Residency = Literal["slot", "memory", "disk", "absent"]
"""Where an adapter's bytes are: in a slot or on their way into one; in host memory; in their files;
nowhere that this engine knows.
"""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """What all messages share: an immutable, tagged array."""


class Grammar(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What every answer must match; `text` is a JSON schema, an expression in Rust's syntax, or a
    grammar in llguidance's dialect of Lark.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: Annotated[str, Meta(max_length=MAX_GRAMMAR_CHARS)]


class Choosing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How tokens are to be chosen, and within which bounds; docs/protocols/sampling.md has the
    order in which these apply.

    `temperature` 0 is greedy; the others do nothing at their defaults. `logit_bias` adds to the
    logits of some ids, each once and ascending; penalties other than `repetition_penalty` count
    only tokens of the answer. The infer protocol carries these fields in this order.
    """

    temperature: Annotated[float, Meta(ge=0.0, le=MAX_TEMPERATURE)] = 0.0
    top_k: Annotated[int, Meta(ge=0, lt=TOKEN_IDS)] = 0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=MAX_PENALTY)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-MAX_PENALTY, le=MAX_PENALTY)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-MAX_PENALTY, le=MAX_PENALTY)] = 0.0
    logit_bias: Annotated[
        list[
            tuple[
                Annotated[int, Meta(ge=0, lt=TOKEN_IDS)],
                Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)],
            ]
        ],
        Meta(max_length=MAX_BIASES),
    ] = []
    grammar: Grammar | None = None


class ChoosingError(ValueError):
    """A term of choosing lies outside its bounds: `field` is which, the message names both."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def choosing_from(terms: Mapping[str, object]) -> Choosing:
    """Build the terms from values by name, the others at their defaults; raises ChoosingError."""
    checked = {
        field.name: _check_term(field, terms[field.name])
        for field in msgspec.structs.fields(Choosing)
        if field.name in terms
    }
    choosing = Choosing(**checked)
    if not all(one < other for (one, _), (other, _) in pairwise(choosing.logit_bias)):
        raise ChoosingError("logit_bias", "logit_bias must name each id once, in ascending order")
    return choosing


def check_choosing(choosing: Choosing) -> Choosing:
    """Give the same terms with every number of its own type; raises ChoosingError."""
    return choosing_from(msgspec.structs.asdict(choosing))


def _check_term(field: msgspec.structs.FieldInfo, value: object) -> Any:
    try:
        return msgspec.convert(msgspec.to_builtins(value), field.type)
    except msgspec.ValidationError as error:
        raise ChoosingError(field.name, _complaint(field, value, error)) from None


def _complaint(
    field: msgspec.structs.FieldInfo, value: object, error: msgspec.ValidationError
) -> str:
    match value:
        case int() | float():
            return f"{field.name} is {value}; it must be {_range(*field.type.__metadata__)}"
        case list() if len(value) > MAX_BIASES:
            return f"{field.name} names {len(value)} ids; the limit is {MAX_BIASES}"
        case list():
            return (
                f"{field.name} must pair ids from 0 to {TOKEN_IDS - 1} with numbers from"
                f" {-MAX_BIAS:g} to {MAX_BIAS:g}: {error}"
            )
        case Grammar(text=str(text)) if len(text) > MAX_GRAMMAR_CHARS:
            return f"{field.name} has {len(text)} characters; the limit is {MAX_GRAMMAR_CHARS}"
        case Grammar(kind=kind):
            return f"{field.name} is of kind {kind!r}; it must be json_schema, regex or lark"
        case _:
            return f"{field.name}: {error}"


def _range(bounds: Meta) -> str:
    lowest = f"above {bounds.gt:g}" if bounds.gt is not None else f"at least {bounds.ge:g}"
    return f"{lowest} and " + (
        f"below {bounds.lt}" if bounds.lt is not None else f"at most {bounds.le:g}"
    )


class Sampling(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How to choose tokens, and the 32 bytes of `seed` that make the choice repeatable."""

    seed: bytes
    choosing: Choosing = Choosing()


# --- daemon to engine ---


class Submit(Message, frozen=True, array_like=True):
    """Start one request.

    `request_id` is the daemon's and unique among running requests; `adapter` None is the bare base.

    At most `credit` tokens are produced until a `Grant` raises it (pay as it streams); at most
    `max_tokens` in all. Generation ends after any id of `stop_ids` (the id is included) or at
    `max_tokens`. `priority`: higher goes first for places and prompt tokens; `deadline_ms` after
    arrival it fails instead of going on (0: never). `logprobs`: how many of the likeliest ids to
    report beside each token (None: no log-probabilities at all). `num_answered`: so many of the
    last `prompt_ids` are the answer's own beginning, which another engine made; penalties and
    grammar go on from there.
    """

    request_id: int
    prompt_ids: list[int]
    adapter: bytes | None
    sampling: Sampling
    max_tokens: int
    credit: int
    stop_ids: list[int]
    priority: int = 0
    deadline_ms: int = 0
    logprobs: int | None = None
    num_answered: int = 0


class Grant(Message, frozen=True, array_like=True):
    """Raise a request's total credit to `credit` tokens (never lowers it).

    Unknown requests are ignored: they may just have ended.
    """

    request_id: int
    credit: int


class Cancel(Message, frozen=True, array_like=True):
    """Stop a request and free what it holds.

    Answered by `Finished(reason="cancelled")`, unless it ended before.
    """

    request_id: int


class HoldAdapter(Message, frozen=True, array_like=True):
    """Make an adapter servable from verified files on disk.

    Answered by `AdapterHeld` or `AdapterRefused`.
    """

    adapter: bytes
    config_path: str
    weights_path: str


class ParentFiles(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One adapter of a cocktail: its verified files, how much of it, and what errors call it."""

    config_path: str
    weights_path: str
    weight: Annotated[float, msgspec.Meta(ge=-MAX_MIX_WEIGHT, le=MAX_MIX_WEIGHT)]
    name: str


class HoldCocktail(Message, frozen=True, array_like=True):
    """Make several adapters servable as one, in the order of the parents. Answered as
    `HoldAdapter`.
    """

    adapter: bytes
    parents: Annotated[list[ParentFiles], msgspec.Meta(min_length=1, max_length=MAX_MIXED)]


class ReleaseAdapter(Message, frozen=True, array_like=True):
    """Forget an adapter once no request uses it. Not answered."""

    adapter: bytes


class Replay(Message, frozen=True, array_like=True):
    """Score an answer with one prefill: how far each answered token was from winning.

    `logprobs`: how many of the likeliest ids to report beside each (None: no log-probabilities).
    Answered by `Replayed` or `Failed`.
    """

    request_id: int
    prompt_ids: list[int]
    answer_ids: list[int]
    adapter: bytes | None
    sampling: Sampling
    logprobs: int | None = None


class Embed(Message, frozen=True, array_like=True):
    """Compute the last hidden state of a prompt's last token. Answered by `Embedded` or `Failed`;
    `Cancel` ends it.
    """

    request_id: int
    prompt_ids: list[int]
    adapter: bytes | None


class Vocabulary(Message, frozen=True, array_like=True):
    """Where to read what token ids spell, which grammars need: a tokenizer.json; `stop_ids` end an
    answer. Not answered.
    """

    tokenizer_path: str
    stop_ids: list[int]


class GetStats(Message, frozen=True, array_like=True):
    """Ask for `Stats`."""


class Locate(Message, frozen=True, array_like=True):
    """Ask where an adapter's bytes are. Answered by `Located`."""

    adapter: bytes


ToEngine = (
    Submit
    | Grant
    | Cancel
    | HoldAdapter
    | HoldCocktail
    | ReleaseAdapter
    | Replay
    | Embed
    | Vocabulary
    | GetStats
    | Locate
)


# --- engine to daemon ---


class Ready(Message, frozen=True, array_like=True):
    """First message of an engine: the base is loaded.

    `base` is the sha-256 of the weights file; `threads` CPU threads, 0 where the engine knows of
    none; `dtype` the number format as receipts carry it (build.py), behind another engine's
    name and a slash.
    """

    base: bytes
    dtype: str
    vocab_size: int
    max_context_tokens: int
    kv_pages: int
    page_tokens: int
    threads: int
    load_ms: float


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Natural logarithms of the model's own probabilities, before anything in `Sampling`: the
    token's, and the likeliest ids' from the top.
    """

    logprob: float
    top: list[tuple[int, float]]


class Tokens(Message, frozen=True, array_like=True):
    """The next tokens of a request, in order.

    `step` is the engine's step number; `logprobs` is empty unless asked for.
    """

    request_id: int
    token_ids: list[int]
    step: int
    logprobs: list[TokenLogprobs] = []


class Finished(Message, frozen=True, array_like=True):
    """A request ended well.

    `reason`: "stop" (a stop id, or the grammar is fulfilled), "length" (max_tokens or context
    full), "cancelled".

    `queue_ms` waited for a place, `load_ms` waited for its adapter, `prefill_ms` spent in steps
    that processed its prompt, `decode_ms` from first to last token. `neighbours`: the most distinct
    adapters (the bare base counts as one) that sat in one step with it. `cached_tokens` of the
    prompt were taken from the prefix cache.
    """

    request_id: int
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    load_ms: float
    prefill_ms: float
    decode_ms: float
    neighbours: int
    cached_tokens: int = 0

    @property
    def timings_ms(self) -> dict[str, float]:
        """Give the time of each part of the answer by its name."""
        return {
            "queue": self.queue_ms,
            "load": self.load_ms,
            "prefill": self.prefill_ms,
            "decode": self.decode_ms,
        }


class Failed(Message, frozen=True, array_like=True):
    """A request ended badly.

    `message` says what to mend.
    """

    request_id: int
    code: FailureCode
    message: str


class AdapterHeld(Message, frozen=True, array_like=True):
    """The adapter's tensors were checked and packed; `rank` is the largest among its modules."""

    adapter: bytes
    size_bytes: int
    rank: int
    load_ms: float


class AdapterRefused(Message, frozen=True, array_like=True):
    """The adapter cannot be served; `message` names the tensor or field and the mend.

    Unasked where the files of a held one broke or changed.
    """

    adapter: bytes
    message: str


class Located(Message, frozen=True, array_like=True):
    """Where an adapter's bytes are now."""

    adapter: bytes
    residency: Residency


class Replayed(Message, frozen=True, array_like=True):
    """Per answered token: by how much its perturbed score missed the winner's (0.0 = it won), in
    logits; and its log-probabilities, where they were asked for.
    """

    request_id: int
    margins: list[float]
    logprobs: list[TokenLogprobs] = []


class Embedded(Message, frozen=True, array_like=True):
    """What the head would read for a prompt's last token, behind the last norm: [hidden] float32,
    little-endian. Its length is the model's own; nothing is normalised.
    """

    request_id: int
    vector: Annotated[bytes, Meta(max_length=MAX_VECTOR_BYTES)]


class StepRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who sat together in one step. `adapters` distinct, in batch order, None for the bare base."""

    step: int
    adapters: list[bytes | None]
    prefill_tokens: int
    decode_tokens: int
    step_ms: float


class MemoryUse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the engine's memory is used for, in bytes: of its process, or of the device that
    computes (whose total counts what others take meanwhile).

    `base_bytes`: what loading the base left. `adapter_bytes`: packed adapters, wherever they sit.
    `kv_bytes`: pages that were ever written, since they stay. `process_bytes`: what was taken
    before the base came. `work_bytes`: all else: scratch, requests, holes between allocations.
    """

    place: Literal["processor", "device"]
    base_bytes: int
    adapter_bytes: int
    kv_bytes: int
    work_bytes: int
    process_bytes: int
    total_bytes: int


class Stats(Message, frozen=True, array_like=True):
    """A snapshot; `steps` are the most recent ones, oldest first, at most 256.

    Of `tokens_drafted` by speculation, `tokens_accepted` were right. `adapters_loaded` counts how
    often an adapter came into a slot, `adapters_evicted` how often one left for another. `memory`
    is None where the engine cannot say.
    """

    running: int
    waiting: int
    kv_pages_free: int
    kv_pages: int
    adapters_held: list[bytes]
    adapters_ready: list[bytes]
    tokens_generated: int
    max_adapters_in_one_step: int
    steps: list[StepRecord]
    tokens_drafted: int = 0
    tokens_accepted: int = 0
    adapters_loaded: int = 0
    adapters_evicted: int = 0
    memory: MemoryUse | None = None


class BaseRefused(Message, frozen=True, array_like=True):
    """Instead of `Ready`: this base cannot be served, and another try would fail alike."""

    reason: str


FromEngine = (
    Ready
    | BaseRefused
    | Tokens
    | Finished
    | Failed
    | AdapterHeld
    | AdapterRefused
    | Located
    | Replayed
    | Embedded
    | Stats
)
