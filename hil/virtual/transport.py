"""One end of a stream in memory.

What is written at one end is delivered to the protocol of the other on the loop's next turn, or when the pipe
between them says.  Everything else is as on a socket: order, flow control, half-close, reset.  What every
message passes through is compiled (_virtual.pyx).

Rules of this file:

- A delivery costs one handle of the loop, and all that was written in one turn without a pipe is one
  delivery, as a reader of a socket would find it.
- What is under way counts as in the system's buffers up to `WINDOW_BYTES`, and as the transport's own write
  buffer beyond that.
- `abort` resets: the other end meets `ConnectionResetError`.  So does whoever writes to an end that is
  closed, and whoever has written what the other end has not read when it closes.
- With a pipe, a client that leaves loses what is still under way, and the pipe says what the server sees.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from .._virtual import WINDOW_BYTES as WINDOW_BYTES
from .._virtual import Stream
from ..link import End, Pipe

if TYPE_CHECKING:
    from .loop import VirtualLoop
    from .network import MemoryServer

Address = tuple[str, int]

HIGH_BYTES: Final = 65_536
"""A writer's own buffer at which it is told to pause, as in asyncio."""


class MemoryTransport(Stream):
    """One end of a stream; made in pairs by `Network.connect`.

    Parameters
    ----------
    loop : VirtualLoop
    sockname, peername : Address
    pipe : Pipe or None
        What this end's bytes go through.
    server : MemoryServer or None
        Whose connection this is, at that end; None at the client's.
    """

    __slots__ = ("_extra", "_high", "_low", "_protocol", "_server")

    _start_tls_compatible = True
    peer: MemoryTransport
    _extra: dict[str, Any]

    def __init__(
        self,
        loop: VirtualLoop,
        sockname: Address,
        peername: Address,
        pipe: Pipe | None,
        server: MemoryServer | None,
    ) -> None:
        self.pipe = pipe
        self._extra = {"sockname": sockname, "peername": peername}
        self._server = server
        self._low, self._high = HIGH_BYTES // 4, HIGH_BYTES
        if server is not None:
            server.attach()

    def __repr__(self) -> str:
        state = "closed" if self.lost else "closing" if self.closing else "open"
        return f"<memory {self._extra['sockname']} to {self._extra['peername']}, {state}>"

    def join(self, peer: MemoryTransport, protocol: asyncio.BaseProtocol) -> None:
        """Be the other end of `peer`, and deliver to `protocol`."""
        self.peer = peer
        self.set_protocol(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return an address: ``sockname`` or ``peername``; there is no socket."""
        return self._extra.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to another protocol from now on."""
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self.receive = self._feed
        else:
            self.receive = cast("asyncio.Protocol", protocol).data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    # ---- writing

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Send several pieces of bytes."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Close this direction, behind what was sent."""
        if not self.closing and not self.eof_sent:
            self.eof_sent = True
            self._send_end("eof")

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return how much has been written that no buffer of the systems has taken [bytes]."""
        return max(0, self.peer.held - WINDOW_BYTES)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the sizes at which the protocol is told to go on and to pause [bytes]."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes at which the protocol is told to pause and to go on [bytes]."""
        if high is None:
            high = HIGH_BYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high: {high!r}, low: {low!r} found; allowed are high >= low >= 0")
        self._low, self._high = low, high
        self.pause_writer()

    def pause_writer(self) -> None:
        """Tell the protocol to write no more, if the buffer is full."""
        if not self.writing_paused and self.get_write_buffer_size() > self._high:
            self.writing_paused = True
            self._tell(self._protocol.pause_writing)

    def drained(self) -> None:
        """Go on writing, or end: the other end has taken something."""
        size = self.get_write_buffer_size()
        if self.writing_paused and size <= self._low:
            self.writing_paused = False
            if not self.lost:
                self._tell(self._protocol.resume_writing)
        if self.closing and not self.lost and size == 0:
            self._finish(None)

    def _tell(self, call: Callable[[], None]) -> None:
        """Call the protocol; what it raises does not stop us."""
        try:
            call()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._complain(error, f"protocol.{call.__name__}() failed")

    def _send_end(self, end: End) -> None:
        """Let the stream end at the other end, behind what was sent."""
        loop = self.loop
        if self.pipe is not None:
            self.carry(self.pipe.finish(loop.now_ns - loop.origin_ns, end))
        else:
            loop.call_soon(self.peer.arrive, self.peer.epoch, b"", end, context=loop.context)

    # ---- reading

    def is_reading(self) -> bool:
        """Tell whether the protocol is given what comes."""
        return not self.closing and not self.paused

    def pause_reading(self) -> None:
        """Give the protocol nothing until `resume_reading`."""
        if not self.closing:
            self.paused = True

    def resume_reading(self) -> None:
        """Give the protocol what has come and what comes."""
        if self.paused and not self.closing:
            self.paused = False
            self.look()

    def _feed(self, data: bytes) -> None:
        """Let a protocol that has a buffer of its own have bytes."""
        protocol = cast("asyncio.BufferedProtocol", self._protocol)
        rest = memoryview(data)
        while rest and not self.closing:
            buffer = memoryview(protocol.get_buffer(len(rest))).cast("B")
            size = min(len(buffer), len(rest))
            if not size:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:size] = rest[:size]
            rest = rest[size:]
            protocol.buffer_updated(size)

    def meet_eof(self) -> None:
        """Tell the protocol that the other end writes no more."""
        try:
            stays = cast("asyncio.Protocol", self._protocol).eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not stays:
            self.close()

    def meet_reset(self) -> None:
        """End both ends at once."""
        for end in (self, self.peer):
            end._drop_flight()
            end._close_now(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def refuse(self) -> None:
        """Reset the other end if it has written to this one, which is closed."""
        written, self.held = self.held, 0
        self.inbox.clear()
        if written and not self.peer.lost:
            self._send_end("reset")

    # ---- the end

    def is_closing(self) -> bool:
        """Tell whether this end is closed or about to be."""
        return self.closing

    def close(self) -> None:
        """Close behind what was sent; nothing more is received."""
        if self.closing:
            return
        self.closing = True
        if not self.eof_sent or self.inbox:
            self._leave("reset" if self.inbox else "eof")
        if self.get_write_buffer_size() == 0:
            self._finish(None)

    def abort(self) -> None:
        """Close at once, and reset the other end."""
        self._force_close(None)

    def fail(self, error: BaseException, message: str) -> None:
        """Close because the protocol has raised."""
        self._complain(error, message)
        self._force_close(error)

    def _force_close(self, error: BaseException | None) -> None:
        """Close at once for a reason, and reset the other end; asyncio's TLS needs this name."""
        if not self.lost:
            self._leave("reset")
            self._close_now(error)

    def _leave(self, end: End) -> None:
        """Let the other end know."""
        if self.pipe is not None and self._server is None:
            self._drop_flight()
            self.peer._drop_flight()
        self._send_end(end)

    def _drop_flight(self) -> None:
        """Lose what is under way to this end."""
        self.epoch += 1
        self.held = sum(map(len, self.inbox))

    def _close_now(self, error: BaseException | None) -> None:
        """Close without a word to the other end."""
        if not self.lost:
            self.closing = True
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        self.lost = True
        self.loop.call_soon(self._end_protocol, error, context=self.loop.context)

    def _end_protocol(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(cast("Exception | None", error))
        finally:
            self.inbox.clear()
            if self._server is not None:
                self._server.detach()
                self._server = None

    def _complain(self, error: BaseException, message: str) -> None:
        self.loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )
