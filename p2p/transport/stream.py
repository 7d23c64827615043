"""One stream of a Yamux connection: its two windows, what was not read, how it ends.

- A cancelled read has taken nothing. A cancelled write has sent whole frames of its first bytes:
  reset the stream, the connection is as it was.
- A peer that sends more than its window loses the stream.
- A stream has 256 KiB of window; one over which MIN_WIDE_BYTES came gets MAX_WINDOW_BYTES, given
  back in halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, YamuxStream

from .frames import FIN, RST, WINDOW_UPDATE, ByteQueue, encode_header

if TYPE_CHECKING:
    from .muxer import FastYamux

MAX_WINDOW_BYTES = 4 << 20
MIN_WIDE_BYTES = 64 << 10
READS_A_TURN = 16  # the library reads headers byte by byte
WRITE_STALL_S = 5.0  # as in the library, whose protocols set no deadline


class FastYamuxStream(YamuxStream):
    """A YamuxStream that waits on nothing but its peer."""

    conn: FastYamux

    def __init__(self, stream_id: int, conn: FastYamux, is_initiator: bool) -> None:
        super().__init__(stream_id, conn, is_initiator)
        self.queue = ByteQueue()
        self._window_bytes = DEFAULT_WINDOW_SIZE
        self._num_received = 0
        self._num_reads = 0
        self._is_wide = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._write_lock = trio.Lock()

    # --- reading ---

    async def receive(self) -> memoryview | bytearray:
        """Return the next bytes, as many as lie together.

        Raises MuxedStreamEOF when the peer has said all, MuxedStreamReset.
        """
        await self._wait_for_bytes()
        part = self.queue.pop()
        self._give_credit()
        return part

    async def read(self, n: int | None = -1) -> bytes:
        """Return up to `n` bytes, or all that are there. Raises as `receive` does."""
        if n == 0:
            return b""
        await self._wait_for_bytes()
        data = self.queue.read(None if n is None or n < 0 else n)
        self._give_credit()
        self._num_reads += 1
        if self._num_reads % READS_A_TURN == 0:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def _wait_for_bytes(self) -> None:
        while not self.queue:
            if self.reset_received:
                raise MuxedStreamReset("Stream was reset")
            if self.recv_closed:
                self.conn.finalize(self)
                raise MuxedStreamEOF("Stream is closed for receiving")
            await self._readers.park()
        if self.reset_received:
            raise MuxedStreamReset("Stream was reset")

    def take(self, part: memoryview) -> None:
        """Queue bytes that arrived. A peer beyond its window loses the stream."""
        if self.recv_closed or self.reset_received:
            return
        if len(part) > self.recv_window:
            self.reset_now()
            return
        self.recv_window -= len(part)
        self._num_received += len(part)
        self.queue.append(part)
        if not self._is_wide and self._num_received >= MIN_WIDE_BYTES and self.conn.widen():
            self._is_wide = True
            self._window_bytes = MAX_WINDOW_BYTES
            self._give_credit()
        self._readers.unpark_all()

    def _give_credit(self) -> None:
        """Let the peer send more, once half of the window is free."""
        owed = self._window_bytes - self.recv_window - len(self.queue)
        if owed * 2 >= self._window_bytes and not (self.recv_closed or self.reset_received):
            self.recv_window += owed
            self.conn.post(encode_header(WINDOW_UPDATE, 0, self.stream_id, owed))

    # --- writing ---

    async def write(self, data: bytes | memoryview, stall_s: float = WRITE_STALL_S) -> None:
        """Send everything, as the peer's window allows.

        Raises MuxedStreamError (MuxedStreamReset among them), also when the peer opens no window
        for `stall_s`.
        """
        view = memoryview(data)
        await acquire(self._write_lock)
        try:
            while view:
                await self._wait_for_window(stall_s)
                view = await self.conn.send_data(self, view)
        finally:
            self._write_lock.release()

    async def _wait_for_window(self, stall_s: float) -> None:
        self.check_can_send()
        if self.send_window > 0:
            return
        with trio.move_on_after(stall_s):
            while self.send_window <= 0:
                await self._writers.park()
                self.check_can_send()
            return
        raise MuxedStreamError(f"Timed out waiting for window update after {stall_s} seconds.")

    def check_can_send(self) -> None:
        """Raise MuxedStreamError unless bytes may be sent."""
        if self.reset_received:
            raise MuxedStreamReset("Stream was reset")
        if self.send_closed or self.closed:
            raise MuxedStreamError("Stream is closed for sending")

    def open_window(self, num_bytes: int) -> None:
        """The peer takes so many bytes more."""
        self.send_window += num_bytes
        self._writers.unpark_all()

    # --- its end ---

    def note_ended(self) -> None:
        """The peer has said all."""
        self.recv_closed = True
        self.closed = self.send_closed
        self._wake()

    def note_reset(self) -> None:
        """The stream is dead, both ways, and what was not read is dropped."""
        self.closed = True
        self.send_closed = True
        self.recv_closed = True
        self.reset_received = True
        self.queue.clear()
        self._wake()

    def note_lost(self) -> None:
        """The connection is over: only what the peer had said wholly can still be read."""
        if self.recv_closed and not self.reset_received:
            self.closed = True
            self.send_closed = True
            self._wake()
        else:
            self.note_reset()

    def _wake(self) -> None:
        self._readers.unpark_all()
        self._writers.unpark_all()

    def reset_now(self) -> None:
        """Tell the peer that the stream is dead. Harmless when it is."""
        if not self.closed:
            self.conn.post(encode_header(WINDOW_UPDATE, RST, self.stream_id, 0))
            self.note_reset()
        self.conn.finalize(self)

    async def reset(self) -> None:
        """End both sides at once."""
        self.reset_now()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """End our side; what was written still arrives."""
        if not self.send_closed:
            self.send_closed = True
            self.closed = self.recv_closed
            self.conn.post(encode_header(WINDOW_UPDATE, FIN, self.stream_id, 0))
            self._writers.unpark_all()
        self.conn.finalize(self)
        await trio.lowlevel.checkpoint()

    @property
    def is_wide(self) -> bool:
        """Return whether it has one of its connection's large windows."""
        return self._is_wide


async def acquire(lock: trio.Lock) -> None:
    """Take a lock; a free one costs no turn of the scheduler."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
