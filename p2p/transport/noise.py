"""The encrypted connection: opens and seals whole Noise messages, and reads and writes the socket.

    receive: one read of the socket ──▶ every whole message in it, opened
    send:    all that is to go ──▶ messages sealed side by side ──▶ one write of the socket

What does not fit into the socket waits here, for `drain`. So a sender that is cancelled never
leaves half a message on the wire: it leaves a whole one, or none. Knows no stream.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.abc import IRawConnection, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession

from .meter import Meter

LENGTH_BYTES = 2
TAG_BYTES = 16
MAX_MESSAGE_BYTES = 65_535
MAX_PLAIN_BYTES = MAX_MESSAGE_BYTES - TAG_BYTES
READ_BYTES = 256 << 10
SCRATCH_BYTES = LENGTH_BYTES + MAX_MESSAGE_BYTES + READ_BYTES
WIRE_ERRORS = (OSError, IOException, trio.ClosedResourceError, trio.BrokenResourceError)


class CipherState(Protocol):
    """One direction of a session, as the package `noise` keeps it."""

    n: int
    cipher: Any


class Sealer:
    """Makes Noise messages of plain bytes."""

    def __init__(self, state: CipherState) -> None:
        self._state = state
        self._cipher: ChaCha20Poly1305 = state.cipher.cipher

    def seal(self, plain: bytes) -> bytearray:
        """Seal bytes as messages, each after its length."""
        view = memoryview(plain)
        num_messages = -(-len(plain) // MAX_PLAIN_BYTES)
        sealed = bytearray(len(plain) + num_messages * (LENGTH_BYTES + TAG_BYTES))
        out = memoryview(sealed)
        at = 0
        for start in range(0, len(plain), MAX_PLAIN_BYTES):
            part = view[start : start + MAX_PLAIN_BYTES]
            size = len(part) + TAG_BYTES
            out[at : at + LENGTH_BYTES] = size.to_bytes(LENGTH_BYTES, "big")
            at += LENGTH_BYTES
            self._cipher.encrypt_into(_take_nonce(self._state), part, None, out[at : at + size])
            at += size
        return sealed


class Opener:
    """Opens Noise messages. Keeps the one that has not arrived wholly."""

    def __init__(self, state: CipherState) -> None:
        self._state = state
        self._cipher: ChaCha20Poly1305 = state.cipher.cipher
        self.rest = b""

    def open(self, view: memoryview) -> list[bytes]:
        """Open every whole message in `view`, which begins with `rest`.

        Raises ConnectionClosedError for one that was not sealed for us.
        """
        opened = []
        at = 0
        while len(view) - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            end = begin + int.from_bytes(view[at:begin], "big")
            if end > len(view):
                break
            try:
                opened.append(self._cipher.decrypt(_take_nonce(self._state), view[begin:end], None))
            except InvalidTag as error:
                raise ConnectionClosedError("a message that is not sealed for us") from error
            at = end
        self.rest = bytes(view[at:])
        return opened


def _take_nonce(state: CipherState) -> bytes:
    nonce = state.n
    state.n = nonce + 1
    return bytes(4) + nonce.to_bytes(8, "little")  # it does not wrap in the life of a connection


class Wire(Protocol):
    """What carries the sealed bytes."""

    def try_write(self, data: memoryview) -> int:
        """Write what fits without waiting, and say how much that was."""

    async def write(self, data: memoryview) -> None:
        """Write everything. Raises one of WIRE_ERRORS."""

    async def read(self, begin: bytes, scratch: memoryview) -> memoryview:
        """Return `begin` and what came after it, in `scratch` or elsewhere; only `begin` at the
        end.
        """


class SocketWire:
    """A TCP socket, read and written without passing through the library's layers."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket

    def try_write(self, data: memoryview) -> int:
        """Write what fits; an error is left to `write`, which meets it again."""
        try:
            return os.write(self._socket.fileno(), data)
        except OSError:
            return 0

    async def write(self, data: memoryview) -> None:
        """Write everything. Raises OSError, trio.ClosedResourceError."""
        while data:
            await trio.lowlevel.wait_writable(self._open_fileno())
            try:
                data = data[os.write(self._socket.fileno(), data) :]
            except BlockingIOError:
                continue

    async def read(self, begin: bytes, scratch: memoryview) -> memoryview:
        """Read once what there is, up to the scratch's end."""
        while True:
            await trio.lowlevel.wait_readable(self._open_fileno())
            scratch[: len(begin)] = begin
            try:
                size = os.readv(self._socket.fileno(), [scratch[len(begin) :]])
            except BlockingIOError:
                continue
            return scratch[: len(begin) + size]

    def _open_fileno(self) -> int:
        # Closed between two waits it has none, which trio takes for a mistake in the program.
        number = self._socket.fileno()
        if number < 0:
            raise trio.ClosedResourceError("the socket was closed here")
        return number


