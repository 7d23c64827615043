"""A Yamux connection whose reading and writing pass the scheduler once for each socket call.

One task reads the socket and gives every stream its bytes. Whoever has something to send writes it
at once if the socket takes it; what it does not take, one task writes out, and nobody sends
meanwhile. Small frames (windows, pings, ends) go before the next piece of a stream.

Bounds what a peer can make grow: open streams, large windows, unsent small frames.
"""

from __future__ import annotations

import logging
from typing import Any

import trio
from libp2p.abc import ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import GO_AWAY_NORMAL, Yamux, YamuxStream

from .frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    BadFrame,
    Frame,
    FrameReader,
    Payload,
    encode_header,
)
from .noise import MAX_PLAIN_BYTES, WIRE_ERRORS, FastSession
from .stream import MAX_WINDOW_BYTES, FastYamuxStream, acquire

# Full Noise messages with the header in the first; 256 KiB and a little go at once.
MAX_BURST_BYTES = 5 * MAX_PLAIN_BYTES - HEADER_BYTES
MIN_BURST_BYTES = MAX_PLAIN_BYTES - HEADER_BYTES
# What one stream may hold the wire for: others wait no longer than that.
SLOW_BURST_S = 0.02
QUICK_BURST_S = 0.005
MAX_INBOUND_STREAMS = 1024
MAX_WIDE_STREAMS = 8  # of 4 MiB each, so a connection holds at most 32 MiB and small change
MAX_UNSENT_BYTES = 64 << 10  # of small frames; only a peer that does not read comes near
FRAMES_A_TURN = 512  # so that a flood of tiny frames holds nobody else up
CLOSE_DRAIN_S = 0.5

logger = logging.getLogger(__name__)


