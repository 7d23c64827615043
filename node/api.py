"""Declares what the faces (HTTP, command line, test network) may ask of a daemon, and what they get
back.

Decides nothing and does not know how anything is done.

Everything here is immutable and made of plain values, so a face can be tested against a twin of
`Daemon`, and the daemon without a face. Identities are text at this border: a CID ("bafkrei…"), a
peer id ("16Uiu2…"), an address ("0x…"). Amounts are integers in the fee token's smallest unit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import trio

from engine.messages import Choosing

from .datanet_api import Datanets, PathSaid
from .doctor_api import Checked
from .governance_api import GovernanceInfo
from .trace_api import Trace, TraceContext
from .training_api import Training

EndReason = Literal["stop", "length", "cancelled"]
AdapterState = Literal["held", "ready", "known"]
"""Its bytes are here; it is in the engine; it was heard of on the network."""
FoundState = Literal["fits", "doubtful", "refused", "base", "other"]
"""An adapter for this base; one that names another base, of the same shape; one that cannot be
served here; a base; something else.
"""
Weighs = Literal["own", "named", "stranger"]
WhyHeld = Literal["published", "pulled", "asked", "ahead", "mixed"]
"""It was published here; this operator wants it; a stranger asked for it; it was fetched before
anybody asked for it here, since many want it and few hold it.
"""
ChannelState = Literal["open", "empty", "withdrawing", "closed", "dead"]
"""Pays; has nothing in it; its money is on the way back; pays no more; holds less than is owed."""
ReceiptState = Literal["queued", "promised", "included", "final"]
PartOfReceipt = Literal["node", "client"]
Obstacle = Literal[
    "signature", "claim", "aggregator", "refused", "epoch", "window", "exit", "payout", "dead"
]
"""What unpaid money waits for: the client's signature; its voucher to be claimed; the aggregator's
promise; nothing, for the aggregator refuses it for good; a posted header; the end of the challenge
window; the channel's own way out; the claim of a payout; nothing, for the channel holds less than
is owed.
"""


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


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter that this daemon knows.

    `providers`: how many peers say that they hold it, this one included; at most 8 others are
    counted, 0 when nobody answered in time. `version`: what stands behind the name's @. `note`:
    what was done to it while it was published. `weights`, told by who publishes: the digest of what
    it adds, in hex (docs/protocols/registry.md).
    """

    name: str
    cid: str
    creator: str
    state: AdapterState
    size_bytes: int
    licence: str
    providers: int = 0
    version: str = ""
    description: str = ""
    languages: tuple[str, ...] = ()
    base: str = ""
    note: str = ""
    weights: str = ""


@dataclass(frozen=True)
class AlikeInfo:
    """A held adapter that adds nearly the same to the base.

    `cosine` of all that the two add; `least` of the modules that both change, which are `modules`;
    `strength`: how much more the adapter that was asked for adds than this one.
    """

    name: str
    cid: str
    creator: str
    cosine: float = 0.0
    least: float = 0.0
    modules: int = 0
    strength: float = 0.0


@dataclass(frozen=True)
class RegisteredInfo:
    """What the registry says of an adapter's weights; addresses and digests are 0x text.

    `is_theirs`: the manifest is signed by whom they are registered to.
    """

    creator: str
    owner: str
    block: int
    at: int
    royalty_bps: int
    manifest: str
    parents: tuple[str, ...]
    is_theirs: bool


@dataclass(frozen=True)
class ShownInfo:
    """One adapter, looked at closely.

    `weights` and `weights_half` are its weights' digests in hex, empty where it has none, and
    `why_none` why; `has_registry`: a registry was asked.
    """

    adapter: AdapterInfo
    weights: str = ""
    weights_half: str = ""
    why_none: str = ""
    has_registry: bool = False
    registered: RegisteredInfo | None = None
    alike: tuple[AlikeInfo, ...] = ()


@dataclass(frozen=True)
class HeldInfo:
    """One adapter that is held here. `used_at`: when it was wanted last, or came here, in Unix
    seconds.
    """

    name: str
    cid: str
    version: str
    size_bytes: int
    why: WhyHeld
    used_at: float | None = None


