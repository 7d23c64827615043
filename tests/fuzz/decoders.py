"""Every decoder of bytes from a peer: what it reads, what it raises, and valid messages to begin
from.

The one registry: a protocol id or topic that has no entry here fails `test_decoders.py`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.host.autonat.pb import autonat_pb2
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.kad_dht.pb.kademlia_pb2 import Message, Record
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.pubsub.pb import rpc_pb2
from libp2p.relay.circuit_v2.pb import circuit_pb2, dcutr_pb2
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr

from engine.errors import BadAdapter
from engine.lora.adapter import read_header
from engine.lora.adapter_config import parse_config
from factory.intake import Broken, read_report
from factory.intake.sketches import share_in
from node.catalogue.about import ABOUT_FILE, make_announcement, parse_announcement
from node.errors import ConfigError
from node.invite import read_invite, write_invite
from node.money.delivering import read_promised
from node.wire import attestation, datanet, infer, quote, receipts, replay, witness
from p2p.addresses import parse_address, split_peer
from p2p.blocks import limits
from p2p.cid import Cid
from p2p.errors import InvalidCid, InvalidInput, P2pError
from p2p.identity import public_key_of
from p2p.lookup import messages as lookup
from p2p.names import decode_name, encode_name
from p2p.queries import _named, _Reader
from p2p.reach.dialback import _text
from p2p.reach.mdns import read_neighbour
from p2p.reach.messages import read_message
from p2p.transport.frames import BadFrame, FrameReader, encode_header
from p2p.transport.noise import Opener, Sealer
from p2p.websocket.handshake import accept, ask
from p2p.wire import FrameDecoder, encode_frame
from proofs.attestation.pledge import (
    Canary,
    Plan,
    Report,
    make_pledge,
    parse_pledge,
    parse_report,
)
from proofs.attestation.record import parse_attestation
from proofs.attribution.listing import read_listing
from proofs.attribution.tokens import read_tokens
from proofs.batch import decode_batch, recompute
from proofs.cocktail import parse_cocktail
from proofs.codec import encode
from proofs.datanet.entries import parse_entry, parse_registration
from proofs.datanet.invite import read_token, write_token
from proofs.envelope import decode_envelope, open_envelope
from proofs.epoch import decode_header
from proofs.errors import DatanetError, ProofError
from proofs.manifest import File, build_manifest, parse_manifest
from proofs.promise import make_promise
from proofs.receipt import decode_body, decode_receipt, verify_receipt
from proofs.state import EpochState
from tests.golden import other
from tests.golden.receipts import DEADLINE, POLICIES
from tests.golden.world import AGGREGATOR, CREATOR, NETWORK

from .mutate import Form
from .shapes import drawn

PEER = "16Uiu2HAkxQejjoQXVe1j66eTYBtUhuK3SddDqwYmKZu57mvJFeMZ"
ADDRESS = f"/ip4/192.0.2.1/tcp/4101/p2p/{PEER}"
SCHEMA_ERRORS = (msgspec.MsgspecError, UnicodeError)


@dataclass(frozen=True)
class Decoder:
    """How bytes of a kind are read. `read` may be a coroutine; `write` gives the bytes back where
    there is one form only. `carried_by` names the protocol ids and topics that bring them.
    """

    name: str
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    valid: Callable[[], list[bytes]]
    form: Form = "bytes"
    write: Callable[[Any], bytes] | None = None
    carried_by: tuple[str, ...] = ()


class Said:
    """A stream on which a peer has said these bytes and no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, n: int | None = None) -> bytes:
        """The next bytes; StreamEOF at the end."""
        if not self._data:
            raise StreamEOF("all was said")
        taken = self._data[:n]
        self._data = self._data[len(taken) :]
        return taken


# --- valid messages ---


@cache
def golden(name: str) -> Any:
    """A file of golden vectors."""
    return other.load(name)


def talked(sender: str) -> list[bytes]:
    """Every message of the infer protocol that one side says in the golden conversations."""
    talks = golden("infer")["talks"]
    messages = [message for talk in talks for message in talk["messages"]]
    return [other.unhex(one["hex"]) for one in messages if one["from"] == sender]


def delivery() -> list[bytes]:
    """The golden delivery: what a node hands over, what the aggregator says."""
    return [other.unhex(one["hex"]) for one in golden("infer")["delivery"]["messages"]]


