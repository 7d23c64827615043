"""In-memory twins of what the catalogue speaks to: the DHT, the topics, a source of bytes, an
engine; and small signed adapters.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from engine import messages as m
from node.catalogue.about import ABOUT_FILE, Announcement, make_announcement
from node.catalogue.announcements import TOPIC
from node.catalogue.fetching import Pulled
from node.catalogue.packaging import CONFIG_FILE, WEIGHTS_FILE, BaseIdentity
from node.engine_link import Files
from node.errors import AdapterError, NoProvider
from p2p.blocks.store import BlockStore
from p2p.cid import Cid
from p2p.errors import P2pError, PeerTimeout, StaleName
from p2p.gossip import GossipMessage, Validate, Verdict
from p2p.identity import Identity
from p2p.names import NameRecord, check_date, newest
from proofs.manifest import File, Manifest, build_manifest, parse_manifest
from proofs.signing import Signer

BASE = BaseIdentity(b"b" * 32, b"t" * 32, b"c" * 32)
READY = m.Ready(BASE.base, "f", 1, 1, kv_pages=1, page_tokens=1, threads=1, load_ms=0.0)


@dataclass
class TwinRecords:
    """A DHT that keeps what it is told. `fails` has every call time out."""

    names: dict[tuple[str, str], NameRecord] = field(default_factory=dict)
    provided: list[Cid] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    fails: bool = False
    refuses: P2pError | None = None

    async def find_name(self, owner: str, name: str, deadline_s: float) -> NameRecord | None:
        self.asked.append((owner, name))
        await self._go()
        return self.names.get((owner, name))

    def learn_name(self, record: NameRecord) -> bool:
        known = self.names.get((record.owner, record.name))
        if known is not None and newest([known, record]) == 0:
            return False
        self.names[record.owner, record.name] = record
        return True

    async def put_name(self, record: NameRecord) -> int:
        await self._go()
        if self.refuses is not None:
            raise self.refuses
        check_date(record, time.time())
        known = self.names.get((record.owner, record.name))
        if known is not None and known != record and newest([record, known]) == 1:
            raise StaleName("it is known at a higher sequence", known.sequence)
        self.names[record.owner, record.name] = record
        return 1

    async def provide(self, cid: Cid) -> bool:
        await self._go()
        self.provided.append(cid)
        return True

    async def _go(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise PeerTimeout("nobody answered")


@dataclass
class TwinTopics:
    """One node's topics: `said` and `names_said` are what it published; `bring` is a message from
    outside.
    """

    said: list[bytes] = field(default_factory=list)
    names_said: list[bytes] = field(default_factory=list)
    _topics: dict[str, tuple[Validate, trio.MemorySendChannel[GossipMessage]]] = field(
        default_factory=dict
    )

    async def publish(self, topic: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        (self.said if topic == TOPIC else self.names_said).append(data)

    async def subscribe(
        self, topic: str, validate: Validate
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        await trio.lowlevel.checkpoint()
        send, receive = trio.open_memory_channel[GossipMessage](100)
        self._topics[topic] = (validate, send)
        return receive

    def bring(self, data: bytes, from_peer: str, topic: str = TOPIC) -> Verdict:
        validate, send = self._topics[topic]
        verdict = validate(data, from_peer)
        assert isinstance(verdict, Verdict)
        if verdict is Verdict.ACCEPT:
            send.send_nowait(GossipMessage(data, from_peer))
        return verdict


@dataclass
class TwinSource:
    """Gives what is in its store, or else in another node's; a manifest or a block that is in
    neither nobody provides. `gates` hold back files, by their names.
    """

    store: BlockStore
    remote: BlockStore | None = None
    files_fetched: list[str] = field(default_factory=list)
    num_fetched: int = 0
    gate: trio.Event | None = None
    gates: dict[str, trio.Event] = field(default_factory=dict)

    async def fetch_manifest(self, cid: Cid) -> Pulled:
        await trio.lowlevel.checkpoint()
        self.num_fetched += 1
        if self.gate is not None:
            await self.gate.wait()
        data = self.store.get(cid)
        if data is not None:
            return Pulled(cid, parse_manifest(data))
        data = self.remote.get(cid) if self.remote is not None else None
        if data is None:
            raise NoProvider(f"no node provides {cid}")
        self.store.put(data)
        return Pulled(cid, parse_manifest(data), fetched={cid})

    async def fetch_blocks(self, pulled: Pulled, files: Sequence[File]) -> None:
        await trio.lowlevel.checkpoint()
        for file in files:
            if file.name in self.gates:
                await self.gates[file.name].wait()
        self.files_fetched += [file.name for file in files]
        assert pulled.draft is not None
        if self.remote is not None:
            for cid in [Cid(digest) for file in files for digest, _ in file.blocks]:
                if not pulled.draft.has(cid) and (data := self.remote.get(cid)) is not None:
                    pulled.draft.put(data)


@dataclass
class TwinEngine:
    """Serves what it is given, but for adapters it was told to refuse."""

    refuses: set[bytes] = field(default_factory=set)
    served: dict[bytes, Files] = field(default_factory=dict)

    async def wait_up(self) -> m.Ready:
        await trio.lowlevel.checkpoint()
        return READY

    async def load(self, files: Files) -> m.AdapterHeld:
        await trio.lowlevel.checkpoint()
        if files.adapter in self.refuses:
            raise AdapterError("the engine refused the adapter: x.weight")
        self.served[files.adapter] = files
        return m.AdapterHeld(files.adapter, 10, 4, 2.5)

    def serves(self, adapter: bytes) -> bool:
        return adapter in self.served

    def release(self, adapter: bytes) -> None:
        self.served.pop(adapter, None)


def put_adapter(
    store: BlockStore,
    creator: Identity,
    name: str,
    *,
    base: bytes = BASE.base,
    files: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE),
    size_bytes: int | None = None,
    about: bytes | None = None,
    version: str = "1",
) -> tuple[Cid, Manifest]:
    """Store an adapter of tiny files, each cut into two blocks, and its manifest."""
    listed = []
    for file in files:
        blocks = [f"{name} {file} {part}".encode() for part in ("one", "two")]
        if file == CONFIG_FILE:
            blocks = [config_of(name), b"}"]
        refs = [(store.put(block).digest, len(block)) for block in blocks]
        listed.append(File(file, sum(size for _, size in refs), refs))
    if size_bytes is not None:
        block = bytes(1 << 20)
        refs = [(store.put(block).digest, len(block))] * (size_bytes >> 20)
        listed[-1] = File(files[-1], len(block) * len(refs), refs)
    if about is not None:
        listed.append(File(ABOUT_FILE, len(about), [(store.put(about).digest, len(about))]))
    data = build_manifest(
        Signer(creator.secret),
        name=name,
        adapter_version=version,
        base=base,
        tokenizer_hash=BASE.tokenizer_hash,
        template_hash=BASE.template_hash,
        licence="CC0",
        source="",
        created_at=1,
        contributors=[],
        files=listed,
    )
    return store.put(data), parse_manifest(data)


def announce(
    folder: Path, creator: Identity, name: str, about: bytes | None = None
) -> Announcement:
    """What is announced of a new small adapter."""
    store = BlockStore(folder / "blocks")
    cid, _ = put_adapter(store, creator, name, about=about)
    data = store.get(cid)
    assert data is not None
    return make_announcement(data, about)


def config_of(name: str) -> bytes:
    """An adapter's configuration, but for its last byte."""
    return b'{"peft_type": "LORA", "revision": "%s"' % name.encode()


def make_folder(folder: Path, name: str) -> Path:
    """A PEFT folder that can be signed; its weights are no tensors."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_bytes(msgspec.json.encode({"peft_type": "LORA"}))
    (folder / WEIGHTS_FILE).write_bytes(name.encode() * 100)
    (folder / "lorikeet.toml").write_text(f'name = "{name}"\nlicence = "CC0"\n')
    return folder