@dataclass(frozen=True)
class ArrivingInfo:
    """One adapter on its way here; `done_bytes` of its files are on this disk."""

    name: str
    cid: str
    size_bytes: int
    done_bytes: int


@dataclass(frozen=True)
class LogInfo:
    """The latest lines of a daemon's log; `first` is the number of the first, counted from its
    start.
    """

    first: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class PushTold:
    """What a creator says of an adapter beside its folder; what is empty the folder says.

    `without`: contributors (a name, an address) and contributions (the begin of a digest) that are
    withdrawn; the versions before are then withdrawn, too. `register`: its weights are registered
    to the creator first, with `royalty_bps` of what is made of them, and with `parents`, digests in
    hex of the weights that they are made of.
    """

    description: str = ""
    languages: tuple[str, ...] = ()
    licence: str = ""
    name: str = ""
    source: str = ""
    without: tuple[str, ...] = ()
    register: bool = False
    royalty_bps: int = 0
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundInfo:
    """What was found on this disk, in a hub's cache or a folder.

    `name`: under which it would be published, empty where it cannot be. `reason`: why not, or what
    to do with it. `told`: what its card says.
    """

    repo: str
    revision: str
    state: FoundState
    folder: str
    name: str
    size_bytes: int
    reason: str
    told: PushTold


@dataclass(frozen=True)
class VersionInfo:
    """One version of a name; `cid` None: it is withdrawn. `is_meant`: the bare name means it."""

    name: str
    cid: str | None
    is_meant: bool
    signed_at: int


@dataclass(frozen=True)
class SearchRequest:
    """What to look for among the adapters known here; what is empty does not matter.

    `base` is the hex digest of a base's weights, or how it begins.
    """

    words: tuple[str, ...] = ()
    language: str = ""
    licence: str = ""
    base: str = ""
    max_size_bytes: int | None = None


@dataclass(frozen=True)
class PeerInfo:
    """One connected peer. `weight` from 0 to 1: less than 1 where replays of its answers spoke
    against it, or what it signed or sent was not so; `against` says what of it. `received_bytes`
    from it and `sent_bytes` to it are counted over all its connections since this daemon began;
    `heard_at`: when something came last, in Unix seconds.
    """

    peer_id: str
    address: str
    roles: tuple[str, ...] = ()
    weight: float = 1.0
    received_bytes: int = 0
    sent_bytes: int = 0
    heard_at: float = 0.0
    against: str = ""


@dataclass(frozen=True)
class BannedInfo:
    """A peer with which this daemon keeps no connection; `since` in Unix seconds."""

    peer_id: str
    why: str
    since: int


@dataclass(frozen=True)
class ReceiptInfo:
    """One receipt in this daemon's ledger; `role` is the part that this node had in it.

    `is_cosigned`: its client signed it too; else the node's signature and the client's voucher
    stand for it. `started_at`: when its answer began, in Unix seconds.
    """

    digest: str
    state: ReceiptState
    role: PartOfReceipt
    adapter: str
    channel: str
    sequence: int
    tokens: int
    amount: int
    counterparty: str
    is_cosigned: bool
    epoch: int | None = None
    started_at: int = 0


Verdict = Literal["agrees", "differs", "unknown"]
"""Whether a receipt says what its answer drew on, as computed again here."""


@dataclass(frozen=True)
class SplitInfo:
    """One party's part of a fee; `role` is node, creator or data."""

    role: str
    address: str
    name: str
    amount: int


@dataclass(frozen=True)
class SourceInfo:
    """Where a text was given: a datanet and the contribution to it, by their digests in hex, its
    title, and which of its documents, from 1.
    """

    datanet: str
    contribution: str
    title: str
    document: int


@dataclass(frozen=True)
class SpanInfo:
    """A run [start, end) of an answer's tokens that stands in somebody's document, and how many
    bits it was more than anybody would write. Contributions and documents count from 0, in the
    adapter's own text; `source` None: the adapter does not say where it was given.
    """

    start: int
    end: int
    text: str
    contributor: str
    contribution: int
    document: int
    bits: float
    source: SourceInfo | None = None