def promised() -> list[bytes]:
    """What goes over the topic of promises."""
    made = []
    for one in golden("receipt")["receipts"]:
        receipt = verify_receipt(decode_receipt(other.unhex(one["signed"])), NETWORK)
        promise = make_promise(AGGREGATOR, receipt, DEADLINE, NETWORK)
        found = receipts.Promised(other.unhex(one["envelope"]), promise)
        made.append(msgspec.msgpack.encode(found))
    return made


def replay_asked() -> replay.AskReplay:
    """A golden answer, shown to a second node."""
    shown = parse_attestation(other.unhex(golden("attestation")["accept"][1]["hex"]), NETWORK)
    assert shown.opening is not None
    return replay.AskReplay(shown.body, shown.node_signature, shown.opening, bytes(32))


def plan_of_audit() -> Plan:
    """A plan of one question."""
    return Plan(
        2,
        bytes(20),
        bytes(32),
        bytes(32),
        "Be brief.",
        canaries=(Canary(9, "why?", 64, 700, 1_000, follows=False),),
        salt=bytes(32),
    )


def cocktail() -> bytes:
    """The golden cocktail."""
    return other.unhex(golden("cocktail")["cocktail"])


def texts(name: str) -> bytes:
    """A golden text of token ids."""
    return other.unhex(golden("ladder")[name])


def manifest() -> bytes:
    """The golden manifest."""
    return other.unhex(golden("manifest")["manifest"])


def kademlia() -> list[Message]:
    """One message of each kind, with peers and a record in it."""
    made = []
    for kind in Message.MessageType.values():
        message = Message(type=kind, key=b"/lorikeet/x/law")  # type: ignore[arg-type]
        message.record.CopyFrom(Record(key=message.key, value=name_records()[0]))
        for peers in (message.closerPeers, message.providerPeers):
            peer = peers.add()
            peer.id = bytes(37)
            peer.addrs.append(Multiaddr("/ip4/127.0.0.1/tcp/4101").to_bytes())
        made.append(message)
    return made


@cache
def name_records() -> list[bytes]:
    """Signed names: one that means something, one that is withdrawn, one of a version."""
    from p2p.identity import Identity
    from p2p.names import sign_name

    owner = Identity.from_secret(bytes(range(1, 33)))
    named = (("law", 7, Cid.of(b"a manifest")), ("a", 0, None), ("law@2", 2**64 - 1, Cid.of(b"x")))
    return [encode_name(sign_name(owner, *one)) for one in named]


def delimited(*messages: Any) -> list[bytes]:
    """Protobuf messages behind their lengths."""
    made = [message.SerializeToString() for message in messages]
    return [encode_uvarint(len(data)) + data for data in made]


def circuits() -> list[Any]:
    """What is said to a relay."""
    peer = circuit_pb2.PeerId(id=bytes(37))
    reservation = circuit_pb2.Reservation(expire=1, addrs=[b"\x04\x7f\0\0\1\x06\x10\x05"])
    limit = circuit_pb2.Limit(duration=1, data=1)
    kinds = circuit_pb2.HopMessage
    return [
        kinds(type=kinds.RESERVE),
        kinds(type=kinds.CONNECT, peer=peer),
        kinds(type=kinds.STATUS, status=100, reservation=reservation, limit=limit),  # type: ignore[arg-type]
    ]


def stops() -> list[Any]:
    """What a relay says to the one that is dialled."""
    kinds = circuit_pb2.StopMessage
    peer = circuit_pb2.PeerId(id=bytes(37))
    return [kinds(type=kinds.CONNECT, peer=peer), kinds(type=kinds.STATUS, status=100)]  # type: ignore[arg-type]


def punches() -> list[Any]:
    """What two that punch a hole say."""
    kinds = dcutr_pb2.HolePunch
    address = Multiaddr("/ip4/45.0.0.31/tcp/4101").to_bytes()
    return [kinds(type=kinds.CONNECT, ObsAddrs=[address]), kinds(type=kinds.SYNC)]


