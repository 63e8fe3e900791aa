"""Devices behind real sockets on loopback, each with a relay before it: the network of hardware in the loop.

Rules of this file: every device has a server and a relay of its own; faults act in the relay.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from ridethrough.emulator.server import serve_tcp

from .link import Route
from .pacer import RealClock
from .relay import LOOPBACK, Relay
from .wires import at_speed, limits_of

if TYPE_CHECKING:
    from .live import Units
    from .stage import Stage

TIMEOUT_S_MIN: Final = 0.25
"""Real time a request is given at least, however fast the bench runs [s]."""


class Sockets:
    """Real sockets on the real clock.

    Parameters
    ----------
    speed : float
        Bench seconds per real second.
    timeout_ns : int
        A message later than this is abandoned, in bench time [ns].
    apart : bool
        The controller runs in a process of its own, and the bench goes on while it thinks.
    """

    def __init__(self, speed: float, timeout_ns: int, *, apart: bool = False) -> None:
        self.speed, self.apart = speed, apart
        self.timeout_s = max(timeout_ns / 1e9 / speed, TIMEOUT_S_MIN)
        self._routes: list[Route] = []
        self._ports: list[int] = []

    def clock(self) -> RealClock:
        """Return bench time, which begins now."""
        return RealClock(self.speed)

    async def open(self, stack: AsyncExitStack, stage: Stage, d: int, units: Units) -> str:
        """Serve device `d` behind a relay and return the relay's address as a target."""
        world = stage.world
        limits = at_speed(limits_of(stage.plant.profiles[d]), self.speed)
        server = await stack.enter_async_context(await serve_tcp(units, limits=limits))
        self._ports.append(server.port)
        route = Route(world.seed, world.names, d, world.comms, stage.scene.events)
        self._routes.append(route)
        relay = Relay(route.link, self._ports.__getitem__, stage.coming)
        await relay.start()
        stack.push_async_callback(relay.close)
        return f"tcp:{LOOPBACK}:{relay.port}/1"

    def touched(self, d: int, since_ns: int) -> bool:
        """Whether a fault has touched what passed between the bench and device `d` since then [ns]."""
        return self._routes[d].touched_ns >= since_ns

    def address_of(self, d: int) -> tuple[str, int]:
        """Return where device `d` itself listens, past its link."""
        return LOOPBACK, self._ports[d]

    def begin(self, d: int, is_command: bool) -> None:
        """Let what passes to and from device `d` be one poll, or one command, to the network's faults."""
        self._routes[d].begin(is_command)
