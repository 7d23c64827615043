"""Speaks to real daemons with spoilt conversations, over every protocol and topic that they serve,
and over what lies below streams; and sees that they answer an honest peer meanwhile.

    raw socket: spoilt negotiation, Noise, WebSocket        Yamux: spoilt frames, sealed well
    stream: spoilt messages, cut in pieces, closed, reset or left       topic: signed, then spoilt
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import msgspec
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
from libp2p.utils.varint import encode_uvarint

from node.wire import infer, quote
from p2p.blocks import limits
from p2p.errors import P2pError
from p2p.host import Host, NetworkConfig, open_host
from p2p.identity import Identity
from p2p.streams import _LIBRARY_ERRORS
from p2p.wire import encode_frame
from tests.golden.talks import GREEDY
from tests.node.forked import forked_python

from .decoders import DECODERS, LIBRARY, Decoder, delimited, upgrades, yamux
from .mutate import Form, spoil

HONEST_S = 2.0  # within which an honest peer is answered, whatever else goes on
SETTLE_S = 60.0  # within which everything of those that left is gone
UP_S = 60.0
MAX_GROWN_MB = 96
STRANGERS = 3  # for each daemon, each with so many conversations at once
AT_ONCE = 5
READ_S = 0.05
HELLO = b"\x13/multistream/1.0.0\n\x07/noise\n"
_GONE = (*_LIBRARY_ERRORS, BaseLibp2pError, P2pError, trio.TooSlowError, trio.BrokenResourceError)


class Broken(Exception):
    """A daemon did what it must not. `seed` gives the conversation again, where it was one."""


@dataclass
class Target:
    """The process with the daemons."""

    process: subprocess.Popen[str]
    daemons: list[dict[str, Any]] = field(default_factory=list)

    async def _line(self) -> Any:
        assert self.process.stdout is not None
        with trio.fail_after(UP_S):
            line = await trio.to_thread.run_sync(
                self.process.stdout.readline, abandon_on_cancel=True
            )
        if not line:
            raise Broken(f"the daemons' process has ended ({self.process.wait()})")
        return json.loads(line)

    async def count(self) -> dict[str, int]:
        """What the process holds now."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, int] = await self._line()
        return found


@asynccontextmanager
async def open_target(folder: Path, *, with_chain: bool = False) -> AsyncIterator[Target]:
    """Daemons in a process of their own; what they log is in `target.log`."""
    with (folder / "target.log").open("w") as log:
        process = _start(folder / "lab", ["chain"] * with_chain, log)
        try:
            target = Target(process)
            target.daemons = await target._line()
            yield target
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(process.communicate)


def _start(lab: Path, options: list[str], log: IO[str]) -> subprocess.Popen[str]:
    command = [forked_python(), "-m", "tests.fuzz.target", str(lab), *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True)


# --- conversations ---


@cache
def conversations(protocol: str, base: str) -> tuple[list[bytes], Form]:
    """Valid messages of a protocol, and what they are."""
    if protocol in LIBRARY:
        return delimited(*LIBRARY[protocol]()) or [bytes(32)], "delimited"
    known = carried(protocol)
    made = [data for decoder in known for data in valid(decoder.name)]
    if protocol == infer.PROTOCOL and base:
        made += 6 * [good_ask(bytes.fromhex(base)), begin()]
    return made, known[0].form


def carried(name: str) -> list[Decoder]:
    """The decoders of what a protocol or topic carries."""
    return [one for one in DECODERS if name in one.carried_by and one.name != "frames"]


@cache
def valid(name: str) -> list[bytes]:
    """Valid messages for a decoder; to make them takes a while."""
    return next(one for one in DECODERS if one.name == name).valid()


def good_ask(base: bytes) -> bytes:
    """A question that the daemon answers, so that what follows it is heard."""
    seed = bytes(32)
    asked = infer.Ask(
        version=infer.VERSION,
        base=base,
        adapter=bytes(32),
        cocktail=b"",
        prompt_ids=[3, 4, 5],
        max_tokens=4,
        terms=GREEDY,
        logprobs=None,
        stop_ids=[],
        seed_commitment=hashlib.sha256(seed).digest(),
        client=bytes(20),
        channel=None,
        resumed=None,
        attributed=False,
    )
    return infer.encode(asked)


def begin() -> bytes:
    """The acceptance of an offer that asks for nothing."""
    return infer.encode(infer.Begin(bytes(32), bytes(16), None))


