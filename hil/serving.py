"""Emulated devices on the wire, until they are told to stop.

Each device gets a port of its own; its inverter and its meter are two units behind it.  The world goes on
by the real clock, so what clients write takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ridethrough.emulator.errors import RidethroughError, ScenarioError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import NS_PER_TICK, Plant
from ridethrough.emulator.server import serve_tcp

from .pacer import RealClock

PORT_MAX = 65_535


@dataclass(frozen=True, slots=True)
class Served:
    """Where one device answers.

    Attributes
    ----------
    name, profile : str
    host : str
    port : int
    units : tuple of int
        Unit ids: the inverter, then the meter.
    """

    name: str
    profile: str
    host: str
    port: int
    units: tuple[int, ...]

    @property
    def target(self) -> str:
        """The inverter as the other verbs want it."""
        return f"tcp:{self.host}:{self.port}/{self.units[0]}"


async def serve(
    plant: Plant,
    names: Sequence[str],
    *,
    host: str,
    port: int,
    speed: float,
    ready: Callable[[list[Served]], None],
    set_inputs: Callable[[int], None],
    allow_remote: bool = False,
) -> None:
    """Serve every device of a plant until cancelled.

    Parameters
    ----------
    plant : Plant
    names : sequence of str
        One per device.
    host : str
        Address to listen on.
    port : int
        Of the first device, the next ones follow; 0 picks free ones.
    speed : float
        Bench seconds per real second.
    ready : callable
        Called once with where each device answers.
    set_inputs : callable
        Sets the plant's inputs for a bench time [ns].
    allow_remote : bool
        Allow an address that other machines can reach.

    Raises
    ------
    ScenarioError
        When an address cannot be used.
    """
    if port and port + plant.n - 1 > PORT_MAX:
        raise ScenarioError(
            f"--port {port}: {plant.n} devices need ports up to {port + plant.n - 1}; allowed {PORT_MAX}"
        )
    async with AsyncExitStack() as stack:
        served = []
        for d, name in enumerate(names):
            units = units_of(plant, d)
            wanted = port + d if port else 0
            try:
                server = await serve_tcp(units, host, wanted, allow_remote=allow_remote)
            except OSError as error:
                raise RidethroughError(
                    f"cannot listen on {host}:{wanted}: {error.strerror}; choose another --port"
                ) from error
            await stack.enter_async_context(server)
            profile = plant.profiles[d].profile
            served.append(Served(name, profile, server.host, server.port, tuple(units)))
        ready(served)
        clock = RealClock(speed)
        now_ns = 0
        while True:
            set_inputs(now_ns)
            await clock.sleep_until(now_ns + clock.quantum_ns)
            plant.advance(clock.quantum_ns // NS_PER_TICK)
            now_ns += clock.quantum_ns