class StreamWire:
    """Any other connection: a circuit through a relay, a WebSocket, one under a shared key."""

    def __init__(self, conn: IRawConnection) -> None:
        self._conn = conn

    def try_write(self, data: memoryview) -> int:
        """Write nothing: this wire may always have to wait."""
        return 0

    async def write(self, data: memoryview) -> None:
        """Write everything."""
        await self._conn.write(bytes(data))

    async def read(self, begin: bytes, scratch: memoryview) -> memoryview:
        """Read once."""
        return memoryview(begin + await self._conn.read(len(scratch) - len(begin)))


class FastSession(SecureSession):
    """A Noise session after its handshake. One task may receive, one drains.

    `scratch` may be shared by all sessions of one thread: nothing stays in it across a wait.
    `meter` counts what is read, and what is given to the socket.
    """

    def __init__(
        self, session: ISecureConn, raw_conn: IRawConnection, scratch: memoryview, meter: Meter
    ) -> None:
        assert isinstance(session, SecureSession)
        assert isinstance(session.conn, NoiseTransportReadWriter)
        super().__init__(
            local_peer=session.local_peer,
            local_private_key=session.local_private_key,
            remote_peer=session.remote_peer,
            remote_permanent_pubkey=session.remote_permanent_pubkey,
            is_initiator=session.is_initiator,
            conn=session.conn,
        )
        protocol = session.conn.noise_state.noise_protocol
        self._sealer = Sealer(protocol.cipher_state_encrypt)
        self._opener = Opener(protocol.cipher_state_decrypt)
        self._wire = wire_of(raw_conn)
        self._scratch = scratch
        self._meter = meter
        self._plain = b""  # opened and not read
        self._pending = memoryview(b"")  # sealed and not written
        self._is_ended = False

    @property
    def is_busy(self) -> bool:
        """Return whether sealed bytes wait for the socket; nothing may be sent meanwhile."""
        return bool(self._pending)

    def send_now(self, plain: bytes) -> None:
        """Seal and write; what does not fit waits for `drain`."""
        assert not self._pending, "sealed bytes would overtake those that wait"
        sealed = memoryview(self._sealer.seal(plain))
        self._meter.sent_bytes += len(sealed)
        self._pending = sealed[self._wire.try_write(sealed) :]

    async def drain(self) -> None:
        """Write what waits. Raises one of WIRE_ERRORS; cancelled, it ends the session."""
        waiting = self._pending
        try:
            await self._wire.write(waiting)
        except trio.Cancelled:
            self._is_ended = True
            raise
        self._pending = memoryview(b"")

    async def receive(self) -> list[bytes]:
        """Return what comes next, opened; nothing at the end. Raises one of WIRE_ERRORS."""
        if self._plain:
            plain = self._plain
            self._plain = b""
            return [plain]
        while not self._is_ended:
            begin = self._opener.rest
            view = await self._wire.read(begin, self._scratch)
            if len(view) == len(begin):
                self._is_ended = True
                break
            self._meter.take(len(view) - len(begin), time.time())
            opened = [plain for plain in self._opener.open(view) if plain]
            if opened:
                return opened
        return []

    async def read(self, n: int | None = None) -> bytes:
        """Read up to `n` bytes, for the negotiation before the muxer takes over.

        Raises ConnectionClosedError at the end.
        """
        if n == 0:
            return b""
        plain = b"".join(await self.receive())
        if not plain:
            raise ConnectionClosedError("Connection closed")
        self._plain = b"" if n is None else plain[n:]
        return plain if n is None else plain[:n]

    async def write(self, data: bytes) -> None:
        """Write everything, for the negotiation before the muxer takes over."""
        self.send_now(data)
        if self.is_busy:
            await self.drain()
        else:
            await trio.lowlevel.checkpoint()


def wire_of(raw_conn: IRawConnection) -> Wire:
    """Return the shortest way to a connection's bytes."""
    if (
        type(raw_conn) is RawConnection
        and type(raw_conn.stream) is TrioTCPStream
        and type(raw_conn.stream.stream) is trio.SocketStream
    ):
        return SocketWire(raw_conn.stream.stream)
    return StreamWire(raw_conn)
