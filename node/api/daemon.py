"""Declares what the faces (HTTP, command line, test network) may ask of a daemon, and what they get
back.

Decides nothing and does not know how anything is done.

Everything here is immutable and made of plain values, so a face can be tested against a twin of
`Daemon`, and the daemon without a face. Identities are text at this border: a CID ("bafkrei…"), a
peer id ("16Uiu2…"), an address ("0x…"). Amounts are integers in the fee token's smallest unit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import trio

from .adapters import (
    AdapterInfo,
    ArrivingInfo,
    FoundInfo,
    HeldInfo,
    PullReport,
    PushTold,
    SearchRequest,
    ShownInfo,
    VersionInfo,
)
from .answers import CompletionEvent, CompletionRequest, EmbeddingAnswer, EmbeddingRequest
from .datanets import Datanets
from .doctor import Checked
from .governance import GovernanceInfo, SimulationInfo
from .money import ChannelInfo, EarningsInfo, ReceiptInfo, StuckInfo, WhyInfo
from .status import BannedInfo, BaseInfo, FilesInfo, LogInfo, PeerInfo, StatusInfo, WebInfo
from .traces import Trace
from .training import Training
from .verifying import AttestationInfo, AuditInfo, AuditSaid, RecheckInfo, VerifyInfo


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

    async def report(self) -> str:
        """Write what others need who are to help, without what names a person, a machine or a peer:
        what `lorikeet bugreport` prints.
        """

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

    async def simulate(self, number: str) -> SimulationInfo:
        """Tell what a proposal would have made of all past epochs, by its number in decimals.
        Cancelling this ends the computation.
        """

    async def earnings(self) -> list[EarningsInfo]:
        """List what this node's owner (and, at an aggregator, everybody) has earned."""

    async def stuck(self) -> list[StuckInfo]:
        """List what was earned here and is not paid yet, each with what it waits for."""
