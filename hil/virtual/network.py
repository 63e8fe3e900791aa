"""The network in memory: who listens where, how connections are made, and the link each one goes through.

Rules of this file:

- Bytes only; what they mean is the protocols' business, what becomes of them on the way the link's.
- Errors are those of the system's own network, by the same names and numbers.
- Ports come from counters, so that the same program gets the same ones.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from asyncio import sslproto
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..link import Admission, Link
from .transport import Address, MemoryTransport

if TYPE_CHECKING:
    from .loop import VirtualLoop

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.BaseProtocol)

MakeProtocol = Callable[[], asyncio.BaseProtocol]

LOOPBACK: Final = "127.0.0.1"
SERVER_PORT_FIRST: Final = 20_000
CLIENT_PORT_FIRST: Final = 49_152
PORT_MAX: Final = 65_535

CALL_S_MAX: Final = 127.0
"""After this a client whose call is not answered gives up, as Linux does [s]."""

_NOWHERE: Final = ("", 0)

Weather = Callable[[Address, Address], "Link | None"]
"""Given the addresses of client and server, returns the link of a new connection; None for none."""


class Network:
    """All listeners and connections of one loop.

    Attributes
    ----------
    weather : Weather
        Asked once for every connection; at first there is none.
    devices : sequence of Address
        Where the device of each row listens; a link says by row which of them answers.  Without them it is
        whoever was called.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.weather: Weather = lambda client, server: None
        self.devices: Sequence[Address] = ()
        self._loop = loop
        self._listeners: dict[Address, MemoryServer] = {}
        self._server_port = SERVER_PORT_FIRST - 1
        self._client_port = CLIENT_PORT_FIRST - 1

    @property
    def origin_ns(self) -> int:
        """The loop's time that is 0 for the links, which is when the world begins [ns]."""
        return self._loop.origin_ns

    @origin_ns.setter
    def origin_ns(self, origin_ns: int) -> None:
        self._loop.origin_ns = origin_ns

    def listen(
        self,
        make: MakeProtocol,
        host: str | None,
        port: int | None,
        *,
        ssl: SSLContext | None = None,
        sock: None = None,
        start_serving: bool = True,
        **_: Any,
    ) -> MemoryServer:
        """Listen on an address of this machine; without a port on the next free one.

        Options of asyncio that are about real sockets have no effect.

        Raises
        ------
        OSError
            Somebody listens there already (EADDRINUSE), or `host` is no address of this machine.
        ValueError
            A real socket is handed in.
        """
        if sock is not None:
            raise ValueError("sock: a real socket found; in memory, give host and port")
        name = literal_host(host)
        server = MemoryServer(self, make, (name, port or self._free_port(name)), ssl)
        if start_serving:
            server.start()
        return server

    async def connect(
        self,
        make: Callable[[], _ProtocolT],
        host: str | None,
        port: int | None,
        *,
        ssl: SSLContext | bool | None = None,
        server_hostname: str | None = None,
        local_addr: tuple[str, int] | None = None,
        sock: None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        **_: Any,
    ) -> tuple[asyncio.Transport, _ProtocolT]:
        """Connect to a listener.

        Raises
        ------
        OSError
            Nobody listens there, the connection is refused or reset, or no answer comes in about two minutes.
        ValueError
            A real socket is handed in.
        """
        if sock is not None:
            raise ValueError("sock: a real socket found; in memory, give host and port")
        there = (literal_host(host), int(port or 0))
        here = self._local(local_addr)
        link = self.weather(here, there)
        server, is_reset = await self._called(link, there)
        loop, protocol = self._loop, make()
        up, down = (None, None) if link is None else (link.up, link.down)
        near = MemoryTransport(loop, here, there, up, None)
        far = MemoryTransport(loop, there, here, down, server)
        far.join(near, asyncio.Protocol() if is_reset else server.protocol())
        made = loop.create_future()
        secure = None
        if ssl:
            secure = sslproto.SSLProtocol(
                loop,
                protocol,
                cast("SSLContext", None if ssl is True else ssl),
                made,
                server_hostname=server_hostname or host,
                ssl_handshake_timeout=cast("int | None", ssl_handshake_timeout),
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        near.join(far, protocol if secure is None else secure)
        for end in (far, near):
            loop.call_soon(end.get_protocol().connection_made, end, context=loop.context)
        if is_reset:
            loop.call_soon(far.abort)
        if secure is None:
            loop.call_soon(_wake, made)  # TLS wakes us after its handshake
        try:
            await made
        except BaseException:
            near.abort()
            raise
        return (near if secure is None else secure._app_transport), protocol

    async def _called(self, link: Link | None, there: Address) -> tuple[MemoryServer, bool]:
        """Return who answers a client's call, and whether the connection is reset at once."""
        verdict: Admission = "accept"
        answers = there
        if link is not None:
            now_ns = self._loop.now_ns - self._loop.origin_ns
            verdict = link.admit(now_ns)
            if self.devices:
                row = link.device(now_ns)
                answers = self.devices[row] if row >= 0 else _NOWHERE
        if verdict == "hang":
            await asyncio.sleep(CALL_S_MAX)
            raise _error(errno.ETIMEDOUT, f"Connect call failed {there}")
        server = self._listeners.get(answers)
        if server is None or verdict == "refuse":
            raise _error(errno.ECONNREFUSED, f"Connect call failed {there}")
        return server, verdict == "reset"

    def add(self, address: Address, server: MemoryServer) -> None:
        """Let a server have the connections to an address.

        Raises
        ------
        OSError
            Another one has them.
        """
        if address in self._listeners:
            raise _error(errno.EADDRINUSE, f"error while attempting to bind on address {address}")
        self._listeners[address] = server

    def remove(self, address: Address) -> None:
        """Let nobody have the connections to an address."""
        del self._listeners[address]

    @property
    def loop(self) -> VirtualLoop:
        """The loop whose network this is."""
        return self._loop

    def _free_port(self, host: str) -> int:
        """Return the next port on which nobody listens."""
        for _ in range(SERVER_PORT_FIRST, CLIENT_PORT_FIRST):
            self._server_port += 1
            if self._server_port >= CLIENT_PORT_FIRST:
                self._server_port = SERVER_PORT_FIRST
            if (host, self._server_port) not in self._listeners:
                return self._server_port
        raise _error(errno.EADDRINUSE, f"no free port on {host}")

    def _local(self, asked: tuple[str, int] | None) -> Address:
        """Return a client's own address."""
        if asked is not None and asked[1]:
            return literal_host(asked[0]), asked[1]
        self._client_port += 1
        if self._client_port > PORT_MAX:
            self._client_port = CLIENT_PORT_FIRST
        return literal_host(None if asked is None else asked[0]), self._client_port


class ListeningSocket:
    """Where a server listens, as far as a socket tells."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    def getsockname(self) -> Address:
        """Return the address."""
        return self._address


class MemoryServer(asyncio.AbstractServer):
    """A listener; made by `Network.listen`.

    Attributes
    ----------
    address : Address
    """

    def __init__(
        self, network: Network, make: MakeProtocol, address: Address, context: SSLContext | None
    ) -> None:
        self.address = address
        self._network = network
        self._make = make
        self._tls = context
        self._serving = False
        self._open = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def port(self) -> int:
        """Port of the address."""
        return self.address[1]

    @property
    def sockets(self) -> tuple[ListeningSocket, ...]:
        """What it listens on; nothing once closed."""
        return (ListeningSocket(self.address),) if self._serving else ()

    def start(self) -> None:
        """Begin to listen."""
        if not self._serving:
            self._network.add(self.address, self)
            self._serving = True

    def protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection; where it cannot be made, one that ends it."""
        try:
            protocol = self._make()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            loop = self.get_loop()
            loop.call_exception_handler({"message": "Error on accepting a connection", "exception": error})
            return _Ending()
        if self._tls is None:
            return protocol
        no_waiter = cast("asyncio.Future[Any]", None)  # nobody waits for the handshake at this end
        return sslproto.SSLProtocol(self.get_loop(), protocol, self._tls, no_waiter, server_side=True)

    def attach(self) -> None:
        """Count a connection."""
        self._open += 1

    def detach(self) -> None:
        """Count a connection less."""
        self._open -= 1
        self._wake_if_over()

    def close(self) -> None:
        """Stop listening; connections go on."""
        if self._serving:
            self._serving = False
            self._network.remove(self.address)
        self._wake_if_over()

    def get_loop(self) -> VirtualLoop:
        """Return the loop."""
        return self._network.loop

    def is_serving(self) -> bool:
        """Tell whether it listens."""
        return self._serving

    async def start_serving(self) -> None:
        """Begin to listen."""
        self.start()

    async def serve_forever(self) -> None:
        """Listen until cancelled, then close."""
        self.start()
        try:
            await self.get_loop().create_future()
        finally:
            self.close()
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until it is closed and its connections have ended."""
        if self._serving or self._open:
            waiter = self.get_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _wake_if_over(self) -> None:
        if not self._serving and not self._open:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                _wake(waiter)


class _Ending(asyncio.Protocol):
    """Closes the connection it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close."""
        transport.close()


def literal_host(host: str | None) -> str:
    """Return an address of this machine for a name of it.

    Raises
    ------
    socket.gaierror
        It is another machine's, or a name that would have to be looked up.
    """
    if host in (None, "", "localhost", "0.0.0.0"):
        return LOOPBACK
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise socket.gaierror(
            socket.EAI_NONAME,
            f"{host!r} found; in memory there is this machine alone: allowed are 127.0.0.1, ::1, localhost",
        )
    return str(address)


def _error(number: int, text: str) -> OSError:
    return OSError(number, f"{text}: {os.strerror(number)}")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