class FastYamux(Yamux):
    """A Yamux over a FastSession."""

    secured_conn: FastSession
    streams: dict[int, FastYamuxStream]  # type: ignore[assignment]

    def __init__(self, session: ISecureConn, peer_id: ID, **kwargs: Any) -> None:
        assert isinstance(session, FastSession)
        super().__init__(session, peer_id, **kwargs)
        self._reader = FrameReader(MAX_WINDOW_BYTES)
        self._small: list[bytes] = []  # frames that wait for the socket
        self._num_small = 0  # their bytes
        self._num_inbound = 0
        self._num_wide = 0
        self._burst_bytes = MAX_BURST_BYTES
        self._has_pending = trio.Event()
        self._idle = trio.lowlevel.ParkingLot()

    # --- sending ---

    def post(self, frame: bytes) -> None:
        """Send a small frame, now or before anything else that is sent. Never waits."""
        if self.event_closed.is_set():
            return
        self._small.append(frame)
        self._num_small += len(frame)
        self._flush()

    async def send_data(self, stream: FastYamuxStream, data: memoryview) -> memoryview:
        """Send the first bytes of `data`, as one frame, and return the rest.

        Waits until the wire is free; cancelled while it waits, it has sent nothing. Raises
        MuxedStreamError.
        """
        await acquire(self._write_lock)
        try:
            while self.secured_conn.is_busy:
                stream.check_can_send()
                await self._idle.park()
            stream.check_can_send()
            size = min(len(data), stream.send_window, self._burst_bytes)
            stream.send_window -= size
            self._flush(encode_header(DATA, 0, stream.stream_id, size), data[:size])
        finally:
            self._write_lock.release()
        await trio.lowlevel.cancel_shielded_checkpoint()  # the frame is sent: say so
        return data[size:]

    def _flush(self, *frame: bytes | memoryview) -> None:
        if self.secured_conn.is_busy:
            return
        plain = b"".join((*self._small, *frame))
        self._small.clear()
        self._num_small = 0
        self.secured_conn.send_now(plain)
        if self.secured_conn.is_busy:
            self._has_pending.set()

    async def _run_writer(self) -> None:
        """Write out what the socket did not take at once, until the connection ends."""
        try:
            while True:
                await self._has_pending.wait()
                self._has_pending = trio.Event()
                started = trio.current_time()
                await self.secured_conn.drain()
                self._adapt(trio.current_time() - started)
                if self._small:
                    self._flush()
                if not self.secured_conn.is_busy:
                    self._idle.unpark_all()
        except WIRE_ERRORS as error:
            logger.debug("writing to %s: %r", self.peer_id, error)
            self.event_shutting_down.set()
            await self._close_session()  # the reader notices, and ends the connection

    def _adapt(self, seconds: float) -> None:
        if seconds > SLOW_BURST_S:
            self._burst_bytes = max(self._burst_bytes // 2, MIN_BURST_BYTES)
        elif seconds < QUICK_BURST_S:
            self._burst_bytes = min(self._burst_bytes * 2, MAX_BURST_BYTES)

    async def _write_frame(self, data: bytes) -> None:
        """For the library's pings."""
        self._ping_sent_time = trio.current_time()
        self.post(data)
        await trio.lowlevel.checkpoint()

    # --- receiving ---

    async def handle_incoming(self) -> None:
        """Read until the connection ends, then end every stream."""
        assert self._nursery is not None
        self._nursery.start_soon(self._run_writer)
        try:
            while not self.event_shutting_down.is_set():
                opened = await self.secured_conn.receive()
                if not opened:
                    break
                await self._take_all(opened)
        except (BadFrame, *WIRE_ERRORS) as error:
            logger.debug("reading from %s: %r", self.peer_id, error)
        await self._cleanup_on_error()

    async def _take_all(self, opened: list[bytes]) -> None:
        num_frames = 0
        for plain in opened:
            for event in self._reader.feed(plain):
                if isinstance(event, Payload):
                    self._take_payload(event)
                    continue
                num_frames += 1
                if num_frames % FRAMES_A_TURN == 0:
                    await trio.lowlevel.checkpoint()
                await self._take_frame(event)
                if self.event_shutting_down.is_set():
                    return

    def _take_payload(self, payload: Payload) -> None:
        stream = self.streams.get(payload.stream_id)
        if stream is None:  # of one that was reset here
            return
        stream.take(payload.data)
        if payload.flags:
            self._take_end(stream, payload.flags)

    async def _take_frame(self, frame: Frame) -> None:
        if frame.kind == PING:
            self._take_ping(frame)
        elif frame.kind == GO_AWAY:
            self.event_shutting_down.set()
        elif frame.flags & SYN:
            await self._take_stream(frame)
        else:
            stream = self.streams.get(frame.stream_id)
            if stream is not None:
                self._take_change(stream, frame)
        if self._num_small > MAX_UNSENT_BYTES:
            raise BadFrame("the peer asks and does not read the answers")

    def _take_change(self, stream: FastYamuxStream, frame: Frame) -> None:
        if frame.kind == WINDOW_UPDATE:
            stream.open_window(frame.value)
        if frame.kind == WINDOW_UPDATE or not frame.value:
            self._take_end(stream, frame.flags)

    def _take_end(self, stream: FastYamuxStream, flags: int) -> None:
        if flags & RST:
            stream.note_reset()
            self.finalize(stream)
        elif flags & FIN:
            stream.note_ended()
            self.finalize(stream)

    async def _take_stream(self, frame: Frame) -> None:
        stream_id = frame.stream_id
        if not stream_id or stream_id % 2 == self.next_stream_id % 2:
            # A stream of ours would take its place one day, and nobody would end it any more.
            raise BadFrame(f"a stream under number {stream_id}, which is not the peer's to give")
        if stream_id in self.streams:  # neither side can tell the two apart any more
            self.streams[stream_id].reset_now()
            return
        if self._num_inbound >= MAX_INBOUND_STREAMS:
            self.post(encode_header(WINDOW_UPDATE, RST, stream_id, 0))
            return
        stream = self._new_stream(stream_id, is_initiator=False)
        self._num_inbound += 1
        if not frame.flags & RST:
            self.post(encode_header(WINDOW_UPDATE, ACK, stream_id, 0))
        self._take_change(stream, frame)
        try:
            await self.new_stream_send_channel.send(stream)
        except trio.ClosedResourceError:
            self.event_shutting_down.set()

    def _take_ping(self, frame: Frame) -> None:
        if frame.flags & SYN:
            self.post(encode_header(PING, ACK, 0, frame.value))
        elif frame.flags & ACK and frame.value == self._ping_id:
            rtt = trio.current_time() - self._ping_sent_time
            self._rtt = (self._rtt + rtt) / 2 if self._rtt else rtt
            self._ping_event.set()

    # --- streams ---

    async def open_stream(self) -> YamuxStream:
        """Open a stream. Raises MuxedStreamError when the connection is over."""
        await self.stream_backlog_semaphore.acquire()
        if self.event_shutting_down.is_set():
            self.stream_backlog_semaphore.release()
            raise MuxedStreamError("Connection is shutting down")
        stream = self._new_stream(self.next_stream_id, is_initiator=True)
        stream._owns_backlog_slot = True
        self.next_stream_id += 2
        self.post(encode_header(WINDOW_UPDATE, SYN, stream.stream_id, 0))
        return stream

    def _new_stream(self, stream_id: int, is_initiator: bool) -> FastYamuxStream:
        stream = FastYamuxStream(stream_id, self, is_initiator)
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = stream.queue  # type: ignore[assignment]
        return stream

    def widen(self) -> bool:
        """Give a stream one of the large windows, if one is left."""
        if self._num_wide >= MAX_WIDE_STREAMS:
            return False
        self._num_wide += 1
        return True

    def finalize(self, stream: FastYamuxStream) -> None:
        """Forget a stream that is closed both ways and read to its end."""
        if stream.send_closed and not stream._backlog_slot_released:
            stream._backlog_slot_released = True
            if stream._owns_backlog_slot:
                self.stream_backlog_semaphore.release()
        if stream.closed:
            self._forget(stream)

    def _forget(self, stream: FastYamuxStream) -> None:
        # Nothing can arrive any more, and its reader has the queue: only the number is given back.
        if self.streams.get(stream.stream_id) is not stream:
            return
        del self.streams[stream.stream_id]
        del self.stream_buffers[stream.stream_id]
        self._num_inbound -= not stream.is_initiator
        self._num_wide -= stream.is_wide

    # --- its end ---

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        """Say goodbye, and close. What was written before still leaves."""
        if not self.event_shutting_down.is_set():
            self.post(encode_header(GO_AWAY, 0, 0, error_code))
            with trio.move_on_after(CLOSE_DRAIN_S):
                while self.secured_conn.is_busy and not self.event_closed.is_set():
                    await self._idle.park()
        await self._cleanup_on_error()

    async def _cleanup_on_error(self) -> None:
        """End every stream and the connection. Harmless when repeated."""
        self.event_shutting_down.set()
        self.new_stream_send_channel.close()
        for stream in list(self.streams.values()):
            stream.note_lost()
            self.finalize(stream)
        self._idle.unpark_all()
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        await self._close_session()
        if self.on_close is not None:
            await self.on_close()

    async def _close_session(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_DRAIN_S):
            try:
                await self.secured_conn.close()
            except WIRE_ERRORS as error:
                logger.debug("closing the connection to %s: %r", self.peer_id, error)