def dial_backs() -> list[Any]:
    """What is asked and answered by AutoNAT."""
    kinds = autonat_pb2.Message
    address = Multiaddr("/ip4/127.0.0.1/tcp/4101").to_bytes()
    info = kinds.PeerInfo(id=bytes(37), addrs=[address])
    answer = kinds.DialResponse(status=kinds.OK, addr=address)
    return [
        kinds(type=kinds.DIAL, dial=kinds.Dial(peer=info)),
        kinds(type=kinds.DIAL_RESPONSE, dialResponse=answer),
    ]


def rpcs(topic: str = "/lorikeet-devnet/t") -> list[rpc_pb2.RPC]:
    """What gossip says: subscriptions, messages, control."""
    message = rpc_pb2.Message(
        from_id=bytes(37), seqno=bytes(8), topicIDs=[topic], data=b"x", signature=bytes(65)
    )
    control = rpc_pb2.ControlMessage()
    control.ihave.add(topicID=topic, messageIDs=[b"1", b"2"])
    control.iwant.add(messageIDs=[b"1"])
    control.graft.add(topicID=topic)
    control.prune.add(topicID=topic, backoff=60)
    control.idontwant.add(messageIDs=[b"1"])
    subscription = rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic)
    return [
        rpc_pb2.RPC(subscriptions=[subscription]),
        rpc_pb2.RPC(publish=[message, message]),
        rpc_pb2.RPC(control=control),
    ]


def identities() -> list[Identify]:
    """What identify says."""
    address = Multiaddr("/ip4/127.0.0.1/tcp/4101").to_bytes()
    return [
        Identify(
            protocol_version="ipfs/0.1.0",
            agent_version="x",
            public_key=bytes(37),
            listen_addrs=[address],
            observed_addr=address,
            protocols=["/ipfs/ping/1.0.0", "/lorikeet/blocks/1"],
            signedPeerRecord=bytes(100),
        )
    ]


def configs() -> list[bytes]:
    """adapter_config.json in some of its forms."""
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 16.0, "target_modules": ["q_proj"]}
    more = {
        "bias": "all",
        "use_rslora": True,
        "rank_pattern": {"layers.0": 4},
        "alpha_pattern": {"layers.1": 2.5},
        "modules_to_save": ["lm_head"],
        "trainable_token_indices": {"embed_tokens": [1, 2]},
    }
    return [msgspec.json.encode(one) for one in (plain, plain | more)]