@dataclass(frozen=True)
class CreditedInfo:
    """One contributor: the bits drawn on his text (None: not computed here), his part of what was
    drawn in ten-thousandths, and his standing weight.
    """

    name: str
    address: str
    bits: float | None
    drawn: int
    weight: int


@dataclass(frozen=True)
class QualityInfo:
    """What an adapter's creator measured of its attribution, with 95 % intervals."""

    r: float
    r_interval: tuple[float, ...]
    lds: float
    lds_interval: tuple[float, ...]
    answers: int


@dataclass(frozen=True)
class AttributedInfo:
    """What an answer drew on of one adapter; `known_bits` of it anybody would have written."""

    adapter: str
    cid: str
    lambda_eighths: int
    contributors: list[CreditedInfo]
    spans: list[SpanInfo]
    known_bits: float | None
    quality: QualityInfo | None


@dataclass(frozen=True)
class WhyInfo:
    """One receipt explained. `text` None: its tokens are not remembered here."""

    receipt: str
    verdict: Verdict
    reason: str
    tokens: int
    text: str | None
    fee: int
    split: list[SplitInfo]
    adapters: list[AttributedInfo]


@dataclass(frozen=True)
class VerifyInfo:
    """One bought answer, replayed here: did the adapter of its receipt make it?

    `node` is the address of whoever signed the receipt; `adapter` a CID, empty for the bare base.
    `missed` of `tokens` did not win; `score` is by how many logits a token missed on average, of
    which `limit` would be allowed (0 where nothing was compared). `formats`: the number format of
    the answer, and of the replay. `fits_base`: where the adapter did not make it, whether the bare
    base did. `attestation`: this, signed, in hex (docs/protocols/attestation.md). Of an answer
    that somebody showed, `auditor` is his public key in hex and `attested` what he said of it.
    """

    receipt: str
    verdict: Verdict
    reason: str
    node: str
    adapter: str
    tokens: int
    missed: int = 0
    score: float = 0.0
    limit: float = 0.0
    is_calibrated: bool = False
    formats: tuple[str, ...] = ()
    fits_base: bool | None = None
    attestation: str = ""
    auditor: str = ""
    attested: str = ""


@dataclass(frozen=True)
class AuditSaid:
    """An audit that is wanted: of which node (a peer id), with which model, so many questions
    within so many seconds, drawn from the prompts in a file (one a line, absolute path; empty:
    HOME/prompts).
    """

    node: str
    model: str = "base"
    canaries: int = 8
    within_s: float = 60.0
    prompts: PathSaid = ""


@dataclass(frozen=True)
class AuditInfo:
    """What an audit found: each canary's answer, replayed. `verdict` is "differs" where one of them
    differs, "agrees" where at least one could be judged, else "unknown"; `failures` says why
    canaries got no answer. `commitment` was told before; `report` is the file that opens it;
    `spent` in the fee token's smallest unit; `weight` what the node counts now, and `against` what
    speaks against it.
    """

    node: str
    adapter: str
    verdict: Verdict
    answers: tuple[VerifyInfo, ...]
    failures: tuple[str, ...]
    commitment: str
    report: str
    spent: int
    weight: float
    against: str = ""


@dataclass(frozen=True)
class RecheckInfo:
    """Somebody's audit, recomputed here: of so many canaries so many were answered, and those
    answers, replayed. `pledged_at` is when its pledge was heard here, in Unix seconds; None where
    it was not, or after the first answer.
    """

    auditor: str
    node: str
    adapter: str
    commitment: str
    pledged_at: float | None
    canaries: int
    verdict: Verdict
    answers: tuple[VerifyInfo, ...]


@dataclass(frozen=True)
class AttestationInfo:
    """One verifier's signed verdict on one answer, made or heard here.

    `auditor` is a public key in hex; `weighs` what its word is worth here: "own", "named" (as a
    replay of one's own) or "stranger" (it has the node's next answers replayed). `judged_at` in
    Unix seconds; all else as VerifyInfo has it.
    """

    receipt: str
    outcome: str
    node: str
    adapter: str
    tokens: int
    missed: int
    score: float
    limit: float
    judged_at: int
    auditor: str
    weighs: Weighs


