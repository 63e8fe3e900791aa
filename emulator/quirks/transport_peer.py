"""One connection of a server with transport quirks.

Duty: for each exchange whether, when and how its reply is sent.  What a request means stays the business of
the core: what it answers is only held back, spoilt or lost here.

An exchange meets, in this order: a hung device, a pipelined request that is lost, refusal, a busy device;
then it is carried out, and its reply meets silence, a reset, truncation, a wrong address, lateness, slowness,
and how it is cut.  So a request is carried out when it comes, however late its reply.

Rule of this file: memory is bounded; with too many replies waiting, a connection is not read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, cast

if TYPE_CHECKING:
    from .transport import QuirkyServer
    from .transport_knobs import TransportKnobs

WAITING_MAX: Final = 64
"""Replies of one connection that may wait before it is not read any more."""

BUSY: Final = 6

UNIT: Final = 6
FUNCTION: Final = 7
COUNT: Final = slice(10, 12)
"""Places in a frame; of the count, where a function has one."""

_LINGER: Final = struct.pack("ii", 1, 0)


class Outgoing(NamedTuple):
    """Bytes that wait for their time, and how the connection ends behind them, if it does."""

    due_s: float
    data: bytes
    end: str = ""


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: QuirkyServer) -> None:
        self.served = False
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._core = server.connection()
        self._frames = 0  # frames complete when the deadline was last looked at
        self._active_s = 0.0
        self._last_id = b""  # transaction id of the last request
        self._carrying = False  # a request that came in this piece is being carried out
        self._deaf = False
        self._ended = False  # nothing more comes from the client, or from us
        self._stalled = False  # the client does not read
        self._queue: deque[Outgoing] = deque()
        self._last_due_s = 0.0
        self._late: set[asyncio.TimerHandle] = set()
        self._sending: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def _knobs(self) -> TransportKnobs:
        return self._server.knobs

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or turn it away."""
        self._transport = cast("asyncio.Transport", transport)
        self.served = self._server.enter(self)
        if not self.served:
            self._end(self._knobs.turned_away)
            return
        self._transport.set_write_buffer_limits(high=self._server.limits.write_buffer_bytes_max)
        self._active_s = self._loop.time()
        self._look_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._queue.clear()
        for timer in (self._sending, self._deadline, self._idle, *self._late):
            if timer is not None:
                timer.cancel()
        self._server.leave(self)

    def data_received(self, data: bytes) -> None:
        """Carry out what has come in, and see what becomes of the replies."""
        if self._deaf or self._ended or self._transport.is_closing():
            return
        self._active_s = self._loop.time()
        self._carrying = False
        for request, reply in self._core.exchange(data, self._admit):
            self._last_id = request[:2]
            self._dispose(request, reply)
        if self._core.last_error is not None:
            self._server.report(self._core.last_error)
            self._core.last_error = None
        if self._core.closed:
            self._ended = True
        self._watch()
        self._send()

    def eof_received(self) -> bool:
        """Close, but not before what waits has been sent."""
        self._ended = True
        self._send()
        return True

    def pause_writing(self) -> None:
        """Stop reading: the client does not read either."""
        self._stalled = True
        self._read_or_not()

    def resume_writing(self) -> None:
        """Read on."""
        self._stalled = False
        self._read_or_not()

    def cut(self) -> None:
        """Close at once; replies not yet sent are lost."""
        self._transport.abort()

    # ---- one exchange

    def _admit(self, request: bytes) -> bytes | None:
        """Return what answers a request that is not carried out; None carries it out."""
        if self._server.hung(request):
            return b""
        if self._knobs.drops_pipelined and (self._carrying or self._queue):
            return b""
        self._carrying = True
        code = self._server.refusal(request)
        if code == 0:
            return None
        return request[:4] + bytes((0, 3, request[UNIT], request[FUNCTION] | 0x80, code))

    def _dispose(self, request: bytes, reply: bytes) -> None:
        """Send a reply, as far as the quirks let it."""
        server, knobs = self._server, self._knobs
        if not reply or self._ended:
            return
        code = reply[FUNCTION + 1] if reply[FUNCTION] & 0x80 else 0
        if code in (knobs.silent_codes or ()) or (code == BUSY and server.hung(request)):
            return
        if knobs.reset is not None and server.happens(knobs.reset.chance):
            self.put(b"", "reset")
            return
        cut = knobs.truncated
        if cut is not None and len(reply) > cut.bytes_kept and server.happens(cut.chance):
            self.put(reply[: cut.bytes_kept], "" if cut.end == "nothing" else cut.end)
            return
        peer = self
        for wrong in knobs.misaddressed:
            if not server.happens(wrong.chance):
                continue
            if wrong.what == "client":
                peer = server.other(self)
            elif wrong.what == "unit-id":
                reply = b"%b%c%b" % (reply[:UNIT], (reply[UNIT] + wrong.shift) % 0x100, reply[FUNCTION:])
            else:
                wrong_id = (int.from_bytes(reply[:2]) + wrong.shift) % 0x10000
                reply = wrong_id.to_bytes(2) + reply[2:]
        if knobs.late is not None and server.happens(knobs.late.chance):
            peer.put_late(reply)
        else:
            peer.put(reply)

    def put_late(self, reply: bytes) -> None:
        """Send a reply behind the turn of the others."""
        late = self._knobs.late
        assert late is not None

        def send() -> None:
            self._late.discard(timer)
            self.put(self._last_id + reply[2:] if late.relabelled else reply)

        timer = self._loop.call_later(self._server.real_s(late.delay_s), send)
        self._late.add(timer)

    def put(self, data: bytes, end: str = "") -> None:
        """Let bytes go out in their turn; `end` says how the connection ends behind them."""
        server, knobs, now_s = self._server, self._knobs, self._loop.time()
        due_s = max(now_s, self._last_due_s)
        if knobs.slow is not None:
            due_s = (max(due_s, server.free_s) if knobs.slow.shared else due_s) + server.delay_s()
            server.free_s = due_s
        if knobs.together_s is not None and not self._queue:
            due_s += server.real_s(knobs.together_s)
        size = max(len(data), 1) if knobs.pieces is None else knobs.pieces.bytes_each
        pause_s = 0.0 if knobs.pieces is None else server.real_s(knobs.pieces.pause_s)
        parts = [data[k : k + size] for k in range(0, len(data), size)] or [b""]
        for k, part in enumerate(parts):
            last = k == len(parts) - 1
            self._queue.append(Outgoing(due_s + k * pause_s, part, end if last else ""))
        self._last_due_s = self._queue[-1].due_s
        self._ended = self._ended or bool(end)
        self._send()

    # ---- sending

    def _send(self) -> None:
        """Send what is due."""
        if self._transport.is_closing():
            return
        now_s, out, end = self._loop.time(), [], ""
        while self._queue and self._queue[0].due_s <= now_s and not end:
            piece = self._queue.popleft()
            out.append(piece.data)
            end = piece.end
        if any(out):
            self._transport.write(b"".join(out))
            self._active_s = now_s
        if end or (self._ended and not self._queue and not self._late):
            self._end(end)
            return
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._queue:
            self._sending = self._loop.call_at(self._queue[0].due_s, self._send)
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport.is_closing():
            return
        if self._stalled or len(self._queue) + len(self._late) > WAITING_MAX:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _end(self, end: str) -> None:
        """Close or reset the connection; a reset loses what the client has not read yet."""
        if end == "reset":
            plain = self._transport.get_extra_info("socket")
            if plain is not None:  # none in networks in memory
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self.cut()
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(self._server.limits.frame_timeout_s, self.cut)
        self._transport.close()

    def _watch(self) -> None:
        """Let the deadline run from the start of an incomplete frame."""
        core = self._core
        if self._deadline is not None and (core.pending == 0 or core.frames != self._frames):
            self._deadline.cancel()
            self._deadline = None
        if core.pending > 0 and self._deadline is None:
            self._deadline = self._loop.call_later(self._server.limits.frame_timeout_s, self.cut)
        self._frames = core.frames

    def _look_if_idle(self) -> None:
        """End the connection if it has been idle for too long; else look again when it may be."""
        idle, after_s = self._knobs.idle, self._server.limits.idle_timeout_s
        if idle is not None:
            after_s = self._server.real_s(idle.after_s)
        if after_s is None:
            return
        waiting_s = [piece.due_s for piece in self._queue] + [timer.when() for timer in self._late]
        left_s = max([self._active_s, *waiting_s]) + after_s - self._loop.time()
        if left_s > 0:
            self._idle = self._loop.call_later(left_s, self._look_if_idle)
        elif idle is not None and idle.end == "silent":
            self._deaf = True
            if self._deadline is not None:
                self._deadline.cancel()
        else:
            self._end("close" if idle is None else idle.end)
