"""Modbus TCP server: asyncio around the core of `_modbus`.

Rule of this file: bytes, limits and time-outs only; what a request means is the core's business.  Time comes
from the loop alone (`call_later`, `time`), so that the server runs on a virtual-time loop as well.

A request that comes whole and is answered at once, as nearly all do, costs one call of the core and one
write; what guards the server is looked at only when something is left over.  On a plain TCP socket that
happens in a lane (_peer.pyx), past the transport, which has paused reading; a connection whose client does
not read, or that ends, goes back to its transport for good.  Other transports,
such as networks in memory, deliver themselves, with the same guards.  TLS is a core like any other (tls.py).

Memory per connection is bounded whatever the client does.  A connection whose client does not read its
replies is not read either; what it holds then is the write buffer's limit, the replies to one piece of input
(88 KiB) and the rest of one read from the socket (256 KiB in asyncio).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol, Self, cast

from ._modbus import Connection
from ._pdu import Units
from ._peer import PIECE_BYTES as PIECE_BYTES  # the tests of what a connection may hold need it
from ._peer import Lane, Peer
from .errors import InvariantError, ScenarioError
from .limits import DEFAULT_LIMITS as DEFAULT_LIMITS
from .limits import Limits as Limits

if TYPE_CHECKING:
    from ._modbus import Unit

BACKLOG = 1024
"""Connections that may wait to be accepted: a fleet's clients come all at once when an outage ends."""


def open_lane() -> Lane | None:
    """Return a lane on the running loop; None where the system or the loop has none to give."""
    try:
        return Lane(asyncio.get_running_loop())
    except (NotImplementedError, OSError):
        return None


class Core(Protocol):
    """What answers the bytes of one connection: `Connection`, or another framing with the same manners."""

    last_error: Exception | None

    @property
    def closed(self) -> bool:
        """The stream cannot be trusted any more: send what was returned, then close."""

    @property
    def pending(self) -> int:
        """Size of the incomplete frame held [bytes]."""

    @property
    def frames(self) -> int:
        """Frames completed so far."""

    def receive(self, data: bytes, /) -> bytes:
        """Take the next bytes of the stream and return the replies to all requests that they complete."""


MakeCore = Callable[[asyncio.Transport], Core]
"""Makes the core of a new connection, whose transport tells who is at the other end."""


class TcpServer:
    """A Modbus TCP server and its open connections; made by `serve_tcp`.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units behind this server by unit id; see `ridethrough.emulator._modbus`.
    limits : Limits
    core : MakeCore, optional
        Called for every connection; without it each gets a `Connection` to the units.
    lane : Lane, optional
        To share with other servers; without it the server has its own, where the system has lanes.

    Raises
    ------
    ScenarioError
        `units` is empty or has a key that is no unit id.
    """

    def __init__(
        self,
        units: Mapping[int, Unit],
        limits: Limits = DEFAULT_LIMITS,
        core: MakeCore | None = None,
        lane: Lane | None = None,
    ) -> None:
        self.units = dict(units)
        self.limits = limits
        shared = Units(units)  # refuses bad units now, not when the first client comes
        self._make_core: MakeCore = core if core is not None else lambda transport: Connection(shared)
        self._host = ""
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._lane = lane
        self._own_lane: Lane | None = None
        self._peers: set[_Peer] = set()
        self._served = 0
        self._empty: asyncio.Event | None = None  # made when the server closes: a thousand servers idle
        self._closing = False
        self._error: Exception | None = None

    @property
    def host(self) -> str:
        """Address the server listens on."""
        return self._host

    @property
    def port(self) -> int:
        """Port the server listens on, also when port 0 left the choice to the system."""
        return self._port

    @property
    def connections(self) -> int:
        """Number of connections being served."""
        return self._served

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of one new connection; any loop's `create_server` can be given this."""
        return _Peer(self)

    async def listen(self, host: str, port: int) -> None:
        """Listen on an IP address.

        Raises
        ------
        ScenarioError
            The system refuses that address or port.
        """
        try:
            listener = _listener(host, port)
        except OSError as error:
            raise ScenarioError(
                f"port: cannot listen on {host} port {port} ({error.strerror}); "
                f"choose an address of this machine and a free port above 1023, or port 0 for any free one"
            ) from error
        self._listener = await asyncio.get_running_loop().create_server(
            self.accept,
            sock=listener,
            backlog=BACKLOG,
        )
        self._host, self._port = self._listener.sockets[0].getsockname()[:2]
        if self._lane is None:
            self._lane = self._own_lane = open_lane()

    async def close(self) -> None:
        """Stop listening and cut every connection; nothing is left running afterwards.

        Raises
        ------
        InvariantError
            A unit raised while it was being served; the first such exception is the cause.
        """
        self._closing = True
        if self._listener is not None:
            # asyncio leaks a connection that was accepted but has no transport yet when its listener closes.
            # A loop's turn runs what is ready, then sockets, then timers: woken by a timer, we come after the
            # making of every accepted connection's transport and before the next accept.
            await asyncio.sleep(1e-9)
            self._listener.close()
            await asyncio.sleep(0)  # now the newest transports have met their peers
        for peer in tuple(self._peers):
            peer.cut()
        if self._peers:
            self._empty = self._empty or asyncio.Event()
            await self._empty.wait()
        if self._own_lane is not None:
            self._own_lane.close()
        if self._listener is not None:
            await self._listener.wait_closed()
        if self._error is not None:
            error, self._error = self._error, None
            raise InvariantError(f"a unit raised while it was being served: {error!r}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _enter(self, peer: _Peer) -> bool:
        """Note a new connection; False if it must not be served."""
        welcome = not self._closing and self._served < self.limits.connections_max
        self._served += welcome
        self._peers.add(peer)
        return welcome

    def _leave(self, peer: _Peer) -> None:
        self._served -= peer.served
        self._peers.discard(peer)
        if not self._peers and self._empty is not None:
            self._empty.set()

    def _report(self, error: Exception) -> None:
        """Surface a unit's exception: now by the loop's exception handler, and when the server closes."""
        if self._error is None:
            self._error = error
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a unit raised; its Modbus client was answered exception 04", "exception": error}
        )


