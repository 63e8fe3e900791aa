"""Modbus TCP server: asyncio around the core of `_modbus`.

Rule of this file: bytes, limits and time-outs only; what a request means is the core's business.  Time comes
from the loop alone (`call_later`, `time`), so that the server runs on a virtual-time loop as well.

Memory per connection is bounded whatever the client does.  A connection whose client does not read its
replies is not read either; what it holds then is the write buffer's limit, the replies to one piece of input
(88 KiB) and the rest of one read from the socket (256 KiB in asyncio).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self, cast

from ._modbus import Connection
from .errors import InvariantError, ScenarioError

if TYPE_CHECKING:
    from ._modbus import Unit

PIECE_BYTES = 4096
"""The core gets its input in pieces of this size, so that one call makes 88 KiB of replies at most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows its clients.

    Attributes
    ----------
    frame_timeout_s : float
        A connection whose incomplete frame is older than this is closed; so is one that is being closed and
        has not read its last replies for this long [s].
    idle_timeout_s : float or None
        A connection that sent nothing for this long is closed; None lets it be silent for ever [s].
    connections_max : int
        A connection beyond this number is closed at once.
    write_buffer_bytes_max : int
        With more than this waiting to be sent, a connection is not read until its client has read [bytes].

    Raises
    ------
    ScenarioError
        A limit is not positive and finite.
    """

    frame_timeout_s: float = 5.0
    idle_timeout_s: float | None = None
    connections_max: int = 64
    write_buffer_bytes_max: int = 65_536

    def __post_init__(self) -> None:
        for name in ("frame_timeout_s", "idle_timeout_s"):
            seconds = getattr(self, name)
            if name == "idle_timeout_s" and seconds is None:
                continue
            if not isinstance(seconds, int | float) or not 0.001 <= seconds < math.inf:
                raise ScenarioError(f"{name}: {seconds!r} found; allowed are finite numbers from 0.001 up")
        for name in ("connections_max", "write_buffer_bytes_max"):
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise ScenarioError(f"{name}: {number!r} found; allowed are whole numbers from 1 up")


DEFAULT_LIMITS = Limits()


class TcpServer:
    """A Modbus TCP server and its open connections; made by `serve_tcp`.

    Parameters
    ----------
    units : Mapping[int, Unit]
        The units behind this server by unit id; see `ridethrough.emulator._modbus`.
    limits : Limits

    Raises
    ------
    ScenarioError
        `units` is empty or has a key that is no unit id.
    """

    def __init__(self, units: Mapping[int, Unit], limits: Limits = DEFAULT_LIMITS) -> None:
        Connection(units)  # refuses bad units now, not when the first client comes
        self.units = dict(units)
        self.limits = limits
        self._host = ""
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._peers: set[_Peer] = set()
        self._empty = asyncio.Event()
        self._empty.set()
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
        return sum(peer.served for peer in self._peers)

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
            self._listener = await asyncio.get_running_loop().create_server(self.accept, host, port)
        except OSError as error:
            raise ScenarioError(
                f"port: cannot listen on {host} port {port} ({error.strerror}); "
                f"choose an address of this machine and a free port above 1023, or port 0 for any free one"
            ) from error
        self._host, self._port = self._listener.sockets[0].getsockname()[:2]

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
        await self._empty.wait()
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
        welcome = not self._closing and self.connections < self.limits.connections_max
        self._peers.add(peer)
        self._empty.clear()
        return welcome

    def _leave(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    def _report(self, error: Exception) -> None:
        """Surface a unit's exception: now by the loop's exception handler, and when the server closes."""
        if self._error is None:
            self._error = error
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a unit raised; its Modbus client was answered exception 04", "exception": error}
        )


class _Peer(asyncio.Protocol):
    """One connection: feeds the core, and guards it against clients that stall."""

    def __init__(self, server: TcpServer) -> None:
        self.served = False
        self._server = server
        self._limits = server.limits
        self._core = Connection(server.units)
        self._loop = asyncio.get_running_loop()
        self._frames = 0  # frames complete when the deadline was last looked at
        self._deadline: asyncio.TimerHandle | None = None  # cuts the connection
        self._idle: asyncio.TimerHandle | None = None
        self._heard_s = 0.0
        self._stalled = False  # the client does not read: neither do we
        self._backlog = b""  # received but not yet given to the core, because the client does not read
        self._ended = False  # the client has sent all it will, and the backlog is still to be answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or cut it if there are too many."""
        # asyncio itself sets TCP_NODELAY on every TCP transport.
        self._transport = cast("asyncio.Transport", transport)
        self.served = self._server._enter(self)
        if not self.served:
            self.cut()
            return
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes_max)
        if self._limits.idle_timeout_s is not None:
            self._heard_s = self._loop.time()
            self._cut_if_idle(self._limits.idle_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Answer what has come in."""
        if self._idle is not None:
            self._heard_s = self._loop.time()
        if self._stalled:  # a transport may still deliver what it had read before it was paused
            self._backlog += data
        else:
            self._answer(data)

    def eof_received(self) -> bool:
        """Close, but not before everything is answered; the client may still be reading."""
        if self._backlog:
            self._ended = True
        else:
            self._finish()
        return True

    def pause_writing(self) -> None:
        """Stop reading: the client has not read enough of its replies."""
        self._stalled = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Answer what was left lying, then read on."""
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
        for timer in (self._deadline, self._idle):
            if timer is not None:
                timer.cancel()
        self._server._leave(self)

    def cut(self) -> None:
        """Close at once; replies not yet sent are lost."""
        self._transport.abort()

    def _answer(self, data: bytes) -> None:
        core = self._core
        for start in range(0, len(data), PIECE_BYTES):
            replies = core.receive(data[start : start + PIECE_BYTES])
            if replies:
                self._transport.write(replies)
            if core.last_error is not None:
                self._server._report(core.last_error)
                core.last_error = None
            if core.closed:
                self._finish()
                return
            if self._stalled:
                self._backlog = data[start + PIECE_BYTES :]
                break
        self._watch()

    def _watch(self) -> None:
        """Let the deadline run from the start of the incomplete frame, however slowly its bytes drip in."""
        core = self._core
        waiting = core.pending > 0 and not self._stalled
        if self._deadline is not None and (not waiting or core.frames != self._frames):
            self._deadline.cancel()
            self._deadline = None
        if waiting and self._deadline is None:
            self._deadline = self._loop.call_later(self._limits.frame_timeout_s, self.cut)
        self._frames = core.frames

    def _finish(self) -> None:
        """Close once the client has read its last replies, or has had the time to."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(self._limits.frame_timeout_s, self.cut)
        self._transport.close()

    def _cut_if_idle(self, idle_timeout_s: float) -> None:
        left_s = self._heard_s + idle_timeout_s - self._loop.time()
        if left_s > 0:
            self._idle = self._loop.call_later(left_s, self._cut_if_idle, idle_timeout_s)
        else:
            self.cut()


def _address(host: str, allow_remote: bool) -> str:
    """Return the IP address to listen on."""
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


async def serve_tcp(
    units: Mapping[int, Unit],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    limits: Limits = DEFAULT_LIMITS,
    allow_remote: bool = False,
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

    Raises
    ------
    ScenarioError
        An argument cannot be used; the message says why and what can.
    """
    address = _address(host, allow_remote)
    if type(port) is not int or not 0 <= port <= 65_535:
        raise ScenarioError(f"port: {port!r} found; allowed are whole numbers 0..65535")
    server = TcpServer(units, limits)
    await server.listen(address, port)
    return server