def tensors() -> list[bytes]:
    """Headers of safetensors files with a tensor or two."""
    made = []
    for shapes in ([(2, 3)], [(1,), (4, 4)]):
        header, at = {}, 0
        for number, shape in enumerate(shapes):
            size = 4
            for length in shape:
                size *= length
            offsets = [at, at + size]
            header[f"t{number}"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
            at += size
        made.append(msgspec.json.encode(header | {"__metadata__": {"format": "pt"}}))
    return made


def weights() -> list[bytes]:
    """The files of these headers."""
    small, large = tensors()
    return [_weights_of(small, 24), _weights_of(large, 4 + 64)]


def _weights_of(header: bytes, num_bytes: int) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(num_bytes)


def frames() -> list[bytes]:
    """Streams of our frames."""
    return [b"".join(map(encode_frame, parts)) for parts in ([b""], [b"one", b"two"], [bytes(999)])]


def yamux() -> list[bytes]:
    """Streams of Yamux frames."""
    opened = encode_header(1, 1, 1, 0) + encode_header(0, 0, 1, 5) + b"hello"
    return [opened, encode_header(2, 1, 0, 7), encode_header(3, 0, 0, 0), opened * 3]


def sealed() -> list[bytes]:
    """Noise messages that are sealed for the reader."""
    return [bytes(Sealer(_cipher()).seal(plain)) for plain in (b"x", bytes(3000), bytes(70_000))]


def upgrades() -> list[bytes]:
    """What a browser and what we ask."""
    asked = (
        b"GET / HTTP/1.1\r\nHost: a.b:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    more = b"X-Forwarded-For: 192.0.2.7, ::1\r\nOrigin: null\r\n\r\n"
    return [asked, asked[:-2] + more, asked + socket_frames()[0]]


def upgraded() -> list[bytes]:
    """What is answered; the key never fits, since it is drawn anew."""
    return [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno",
    ]


def socket_frames() -> list[bytes]:
    """Masked frames: bytes, a ping, several messages."""
    masked = b"\x82\x85" + bytes(4) + b"hello"
    return [masked, b"\x89\x80" + bytes(4) + masked, masked * 3, b"\x82\xfe\x01\0" + bytes(260)]


class Socket(Said):
    """A socket on which somebody has said these bytes."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The next bytes, b"" at the end."""
        return await self.read(max_bytes) if self._data else b""

    async def send_all(self, data: bytes) -> None:
        """Take an answer."""


async def _accept_socket(data: bytes) -> None:
    await accept(Socket(data), ("127.0.0.1", 1))  # type: ignore[arg-type]


async def _ask_socket(data: bytes) -> None:
    await ask(Socket(data), "a.b", None)  # type: ignore[arg-type]


async def _read_socket(data: bytes) -> None:
    below = Socket(upgrades()[0] + data)
    stream = await accept(below, ("127.0.0.1", 1))  # type: ignore[arg-type]
    while await stream.read(1000):
        pass


# --- reading ---


def _cipher() -> Any:
    return SimpleNamespace(n=0, cipher=SimpleNamespace(cipher=ChaCha20Poly1305(bytes(32))))


def _unseal(data: bytes) -> list[bytes]:
    opener = Opener(_cipher())
    opened = opener.open(memoryview(data))
    assert len(opener.rest) <= len(data)
    return opened


def _read_frames(data: bytes) -> list[bytes]:
    decoder = FrameDecoder(1 << 16)
    found = []
    for start in range(0, len(data), 977):
        decoder.feed(data[start : start + 977])
        while (frame := decoder.next_frame()) is not None:
            found.append(frame)
    return found


def _read_yamux(data: bytes) -> int:
    return sum(1 for _ in FrameReader(1 << 20).feed(data))


async def _read_answer(data: bytes) -> None:
    message = await _Reader(Said(data)).message()  # type: ignore[arg-type]
    _named(message.closerPeers)
    _named(message.providerPeers)


async def _agree(data: bytes) -> None:
    await _Reader(Said(data)).agree(b"/lorikeet-devnet/kad/1.0.0\n")  # type: ignore[arg-type]


def _reads(kind: Any) -> Callable[[bytes], Any]:
    async def read(data: bytes) -> None:
        message = await read_message(Said(data), kind, 1.0)  # type: ignore[arg-type]
        if kind is autonat_pb2.Message:
            for address in (*message.dial.peer.addrs, message.dialResponse.addr):
                _text(address)

    return read


def _typed(shape: Any) -> Callable[[bytes], Any]:
    return lambda data: msgspec.msgpack.decode(data, type=shape)


def _text_of(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def _read_weights(data: bytes) -> Any:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(data)
        file.flush()
        return read_header(Path(file.name))


def _announce(page: bytes) -> None:
    """Announce an adapter whose manifest names this page, as its creator may."""
    held = parse_manifest(manifest())
    block = (hashlib.sha256(page).digest(), len(page))
    files = [*held.files, File(ABOUT_FILE, len(page), [block])] if page else held.files
    told = {name: getattr(held, name) for name in held.__struct_fields__}
    for name in ("version", "creator", "signature"):
        del told[name]
    signed = build_manifest(CREATOR, **(told | {"files": files}))
    parse_announcement(msgspec.msgpack.encode((signed, page)))


def _recompute(data: bytes) -> None:
    manifests = {
        bytes.fromhex(key): bytes.fromhex(one) for key, one in golden("batch")["manifests"].items()
    }
    recompute(data, EpochState(NETWORK), manifests, POLICIES)


def _batches() -> list[bytes]:
    return [other.unhex(one["batch"]) for one in golden("batch")["epochs"]]


def _each(field: str) -> Callable[[], list[bytes]]:
    return lambda: [other.unhex(one[field]) for one in golden("receipt")["receipts"]]


KAD = "/lorikeet-devnet/kad/1.0.0"
ADAPTERS, NAMES, PROMISES = "adapters", "names", receipts.TOPIC
_COMMON = (
    datanet.PROTOCOL,
    limits.PROTOCOL,
    infer.PROTOCOL,
    quote.PROTOCOL,
    receipts.PROTOCOL,
    replay.PROTOCOL,
    witness.PROTOCOL,
    lookup.PROTOCOL,
)

DECODERS = [
    Decoder("frames", _read_frames, (InvalidInput,), frames, carried_by=_COMMON),
    Decoder("yamux frames", _read_yamux, (BadFrame,), yamux),
    Decoder("WebSocket, asked for", _accept_socket, (ConnectionClosedError,), upgrades),
    Decoder("WebSocket, answered", _ask_socket, (ConnectionClosedError,), upgraded),
    Decoder("WebSocket frames", _read_socket, (ConnectionClosedError,), socket_frames),
    Decoder("noise messages", _unseal, (ConnectionClosedError,), sealed),
    Decoder(
        "block request",
        limits.decode_request,
        (InvalidInput,),
        lambda: [bytes(32), bytes(64 * 32), bytes(range(64))],
        write=limits.encode_request,
        carried_by=(limits.PROTOCOL,),
    ),
    Decoder(
        "infer, of clients",
        infer.decode_from_client,
        (infer.WireError,),
        lambda: talked("client") + drawn(infer.Ask, infer.Begin, infer.Pay, infer.Settle),
        form="msgpack",
        write=infer.encode,
        carried_by=(infer.PROTOCOL,),
    ),
    Decoder(
        "infer, of nodes",
        infer.decode_from_node,
        (infer.WireError,),
        lambda: talked("node") + drawn(infer.Offer, infer.Output, infer.Done, infer.Refusal),
        form="msgpack",
        write=infer.encode,
        carried_by=(infer.PROTOCOL,),
    ),
    Decoder(
        "receipts delivered",
        _typed(receipts.Deliver),
        SCHEMA_ERRORS,
        lambda: delivery()[:1] + drawn(receipts.Deliver),
        form="msgpack",
        carried_by=(receipts.PROTOCOL,),
    ),
    Decoder(
        "receipts taken",
        _typed(receipts.Taken),
        SCHEMA_ERRORS,
        lambda: delivery()[1:] + drawn(receipts.Taken),
        form="msgpack",
        carried_by=(receipts.PROTOCOL,),
    ),
    Decoder(
        "header to attest",
        lambda data: decode_header(msgspec.msgpack.decode(data, type=witness.Attest).header),
        SCHEMA_ERRORS,
        lambda: drawn(witness.Attest),
        form="msgpack",
        carried_by=(witness.PROTOCOL,),
    ),
    Decoder(
        "attestation",
        _typed(witness.Attested | witness.Declined),
        SCHEMA_ERRORS,
        lambda: drawn(witness.Attested, witness.Declined),
        form="msgpack",
        carried_by=(witness.PROTOCOL,),
    ),
    Decoder(
        "replay asked",
        replay.decode_ask,
        (infer.WireError,),
        lambda: [replay.encode(replay_asked())],
        form="msgpack",
        write=replay.encode,
        carried_by=(replay.PROTOCOL,),
    ),
    Decoder(
        "replay answered",
        replay.decode_answer,
        (infer.WireError,),
        lambda: drawn(replay.Attested, replay.Declined),
        form="msgpack",
        write=replay.encode,
        carried_by=(replay.PROTOCOL,),
    ),
    Decoder(
        "quote asked",
        quote.decode_ask,
        (infer.WireError,),
        lambda: drawn(quote.AskQuote),
        form="msgpack",
        write=quote.encode,
        carried_by=(quote.PROTOCOL,),
    ),
    Decoder(
        "datanet asked",
        datanet.decode_ask,
        (infer.WireError,),
        lambda: drawn(datanet.AskHead, datanet.AskEntries, datanet.Submit),
        "msgpack",
        write=datanet.encode,
        carried_by=(datanet.PROTOCOL,),
    ),
    Decoder(
        "datanet answered",
        datanet.decode_answer,
        (infer.WireError,),
        lambda: drawn(datanet.Entries, datanet.Registered, datanet.Refused),
        "msgpack",
        write=datanet.encode,
        carried_by=(datanet.PROTOCOL,),
    ),
    Decoder(
        "datanet's entry",
        parse_entry,
        (DatanetError,),
        lambda: [other.unhex(row["hex"]) for row in golden("datanet")["rows"]],
        "msgpack",
        write=encode,
    ),
    Decoder(
        "datanet's registration",
        parse_registration,
        (DatanetError,),
        lambda: [other.unhex(row["registration_hex"]) for row in golden("datanet")["rows"]],
        "msgpack",
        write=encode,
    ),
    Decoder(
        "datanet's invite",
        lambda data: read_token(data.decode()),
        (DatanetError, UnicodeError),
        lambda: [golden("datanet")["token"].encode()],
        write=lambda token: write_token(token).encode(),
    ),
    Decoder(
        "quote",
        quote.decode_answer,
        (infer.WireError,),
        lambda: drawn(quote.Quote, quote.NoQuote),
        form="msgpack",
        write=quote.encode,
        carried_by=(quote.PROTOCOL,),
    ),
    Decoder(
        "lookup",
        lookup.decode_lookup,
        (InvalidInput,),
        lambda: drawn(lookup.Lookup),
        form="msgpack",
        carried_by=(lookup.PROTOCOL,),
    ),
    Decoder(
        "lookup's answer",
        lookup.decode_answer,
        (InvalidInput,),
        lambda: drawn(lookup.Found, lookup.Refused),
        form="msgpack",
        carried_by=(lookup.PROTOCOL,),
    ),
    Decoder(
        "lookup's provider",
        lookup.decode_provider,
        (InvalidInput,),
        lambda: drawn(lookup.Provider),
        form="msgpack",
        carried_by=(lookup.PROTOCOL,),
    ),
    Decoder(
        "promise",
        lambda data: read_promised(data, NETWORK, AGGREGATOR.address),
        (ProofError,),
        promised,
        form="msgpack",
        carried_by=(PROMISES,),
    ),
    Decoder(
        "attestation told",
        lambda data: attestation.read_told(data, NETWORK),
        (ProofError,),
        lambda: [other.unhex(one["hex"]) for one in golden("attestation")["accept"]],
        form="msgpack",
        write=encode,
        carried_by=(attestation.TOPIC,),
    ),
    Decoder(
        "pledge",
        parse_pledge,
        (ProofError,),
        lambda: [make_pledge(AGGREGATOR, plan_of_audit(), 1_000)],
        form="msgpack",
        write=encode,
        carried_by=(attestation.PLEDGES_TOPIC,),
    ),
    Decoder(
        "report of an audit",
        lambda data: parse_report(data, NETWORK),
        (ProofError,),
        lambda: [
            encode(
                Report(plan_of_audit(), make_pledge(AGGREGATOR, plan_of_audit(), 1_000), (None,))
            )
        ],
        form="msgpack",
    ),
    Decoder(
        "attestation shown",
        lambda data: parse_attestation(data, NETWORK),
        (ProofError,),
        lambda: [other.unhex(one["hex"]) for one in golden("attestation")["accept"]],
        form="msgpack",
        write=encode,
    ),
    Decoder("receipt's body", decode_body, (ProofError,), _each("body"), "msgpack", encode),
    Decoder("receipt", decode_receipt, (ProofError,), _each("signed"), "msgpack", encode),
    Decoder("envelope", decode_envelope, (ProofError,), _each("envelope"), "msgpack", encode),
    Decoder(
        "envelope, with what it proves",
        lambda data: open_envelope(data, NETWORK),
        (ProofError,),
        _each("envelope"),
        "msgpack",
    ),
    Decoder(
        "report of intake",
        read_report,
        (Broken,),
        lambda: [bytes.fromhex(golden("intake")["report"]["bytes"])],
        "msgpack",
        encode,
    ),
    Decoder(
        "sketch of a contribution",
        lambda data: share_in(bytes.fromhex(golden("intake")["sketches"][0]), data),
        (Broken,),
        lambda: [bytes.fromhex(sketch) for sketch in golden("intake")["sketches"]],
        "msgpack",
    ),
    Decoder("batch", decode_batch, (ProofError,), _batches, "msgpack", encode),
    Decoder("batch, recomputed", _recompute, (ProofError,), _batches, "msgpack"),
    Decoder("cocktail", parse_cocktail, (ProofError,), lambda: [cocktail()], "msgpack", encode),
    Decoder(
        "attribution tokens",
        read_tokens,
        (ProofError,),
        lambda: [texts("tokens"), texts("background_tokens")],
    ),
    Decoder(
        "listing of contributions",
        lambda data: read_listing(data, read_tokens(texts("tokens")), 2),
        (ProofError,),
        lambda: [texts("listing")],
        "msgpack",
    ),
    Decoder("manifest", parse_manifest, (ProofError,), lambda: [manifest()], "msgpack", encode),
    Decoder(
        "announcement of an adapter",
        parse_announcement,
        (ProofError,),
        lambda: [make_announcement(manifest(), None).encode()],
        form="msgpack",
        write=lambda found: found.encode(),
        carried_by=(ADAPTERS,),
    ),
    Decoder(
        "name record",
        decode_name,
        (InvalidInput,),
        name_records,
        form="msgpack",
        write=encode_name,
        carried_by=(NAMES, KAD),
    ),
    Decoder(
        "DHT answer",
        _read_answer,
        (P2pError,),
        lambda: delimited(*kademlia()),
        form="delimited",
        carried_by=(KAD,),
    ),
    Decoder(
        "protocol agreed on",
        _agree,
        (P2pError,),
        lambda: [b"\x13/multistream/1.0.0\n\x1b/lorikeet-devnet/kad/1.0.0\n", b"\x03na\n"],
    ),
    Decoder(
        "relay, HOP",
        _reads(circuit_pb2.HopMessage),
        (P2pError,),
        lambda: delimited(*circuits()),
        form="delimited",
        carried_by=("/libp2p/circuit/relay/0.2.0/hop",),
    ),
    Decoder(
        "relay, STOP",
        _reads(circuit_pb2.StopMessage),
        (P2pError,),
        lambda: delimited(*stops()),
        form="delimited",
        carried_by=("/libp2p/circuit/relay/0.2.0/stop",),
    ),
    Decoder(
        "hole punch",
        _reads(dcutr_pb2.HolePunch),
        (P2pError,),
        lambda: delimited(*punches()),
        form="delimited",
        carried_by=("/libp2p/dcutr",),
    ),
    Decoder(
        "AutoNAT",
        _reads(autonat_pb2.Message),
        (P2pError,),
        lambda: delimited(*dial_backs()),
        form="delimited",
        carried_by=("/libp2p/autonat/1.0.0",),
    ),
    Decoder("invite", _text_of(read_invite), (ConfigError,), lambda: [_invite()], "text"),
    Decoder("adapter_config.json", parse_config, (BadAdapter,), configs, "json"),
    Decoder("safetensors file", _read_weights, (BadAdapter,), weights),
    Decoder(
        "safetensors header",
        lambda header: _read_weights(_weights_of(header, 24)),
        (BadAdapter,),
        tensors,
        form="json",
    ),
    Decoder(
        "about.json",
        _announce,
        (ProofError,),
        lambda: [b"{}", b'{"description":"laws","languages":["en","pt-BR"]}'],
        form="json",
        carried_by=(ADAPTERS,),
    ),
    Decoder(
        "CID",
        _text_of(Cid.parse),
        (InvalidCid,),
        lambda: [str(Cid.of(b"x")).encode()],
        form="text",
        write=lambda cid: str(cid).encode(),
    ),
    Decoder("peer id", _text_of(public_key_of), (InvalidInput,), lambda: [PEER.encode()], "text"),
    Decoder(
        "address",
        _text_of(lambda text: (split_peer(text), parse_address(text, PEER))),
        (InvalidInput,),
        lambda: [
            ADDRESS.encode(),
            f"/dns4/a.b/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}".encode(),
        ],
        form="text",
    ),
    Decoder(
        "neighbour's TXT record",
        lambda data: read_neighbour({b"dnsaddr": data, data: ADDRESS.encode()}),
        (),
        lambda: [ADDRESS.encode(), b"dnsaddr2"],
        form="text",
    ),
]

LIBRARY = {
    "/meshsub/1.2.0": rpcs,
    "/meshsub/1.1.0": rpcs,
    "/ipfs/id/1.0.0": identities,
    "/ipfs/id/push/1.0.0": identities,
    "/ipfs/ping/1.0.0": lambda: [],
}
"""What the library reads by itself: spoilt over real streams alone (live.py)."""


def entries() -> set[str]:
    """Every protocol id and topic that has an entry."""
    return {name for decoder in DECODERS for name in decoder.carried_by} | set(LIBRARY)


def _invite() -> bytes:
    return write_invite({"network": "mine", "bootstrap": (ADDRESS,), "chain_id": 5}).encode()