@dataclass
class Attack:
    """One attacker's work on one daemon. `num` counts what was tried, by kind."""

    host: Host
    daemon: dict[str, Any]
    seed: int
    num: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._peer = ID.from_base58(self.daemon["peer_id"])

    async def run(self) -> None:
        """Talk until cancelled."""
        kinds: list[Callable[[random.Random], Any]] = [
            *[self._stream] * 24,
            *[self._topic] * 8,
            *[self._socket] * 4,
            self._yamux,
        ]
        while True:
            rng = random.Random(self._draw.getrandbits(48))
            kind = rng.choice(kinds)
            with suppress(*_GONE), trio.move_on_after(3):
                await self.host.connect(self.daemon["addresses"][0], 3)
                await kind(rng)
            self.num[kind.__name__.strip("_")] += 1
            await trio.lowlevel.checkpoint()

    async def _stream(self, rng: random.Random) -> None:
        """Open a stream, say some spoilt messages, and end it in some way."""
        protocol = rng.choice(self.daemon["protocols"])
        seeds, form = conversations(protocol, self.daemon["base"])
        stream = await self.host._library.new_stream(self._peer, [protocol])
        try:
            for _ in range(rng.choice((0, 1, 1, 2, 4))):
                is_whole = rng.random() < 0.4
                data = rng.choice(seeds) if is_whole else spoil(rng, seeds, form)
                if protocol.startswith("/lorikeet/") and "/kad/" not in protocol:
                    data = frame(rng, data)
                await stream.write(data[: 1 << 17])
                with trio.move_on_after(READ_S):
                    await stream.read(1 << 16)
        finally:
            await leave(rng, stream)

    async def _topic(self, rng: random.Random) -> None:
        """Gossip: a message that is signed well and says something spoilt, or one spoilt whole."""
        topic = rng.choice(self.daemon["topics"])
        decoder = rng.choice(carried(topic.rpartition("/")[2]))
        payload = spoil(rng, valid(decoder.name), decoder.form)[:70_000]
        rpc = rpc_pb2.RPC(publish=[signed(rng, topic, payload)]).SerializeToString()
        if rng.random() < 0.3:
            rpc = spoil(rng, [rpc], "protobuf")
        stream = await self.host._library.new_stream(self._peer, ["/meshsub/1.2.0"])
        try:
            await stream.write(encode_uvarint(len(rpc)) + rpc)
        finally:
            await leave(rng, stream)

    async def _socket(self, rng: random.Random) -> None:
        """A raw socket: negotiation, Noise or a WebSocket, spoilt."""
        parts = rng.choice(self.daemon["addresses"]).split("/")
        seeds = [HELLO, HELLO + bytes(34), *upgrades()]
        async with await trio.open_tcp_stream(parts[2], int(parts[4])) as stream:
            await stream.send_all(spoil(rng, seeds, "bytes")[: 1 << 16])
            with trio.move_on_after(rng.choice((0.0, READ_S))):
                await stream.receive_some(1000)

    async def _yamux(self, rng: random.Random) -> None:
        """Yamux frames as no honest muxer sends them, well sealed, over an own connection."""
        async with open_host(Identity.generate(), NetworkConfig(listen=(), relay=None)) as other:
            await other.connect(self.daemon["addresses"][0], 3)
            (connection,) = other._swarm.get_connections()
            session = connection.muxed_conn.secured_conn  # type: ignore[attr-defined]
            for _ in range(20):
                if session.is_busy:
                    return
                session.send_now(spoil(rng, yamux(), "bytes")[: 1 << 14] or b"\0")
                await trio.lowlevel.checkpoint()


def frame(rng: random.Random, data: bytes) -> bytes:
    """Put a message into a frame, mostly of its true length."""
    whole = encode_frame(data[: 1 << 20])
    if rng.random() < 0.9:
        return whole
    return rng.choice((0, 1, 2**20, 2**20 + 1, 2**32 - 1)).to_bytes(4, "big") + data


async def leave(rng: random.Random, stream: Any) -> None:
    """End a stream: properly, by a reset, or not at all."""
    way = rng.random()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1), suppress(*_GONE):
        if way < 0.4:
            await stream.close()
        elif way < 0.95:
            await stream.reset()


def signed(rng: random.Random, topic: str, data: bytes) -> rpc_pb2.Message:
    """A message whose publisher signed it."""
    keys = create_new_key_pair(bytes([1 + rng.randrange(200)]) * 32)
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=ID.from_pubkey(keys.public_key).to_bytes(),
        seqno=rng.randbytes(8),
    )
    message.signature = keys.private_key.sign(
        PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    )
    return message


# --- the honest peer ---


async def is_answered(honest: Host, daemon: dict[str, Any]) -> str | None:
    """Ask a daemon what it must answer; say what is wrong with it, None: nothing."""
    asks: list[tuple[str, bytes, Callable[[bytes], bool]]] = [
        (limits.PROTOCOL, bytes(32), lambda answer: answer == limits.ABSENT)
    ]
    if daemon["base"]:
        base = bytes.fromhex(daemon["base"])
        wish = quote.AskQuote(base, bytes(32), [], 3, 4, prompt_price=0, completion_price=0)
        asks.append((infer.PROTOCOL, good_ask(base), _is_offer))
        asks.append((quote.PROTOCOL, quote.encode(wish), _is_quote))
    for protocol, said, holds in asks:
        try:
            with trio.fail_after(HONEST_S):
                async with honest.open_stream(daemon["peer_id"], protocol, HONEST_S) as stream:
                    await stream.send(said, HONEST_S)
                    answer = await stream.receive(HONEST_S)
        except (P2pError, trio.TooSlowError) as error:
            return f"{daemon['name']} does not answer on {protocol}: {error!r}"
        if not holds(answer):
            return f"{daemon['name']} answers on {protocol}: {answer[:100]!r}"
    return None


def _is_offer(answer: bytes) -> bool:
    return isinstance(infer.decode_from_node(answer), infer.Offer)


def _is_quote(answer: bytes) -> bool:
    return bool(msgspec.msgpack.decode(answer)[0] in ("Quote", "NoQuote"))


async def attack(target: Target, seconds: float, seed: int) -> Counter[str]:
    """Speak to all daemons for so long; raise Broken for what they must not do. An honest peer
    asks all the time, and when it is over nothing of the attackers may be left.
    """
    num: Counter[str] = Counter()
    async with open_host(Identity.generate(), NetworkConfig(relay=None)) as honest:
        for daemon in target.daemons:
            await honest.connect(daemon["addresses"][0], 60)
            await _until_answered(honest, daemon)
        before = await _settled(target)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for number in range(STRANGERS * len(target.daemons)):
                    daemon = target.daemons[number % len(target.daemons)]
                    nursery.start_soon(_attack_as_stranger, daemon, seed + number, num)
                while True:
                    await trio.sleep(1.0)
                    await target.count()
        for daemon in target.daemons:
            wrong = await is_answered(honest, daemon)
            if wrong is not None:
                raise Broken(f"seed {seed}: after the attack {wrong}")
        await _until_as_before(target, before, seed)
    return num


async def _attack_as_stranger(daemon: dict[str, Any], seed: int, num: Counter[str]) -> None:
    """Attack under ever new identities."""
    draw = random.Random(seed)
    while True:
        config = NetworkConfig(listen=(), relay=None, port_mapping=False)
        async with open_host(Identity.generate(), config) as host:
            with trio.move_on_after(draw.choice((3, 6, 12))):
                async with trio.open_nursery() as nursery:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(Attack(host, daemon, draw.getrandbits(40), num).run)


async def _until_answered(honest: Host, daemon: dict[str, Any]) -> None:
    with trio.fail_after(UP_S):
        while await is_answered(honest, daemon) is not None:  # noqa: ASYNC110  # asks it
            await trio.sleep(0.2)


async def _settled(target: Target) -> dict[str, int]:
    """What is held once that no longer changes."""
    last = await target.count()
    with trio.move_on_after(SETTLE_S):
        while True:
            await trio.sleep(1.0)
            now = await target.count()
            if all(now[name] == last[name] for name in ("tasks", "descriptors", "streams")):
                return now
            last = now
    return last


async def _until_as_before(target: Target, before: dict[str, int], seed: int) -> None:
    """Wait until nothing of the attackers is left. Raises Broken."""
    slack = {"tasks": 3, "descriptors": 4, "peers": 0, "streams": 2, "judging": 0}
    slack |= {"inbound": 0, "resident_mb": MAX_GROWN_MB}
    over: dict[str, str] = {}
    with trio.move_on_after(SETTLE_S):
        while True:
            now = await target.count()
            over = {
                name: f"{before[name]} → {now[name]}"
                for name, more in slack.items()
                if now[name] > before[name] + more
            }
            if not over:
                return
            await trio.sleep(0.5)
    raise Broken(
        f"seed {seed}: {SETTLE_S:.0f} s after the attack there is more than before: {over}"
    )