class _Peer(Peer, asyncio.Protocol):
    """One connection: feeds the core, and guards it against clients that stall."""

    def __init__(self, server: TcpServer) -> None:
        self.served = False
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._frames = 0  # frames complete when the deadline was last looked at
        self._deadline: asyncio.TimerHandle | None = None  # cuts the connection
        self._idle: asyncio.TimerHandle | None = None
        self._lane: Lane | None = None  # where the connection is served, if not by its transport
        self._fd = -1
        self._stalled = False  # the client does not read: neither do we
        self._backlog = b""  # received but not yet given to the core, because the client does not read
        self._ended = False  # the client has sent all it will, and the backlog is still to be answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or cut it if there are too many."""
        # The loops themselves set TCP_NODELAY on every TCP transport.
        self._transport = cast("asyncio.Transport", transport)
        self.core = self._server._make_core(self._transport)
        self.served = self._server._enter(self)
        if not self.served:
            self.cut()
            return
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes_max)
        if self._limits.idle_timeout_s is not None:
            self.timed = True
            self.heard_s = self._loop.time()
            self._cut_if_idle(self._limits.idle_timeout_s)
        self._watch()  # a core that has a handshake before it waits for the client from the start
        if self._server._lane is not None:
            self._loop.call_soon(self._join, self._server._lane)  # asyncio begins to read after this call

    def data_received(self, data: bytes) -> None:
        """Answer what has come in."""
        if self.timed:
            self.heard_s = self._loop.time()
        if self._stalled:  # a transport may still deliver what it had read before it was paused
            self._backlog += data
        else:
            self._answer(data)

    def _join(self, lane: Lane) -> None:
        """Be served in the lane, unless the transport has something to do already."""
        transport = self._transport
        plain = transport.get_extra_info("socket")
        if plain is None or self._stalled or transport.is_closing() or transport.get_write_buffer_size():
            return
        self._fd = plain.fileno()
        if lane.add(self._fd, self):
            self._lane = lane
            transport.pause_reading()

    def leave(self, rest: bytes = b"") -> None:
        """Go on by the transport, which is to send `rest` first."""
        if self._lane is None:
            return
        self._lane.remove(self._fd)
        self._lane = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            if rest:
                self._transport.write(rest)

    def fail(self, error: Exception) -> None:
        """Close: answering has raised `error`, a bug of ours."""
        self._server._report(error)
        self.cut()

    def eof_received(self) -> bool:
        """Close, but not before everything is answered; the client may still be reading."""
        if self._backlog:
            self._ended = True
        else:
            self._finish()
        return True  # leave our side open until then

    def pause_writing(self) -> None:
        """Stop reading: the client has not read enough of its replies."""
        self._stalled = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Answer what was left lying, then read on."""
        # Not inside the transport's own call: asyncio ends a transport twice that is closed in there.
        self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if self._transport.is_closing():
            return
        self._stalled = False
        backlog, self._backlog = self._backlog, b""
        self._answer(backlog)
        if self._stalled or self._transport.is_closing():
            return
        if self._ended:
            self._finish()
        else:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.leave()
        for timer in (self._deadline, self._idle):
            if timer is not None:
                timer.cancel()
        self._server._leave(self)

    def cut(self) -> None:
        """Close at once; replies not yet sent are lost."""
        self.leave()
        self._transport.abort()

    def _answer(self, data: bytes) -> None:
        """Answer piece by piece, so that a client that does not read its replies stops us after each."""
        for start in range(0, len(data), PIECE_BYTES):
            try:
                replies = self.core.receive(data[start : start + PIECE_BYTES])
            except Exception as error:
                self.fail(error)
                return
            if replies:
                self._transport.write(replies)
            if self.core.closed or self._transport.is_closing():  # or the client has reset it
                break
            if self._stalled:
                self._backlog = data[start + PIECE_BYTES :]
                break
        self.look()

    def look(self) -> None:
        """Deal with what the last piece has left: an error, the end of the stream, a frame half received."""
        core = self.core
        if core.last_error is not None:
            self._server._report(core.last_error)
            core.last_error = None
        if core.closed:
            self._finish()
        else:
            self._watch()

    def _watch(self) -> None:
        """Let the deadline run from the start of the incomplete frame, however slowly its bytes drip in."""
        core = self.core
        waiting = core.pending > 0 and not self._stalled
        if self._deadline is not None and (not waiting or core.frames != self._frames):
            self._deadline.cancel()
            self._deadline = None
        if waiting and self._deadline is None:
            self._deadline = self._loop.call_later(self._limits.frame_timeout_s, self.cut)
        self.watched = self._deadline is not None
        self._frames = core.frames

    def _finish(self) -> None:
        """Close once the client has read its last replies, or has had the time to."""
        self.leave()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(self._limits.frame_timeout_s, self.cut)
        self._transport.close()

    def _cut_if_idle(self, idle_timeout_s: float) -> None:
        left_s = self.heard_s + idle_timeout_s - self._loop.time()
        if left_s > 0:
            self._idle = self._loop.call_later(left_s, self._cut_if_idle, idle_timeout_s)
        else:
            self.cut()


def listen_address(host: str, port: int, allow_remote: bool) -> str:
    """Return the IP address to listen on, for servers of this room.

    Raises
    ------
    ScenarioError
        `host` or `port` is none that may be used.
    """
    if type(port) is not int or not 0 <= port <= 65_535:
        raise ScenarioError(f"port: {port!r} found; allowed are whole numbers 0..65535")
    if host == "localhost":  # its IPv4 address alone: with port 0, each family would get a port of its own
        return "127.0.0.1"
    try:
        address = ip_address(host)
    except ValueError:
        raise ScenarioError(
            f"host: {host!r} found; allowed are an IP address such as 127.0.0.1 or ::1, and localhost"
        ) from None
    if not address.is_loopback and not allow_remote:
        raise ScenarioError(
            f"host: {host!r} found; other machines can reach it, and Modbus has no authentication, so "
            "whoever reaches it can command the devices. "
            "Use 127.0.0.1, or allow_remote (--allow-remote) on a network you trust"
        )
    return str(address)


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an IP address; the loop would spend tasks and a look-up on it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY on the connections of a socket that names its protocol, and on no other.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def serve_tcp(
    units: Mapping[int, Unit],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_remote: bool = False,
    core: MakeCore | None = None,
    lane: Lane | None = None,
) -> TcpServer:
    """Serve units over Modbus TCP until the returned server is closed.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units by unit id, 0..255; the first one also answers for unit ids 0 and 255.
    host : str
        IP address to listen on, or localhost for 127.0.0.1.
    port : int
        0 lets the system choose; `TcpServer.port` tells.
    limits : Limits
    allow_remote : bool
        Other addresses than loopback are refused without this.
    core : MakeCore, optional
        Called for every connection; without it each gets a `Connection` to the units.
    lane : Lane, optional
        One that several servers share (`open_lane`); without it the server has its own.

    Raises
    ------
    ScenarioError
        An argument cannot be used; the message says why and what can.
    """
    address = listen_address(host, port, allow_remote)
    server = TcpServer(units, limits, core, lane)
    await server.listen(address, port)
    return server
