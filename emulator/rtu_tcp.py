"""Modbus RTU frames in a TCP stream, as transparent serial-to-Ethernet converters carry them.

Rule of this file: where a frame ends in the stream, and no more; what it means is the core's business
(`_modbus.SerialServer`), connections and their limits are `server`'s.

No standard describes this transport.  A stream has no gaps, so a frame is cut by the size that its function
code and byte count announce, and its CRC tells whether that was right.  After a wrong CRC or a function code
whose size nobody knows, nothing says where the next frame begins: everything is dropped until the stream was
silent for `SILENCE_S`, as clients are that wait for a reply in vain.  One that goes on all the same is cut
off.  As on a serial line there is no answer to a broken frame, to a broadcast, and for addresses that are not
there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ._modbus import SerialServer, crc16, rtu_request_size
from .serial_frames import RTU_BYTES_MAX
from .server import DEFAULT_LIMITS, Limits, TcpServer, serve_tcp

if TYPE_CHECKING:
    from ._modbus import Unit

SILENCE_S: Final = 0.05
DROPPED_BYTES_MAX: Final = 4096


class RtuStream:
    """The server's end of one stream of RTU frames; a `server.Core`.

    Parameters
    ----------
    units : Mapping[int, Unit]
        By address, 1..247.
    now_s : callable
        Time on any clock [s].

    Attributes
    ----------
    closed : bool
        The client sent too much that is no Modbus, without a pause.
    pending : int
        Size of the incomplete frame held [bytes].
    frames : int
        Frames completed so far.
    last_error : Exception or None
        What a unit last raised or got wrong.  May be set back to None.

    Raises
    ------
    ScenarioError
        `units` is empty or has a key that is no address.
    """

    def __init__(self, units: Mapping[int, Unit], now_s: Callable[[], float]) -> None:
        self.closed = False
        self.frames = 0
        self.last_error: Exception | None = None
        self._server = SerialServer(units)
        self._now_s = now_s
        self._heard_s = 0.0
        self._held = b""
        self._dropped = 0  # bytes since we lost step; 0 while we are in step

    @property
    def pending(self) -> int:
        """Size of the incomplete frame held [bytes]."""
        return len(self._held)

    def receive(self, data: bytes, /) -> bytes:
        """Take the next bytes of the stream and return the replies to all requests that they complete."""
        if self.closed:
            return b""
        now_s = self._now_s()
        if self._dropped and now_s - self._heard_s < SILENCE_S:
            self._drop(len(data))
            data = b""
        elif data:
            self._dropped = 0
        self._heard_s = now_s
        stream = self._held + data
        replies = []
        taken = 0
        while (size := self._frame_size(stream[taken : taken + RTU_BYTES_MAX])) > 0:
            replies.append(self._answer(stream[taken : taken + size]))
            taken += size
        self._held = stream[taken:]
        if size < 0:
            self._drop(len(self._held))
            self._held = b""
        return b"".join(replies)

    def _frame_size(self, stream: bytes) -> int:
        """Return the size of the frame the stream begins with; 0: more is needed; -1: it begins with none."""
        size = rtu_request_size(stream) if len(stream) > 1 else 0
        if size > RTU_BYTES_MAX:
            return -1
        if size <= 0 or len(stream) < size:
            return min(size, 0)
        return size if crc16(stream[: size - 2]).to_bytes(2, "little") == stream[size - 2 : size] else -1

    def _answer(self, frame: bytes) -> bytes:
        self.frames += 1
        reply = self._server.rtu(frame)
        if self._server.last_error is not None:
            self.last_error = self._server.last_error
            self._server.last_error = None
        return reply

    def _drop(self, count: int) -> None:
        self._dropped += count
        self.closed = self._dropped > DROPPED_BYTES_MAX


async def serve_rtu_tcp(
    units: Mapping[int, Unit],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_remote: bool = False,
) -> TcpServer:
    """Serve units by RTU frames over TCP until the returned server is closed.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units by address, 1..247.
    host, port, limits, allow_remote
        As for `serve_tcp`.

    Raises
    ------
    ScenarioError
        An argument cannot be used; the message says why and what can.
    """
    SerialServer(units)  # refuses bad units now, not when the first client comes
    now_s = asyncio.get_running_loop().time
    return await serve_tcp(
        units,
        host,
        port,
        limits=limits,
        allow_remote=allow_remote,
        core=lambda transport: RtuStream(units, now_s),
    )
