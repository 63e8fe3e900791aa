"""A TCP relay between the bench's client and one device: where network faults act on real sockets.

Rules of this file: it moves bytes as the route's links say and keeps none of its own.  When the client's end
is gone, what is still under way dies with it, as undelivered segments do; what the device has sent before it
closes still reaches the client.  Memory is bounded: an end that does not read stops the other one.

A listening socket cannot be made deaf for one client: a call that is to hang is taken and never answered, and
one that is to be refused is taken and reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from .link import Admission, End, Link, Parcel

LOOPBACK: Final = "127.0.0.1"

_LINGER: Final = struct.pack("ii", 1, 0)
_WAITING_MAX: Final = 256
"""Parcels under way to one end before the other end is not read any more."""


class Clock(Protocol):
    """The time of the links."""

    def now_ns(self) -> int:
        """Return the time [ns]."""

    def real_s(self, bench_ns: int, /) -> float:
        """Return the real length of an interval [s]."""


class _End(asyncio.Protocol):
    """One end of a connection: the client's or the device's."""

    transport: asyncio.Transport | None = None

    def __init__(self, pair: _Pair) -> None:
        self._pair = pair
        self._waiting: deque[Parcel] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take part in the pair."""
        self.transport = cast("asyncio.Transport", transport)
        self._pair.made(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what came from this end."""
        self._pair.sent(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the other end."""
        self.gone = True
        self.drop()
        self._pair.lost(self, "eof" if exc is None else "reset")

    def pause_writing(self) -> None:
        """Stop the other end: this one does not read."""
        self._stalled = True
        self._pair.other(self).read_or_not()

    def resume_writing(self) -> None:
        """Let the other end go on."""
        self._stalled = False
        self._pair.other(self).read_or_not()

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be sent to this end."""
        return self._stalled or len(self._waiting) > _WAITING_MAX

    def read_or_not(self) -> None:
        """Read from this end unless the other one is full."""
        if self.transport is None or self.gone or self.transport.is_closing():
            return
        if self._pair.other(self).is_full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def put(self, parcel: Parcel) -> None:
        """Let a parcel arrive at this end in its turn."""
        self._waiting.append(parcel)
        self.deliver()

    def deliver(self) -> None:
        """Write what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.transport is not None and not self.gone:
            left_s = self._pair.left_s(self._waiting[0].due_ns)
            if left_s > 0.0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self.deliver)
                break
            parcel = self._waiting.popleft()
            if parcel.data and not self.transport.is_closing():
                self.transport.write(parcel.data)
            if parcel.end == "reset":
                self._pair.reset()
            elif parcel.end == "eof":
                self.transport.close()
        self._pair.other(self).read_or_not()

    def drop(self) -> None:
        """Lose what is under way to this end."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cut(self) -> None:
        """End this end by a reset."""
        self.drop()
        if self.transport is not None and not self.gone:
            plain = self.transport.get_extra_info("socket")
            if plain is not None and plain.fileno() >= 0:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self.transport.abort()


class _Pair:
    """A connection of a client and its twin to the device."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._link = relay.make_link()
        self.near, self.far = _End(self), _End(self)
        self.calling: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What the client has sent before the device was there."""

    def other(self, end: _End) -> _End:
        """Return the end across."""
        return self.far if end is self.near else self.near

    def left_s(self, due_ns: int) -> float:
        """Return the real time until an instant [s]."""
        clock = self._relay.clock
        return clock.real_s(due_ns - clock.now_ns())

    def made(self, end: _End) -> None:
        """Let the client in, or let both ends talk."""
        if end is self.far:
            early, self._early = self._early, []
            for data in early:
                self.sent(self.near, data)
            self.near.read_or_not()
            return
        self._relay.enter(self)
        now_ns = self._relay.clock.now_ns()
        admission: Admission = self._link.admit(now_ns)
        if admission in ("refuse", "reset"):
            self.near.cut()
        elif admission == "accept":
            assert self.near.transport is not None
            self.near.transport.pause_reading()  # until the device is there
            row = self._link.device(now_ns)
            self.calling = asyncio.get_running_loop().create_task(self._call(self._relay.port_of(row)))

    async def _call(self, port: int) -> None:
        """Connect to the device."""
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, LOOPBACK, port)
        except OSError:
            if self.near.transport is not None:
                self.near.transport.close()  # the device refused or vanished: the client sees a close
        finally:
            self.calling = None
            if self.near.gone:
                self.far.cut()
            self._leave_if_over()

    def sent(self, end: _End, data: bytes) -> None:
        """Let the link say what becomes of bytes."""
        if self.far.transport is None:
            if self.calling is not None:
                self._early.append(data)
            return  # or the call hangs, and nobody hears it
        pipe = self._link.up if end is self.near else self._link.down
        self._carry(end, pipe.send(self._relay.clock.now_ns(), data))

    def lost(self, end: _End, how: End) -> None:
        """Tell the other end that this one is gone, as the link says."""
        now_ns = self._relay.clock.now_ns()
        if end is self.near:
            self.far.drop()
            if self.far.transport is not None and not self.far.gone:
                self._carry(end, self._link.up.finish(now_ns, how))
        elif not self.near.gone:
            self._carry(end, self._link.down.finish(now_ns, how))
        self._leave_if_over()

    def _leave_if_over(self) -> None:
        if self.near.gone and (self.far.gone or self.far.transport is None) and self.calling is None:
            self._relay.leave(self)

    def _carry(self, end: _End, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            (end if parcel.back else self.other(end)).put(parcel)

    def reset(self) -> None:
        """End both ends by a reset."""
        self.near.cut()
        self.far.cut()


class Relay:
    """Listens on loopback and moves bytes to a device and back as a route says.

    Parameters
    ----------
    make_link : callable
        Makes the link of a new connection, such as `link.Route.link`.
    port_of : callable
        Given the row of a device, its port on loopback.
    clock : Clock
        The time of the links.

    Attributes
    ----------
    port : int
        Where clients connect, once started.
    """

    def __init__(self, make_link: Callable[[], Link], port_of: Callable[[int], int], clock: Clock) -> None:
        self.make_link, self.port_of, self.clock = make_link, port_of, clock
        self.port = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._empty = asyncio.Event()

    async def start(self, host: str = LOOPBACK, port: int = 0) -> None:
        """Begin to listen; port 0 is any free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).near, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def enter(self, pair: _Pair) -> None:
        """Note a connection."""
        self._pairs.add(pair)
        self._empty.clear()

    def leave(self, pair: _Pair) -> None:
        """Forget a connection."""
        self._pairs.discard(pair)
        if not self._pairs:
            self._empty.set()

    async def close(self) -> None:
        """Stop listening and end every connection; nothing is left running afterwards."""
        if self._server is not None:
            # As in `emulator.server`: woken by a timer, we come after the transports of accepted connections.
            await asyncio.sleep(1e-9)
            self._server.close()
            await asyncio.sleep(0)
        calls = [pair.calling for pair in self._pairs if pair.calling is not None]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for pair in tuple(self._pairs):
            pair.reset()
        if self._pairs:
            await self._empty.wait()
        if self._server is not None:
            await self._server.wait_closed()