@dataclass(frozen=True)
class EarningsInfo:
    """The amounts that an address has been credited (posted cumulative payout), has claimed, and
    holds on the chain.
    """

    address: str
    credited: int
    claimed: int
    balance: int


@dataclass(frozen=True)
class StuckInfo:
    """Money that was earned here and is not paid yet, and what it waits for.

    `unit` is a receipt's digest, a channel's id or an account, whichever waits. `amount`: a
    receipt's fee, which all its shares are paid of; what a channel lacks; what an account is due.
    `until`: when the wait ends, in Unix seconds, where that is known.
    """

    unit: str
    channel: str | None
    amount: int
    waits_for: Obstacle
    detail: str
    until: int | None = None


@dataclass(frozen=True)
class ChannelInfo:
    """One payment channel; `role` is this daemon's part in it, `counterparty` the other's address.

    `balance`: what was put in and not paid back. `spent`: what receipts cost. `vouched`: what was
    promised, cumulative like `spent`. `claimed`: what the node took on the chain. `reserved`: for
    answers without a receipt. `free`: what is left. `available_at`: when a withdrawal ends, in Unix
    seconds.
    """

    channel: str
    role: PartOfReceipt
    counterparty: str
    state: ChannelState
    balance: int
    spent: int
    vouched: int
    claimed: int
    reserved: int
    free: int
    available_at: int | None = None


@dataclass(frozen=True)
class FileInfo:
    """One file of an adapter, on this disk; `sha256` in hex, of the whole."""

    name: str
    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class FilesInfo:
    """An adapter, or a base, whose files are here; `digest` is its manifest's, in hex, or that of
    the base's index; `cid` its manifest's or its card's.
    """

    name: str
    cid: str
    digest: str
    creator: str
    licence: str
    files: tuple[FileInfo, ...]
    is_base: bool = False


BaseOrigin = Literal["installation", "base_path", "network"]
"""It came with the installation; the operator named its path; other nodes gave it."""


@dataclass(frozen=True)
class BaseInfo:
    """The base of a daemon.

    `path`: its weights, empty where only its tokenizer is here. `card`: the CID of what describes
    it, signed by the peer `signer`; empty where there is none. `waits_for`: what it still waits
    for; empty: nothing.
    """

    name: str
    digest: str
    origin: BaseOrigin
    path: str
    card: str
    signer: str
    format: str
    licence: str
    source: str
    size_bytes: int
    num_files: int
    waits_for: str


@dataclass(frozen=True)
class PullReport:
    """How an adapter was obtained, and how long each part took.

    `blocks_by_peer` counts verified blocks; `rejected` lists (peer, cid, reason) for each bad one.
    """

    name: str
    cid: str
    size_bytes: int
    lookup_ms: float
    fetch_ms: float
    verify_ms: float
    load_ms: float
    blocks_by_peer: Mapping[str, int]
    rejected: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class CoinInfo:
    """In what amounts are, in whose smallest unit they are counted: the fee token's symbol, empty
    where nothing is paid, and its decimals.
    """

    symbol: str = ""
    decimals: int = 6


@dataclass(frozen=True)
class StatusInfo:
    """A snapshot of the daemon.

    `engine` is the engine's own figures as plain values (None when this node has none), `reach` how
    others reach it.

    `base`: the base's name and digest; `base_card` the CID of its card, `base_from` where it came
    from, `waits_for` what it waits for, each empty where there is nothing to say.

    `sells_at`: where strangers buy over HTTP. `page_at`: where everybody's browser finds this
    node's page, empty where it has none or only web_listen says where. `rejections`: the latest
    false claims by peers, oldest first: (what, peer id, reason).
    """

    peer_id: str
    address: str
    role: str
    network: str
    base: str
    addresses: tuple[str, ...]
    num_peers: int
    uptime_s: float
    engine: Mapping[str, object] | None
    settlement: Mapping[str, object] | None
    counters: Mapping[str, int] = field(default_factory=dict)
    rejections: tuple[tuple[str, str, str], ...] = ()
    reach: Mapping[str, object] = field(default_factory=dict)
    hub_origin: str = ""
    sells_at: str = ""
    page_at: str = ""
    base_card: str = ""
    base_from: str = ""
    waits_for: str = ""
    coin: CoinInfo = CoinInfo()


@dataclass(frozen=True)
class OfferedInfo:
    """An adapter that a stranger's browser may be shown; `creator` is a peer id."""

    name: str
    creator: str
    licence: str
    description: str


@dataclass(frozen=True)
class PolicyInfo:
    """How fees are divided under a version of the network's parameters: parts in basis points, the
    least fee for each share, and how many eighths follow what an answer drew on, at most.
    """

    version: int
    node_bps: int
    creator_bps: int
    least_fee: int
    most_lambda: int


@dataclass(frozen=True)
class PaidInInfo:
    """In what a network's answers are paid: the chain, addresses of contracts in hex, the domain in
    which the token's transfers are signed, the least deposit that this node relays, and how a fee
    may be divided now.
    """

    chain_id: int
    settlement: str
    token: str
    channels: str
    token_name: str
    token_version: str
    min_deposit: int
    policies: tuple[PolicyInfo, ...]


@dataclass(frozen=True)
class WebInfo:
    """What a browser is told so that it can ask this network by itself.

    `base` is a digest in hex, `base_card` a CID, both empty where there is no base; `paid_in` None:
    nothing is paid. `publishers`: whose adapters go by their bare name.
    """

    peer_id: str
    network: str
    base: str
    base_card: str
    publishers: tuple[str, ...]
    adapters: tuple[OfferedInfo, ...]
    paid_in: PaidInInfo | None


