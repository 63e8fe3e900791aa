"""Software in the loop: devices behind a network in memory, in virtual time.

Rules of this file: the servers and the client are those of real sockets and exchange the same bytes; time is
the loop's, and the loop jumps.  The same world, seed and controller give the same record, byte for byte.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from ridethrough.emulator.server import TcpServer

from .link import Link, Route
from .pacer import SECOND_NS, RealClock
from .virtual.loop import VirtualLoop
from .virtual.network import LOOPBACK
from .virtual.transport import Address
from .wires import limits_of

if TYPE_CHECKING:
    from .live import Units
    from .stage import Stage

_NOT_YET: Final = 2**62
"""An origin of bench time that lies behind everything: no fault acts before the world begins [ns]."""

PORT_FIRST: Final = 20_001
"""Device number 1 listens here, the next ones follow: nobody else does in memory."""

BARE_PORT_FIRST: Final = 40_001
"""The same for those who are to reach a device without the network's faults."""


class Memory:
    """A network in memory, on a running `VirtualLoop`.

    Parameters
    ----------
    timeout_ns : int
        A message later than this is abandoned [ns].
    """

    apart = False
    speed = 1.0

    def __init__(self, timeout_ns: int) -> None:
        self.timeout_s = timeout_ns / 1e9
        self._routes: dict[Address, Route] = {}

    def clock(self) -> RealClock:
        """Return bench time, which begins now; the plant moves by seconds."""
        loop = _loop()
        loop.network.origin_ns = loop.now_ns
        return RealClock(1.0, SECOND_NS, is_real=False)

    async def open(self, stack: AsyncExitStack, stage: Stage, d: int, units: Units) -> str:
        """Let device `d` listen in memory and return where, as a target."""
        network, address = _loop().network, (LOOPBACK, PORT_FIRST + d)
        world = stage.world
        if not self._routes:
            network.origin_ns = _NOT_YET
            network.weather = self._weather
            network.devices = [(LOOPBACK, PORT_FIRST + row) for row in range(len(world.names))]
        self._routes[address] = Route(world.seed, world.names, d, world.comms, stage.scene.events)
        server = await stack.enter_async_context(TcpServer(units, limits_of(stage.plant.profiles[d])))
        listener = await _loop().create_server(server.accept, *address)
        stack.callback(listener.close)
        bare = await _loop().create_server(server.accept, *self.address_of(d))
        stack.callback(bare.close)
        return f"tcp:{LOOPBACK}:{address[1]}/1"

    def _weather(self, client: Address, server: Address) -> Link | None:
        """Return the link of a new connection."""
        route = self._routes.get(server)
        return None if route is None else route.link()

    def touched(self, d: int, since_ns: int) -> bool:
        """Whether a fault has touched what passed between the bench and device `d` since then [ns]."""
        return self._routes[LOOPBACK, PORT_FIRST + d].touched_ns >= since_ns

    def address_of(self, d: int) -> tuple[str, int]:
        """Return where device `d` itself listens, past its link."""
        return LOOPBACK, BARE_PORT_FIRST + d

    def begin(self, d: int, is_command: bool) -> None:
        """Let what passes to and from device `d` be one poll, or one command, to the network's faults."""
        self._routes[LOOPBACK, PORT_FIRST + d].begin(is_command)


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise TypeError(f"a VirtualLoop is needed, {type(loop).__name__} is running")
    return loop