class Daemon(Protocol):
    """A running node.

    Every coroutine raises `node.errors.NodeError` (or a subclass) whose message says how to fix it.
    """

    def complete(
        self, request: CompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CompletionEvent]]:
        """Answer one request; leaving the block early cancels it everywhere."""

    async def count_tokens(self, request: CompletionRequest) -> int:
        """Count the tokens of a request's prompt, its tools among them; nothing is computed."""

    async def embed(self, request: EmbeddingRequest) -> EmbeddingAnswer:
        """Embed texts, on this node's own engine alone; cancelling this cancels it there."""

    @property
    def datanets(self) -> Datanets:
        """Return what this daemon does in datanets."""

    @property
    def training(self) -> Training:
        """Return what this daemon does in training."""

    async def status(self) -> StatusInfo:
        """Describe this node now."""

    async def metrics(self) -> bytes:
        """What this node measures of itself, in Prometheus' text format."""

    def log(self) -> LogInfo:
        """Return the latest lines of the log."""

    def traces(self) -> list[Trace]:
        """Return what became of the latest requests, the newest first."""

    def trace(self, which: str) -> Trace:
        """Return the trace with that id, or of the receipt with that digest. Raises NotHere."""

    async def checkup(self) -> list[Checked]:
        """Look whether every part works, and say the mend of what does not."""

    async def adapters(self) -> list[AdapterInfo]:
        """List every adapter that is held here or has been heard of."""

    def held(self) -> list[HeldInfo]:
        """List the adapters that are held here, and why each is."""

    def arriving(self) -> list[ArrivingInfo]:
        """List the adapters that are being fetched, and how far each is."""

    def peers(self) -> list[PeerInfo]:
        """List the connected peers."""

    def banned(self) -> list[BannedInfo]:
        """List the peers that the operator banned, the latest first."""

    async def ban(self, peer_id: str, why: str) -> list[BannedInfo]:
        """Hang up on a peer and refuse it, also after a restart. Returns all that are banned."""

    def unban(self, peer_id: str) -> list[BannedInfo]:
        """Let a banned peer come back. Returns those that still are banned."""

    async def web(self) -> WebInfo:
        """Say what a browser needs to ask this network by itself."""

    async def take_websocket(self, below: trio.abc.Stream, remote: tuple[str, int]) -> None:
        """Serve a connection that asks for a WebSocket as a peer's, until it ends; closes it."""

    async def pull(self, model: str) -> PullReport:
        """Fetch, verify, load and advertise an adapter. It stays until `unpin`. Cancelled, what
        came is kept, and the next pull goes on there.
        """

    async def unpin(self, model: str) -> AdapterInfo:
        """Let an adapter that was pulled make room for others, once the place is needed."""

    async def show(self, model: str) -> ShownInfo:
        """Look at an adapter closely, fetching it unless it is here: its weights' digest, to whom
        the registry gives them, and which held adapters are nearly the same.
        """

    async def files(self, model: str, commit: str | None = None) -> FilesInfo:
        """Fetch and verify an adapter unless it is here, and say where its files lie. It makes room
        for others once the place is needed.

        With `commit`, the first digits of a manifest's digest in hex, the adapter of that name
        which has it, if that is known; else what the name means. A base is called "base", its
        card's name, PEER/NAME, its digest or its card's CID.
        """

    def waits_for(self) -> str:
        """Say what this daemon waits for before it can answer; empty where it waits for nothing."""

    def base(self) -> BaseInfo:
        """Describe the base, as far as it is here."""

    def base_card(self) -> bytes:
        """Return the base's signed card."""

    async def push(
        self,
        folder: Path,
        key: Path | None = None,
        told: PushTold | None = None,
        *,
        in_place: bool = False,
    ) -> AdapterInfo:
        """Publish a PEFT folder: adapter_config.json, adapter_model.safetensors, and a
        lorikeet.toml with name, version, licence, source, description, languages and contributors.

        `key` is the creator's key file, created when there is none; None means this node's own key.
        What is `told` wins over the folder. With `in_place`, its files are served where they lie
        and not copied.
        """

    async def find_on_disk(self, path: Path) -> list[FoundInfo]:
        """List the adapters and bases in a hub's cache, or the adapter in a PEFT folder."""

    async def search(self, wanted: SearchRequest) -> list[AdapterInfo]:
        """List the adapters heard of that match, the best first."""

    async def versions(self, name: str) -> list[VersionInfo]:
        """List the versions of NAME (this node's own) or OWNER/NAME, the oldest first."""

    async def roll_back(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        """Have NAME mean NAME@VERSION again. Returns all versions."""

    async def retract(self, version: str, key: Path | None = None) -> list[VersionInfo]:
        """Withdraw NAME@VERSION: nobody takes new requests for it. Returns all versions."""

    async def receipts(self) -> list[ReceiptInfo]:
        """List this daemon's receipts, newest first."""

    async def receipt(self, digest: str) -> bytes:
        """Return the signed receipt with that body digest (hex)."""

    async def why(self, digest: str) -> WhyInfo:
        """Explain on whose text the answer of a receipt drew, and how its fee was split."""

    async def verify_answer(self, digest: str, *, opened: bool = False) -> VerifyInfo:
        """Replay the answer of a receipt, which this daemon bought: did its adapter make it? Where
        `opened`, the attestation shows question and answer, so that others can replay it.
        """

    async def recompute(self, attestation: bytes) -> VerifyInfo:
        """Replay the answer that an opened attestation shows, and weigh what comes out."""

    async def audit(self, said: AuditSaid) -> AuditInfo:
        """Buy answers of a node as any client would, replay them, and weigh what comes out."""

    async def recheck(self, report: Path) -> RecheckInfo:
        """Replay the answers that the report of somebody's audit shows, a file on this machine."""

    def attestations(self) -> list[AttestationInfo]:
        """List the attestations that were made or heard here, the newest first."""

    async def channels(self) -> list[ChannelInfo]:
        """The payment channels that this daemon pays from, and those that pay it."""

    async def withdraw(self, channel: str | None) -> list[ChannelInfo]:
        """Take back what is free in a channel that this daemon pays from (its id in hex; None: in
        all of them). It comes once the channel's delay is over.
        """

    async def block(self, digest: str) -> bytes:
        """A block that is here: a batch, a manifest, a piece of an adapter; by the hex sha-256 of
        its bytes.
        """

    async def governance(self) -> GovernanceInfo:
        """Tell what the network's people decided and decide, as the chain says now."""

    async def earnings(self) -> list[EarningsInfo]:
        """List what this node's owner (and, at an aggregator, everybody) has earned."""

    async def stuck(self) -> list[StuckInfo]:
        """List what was earned here and is not paid yet, each with what it waits for."""
