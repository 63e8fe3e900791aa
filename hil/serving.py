"""Emulated devices on the wire, until they are told to stop.

Each device gets a port of its own; its inverter and its meter are two units behind it.  The world goes on
by the real clock, so what clients write takes effect.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ridethrough.emulator.errors import RidethroughError, ScenarioError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import NS_PER_TICK, Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import serve_tcp

from .assembly import make_plant
from .files import profile_names, read_text_file, scenario_names
from .pacer import RealClock
from .scene import Scene
from .world import World

PORT_MAX: Final = 65_535


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
    target : str
        The inverter as the other verbs want it.
    """

    name: str
    profile: str
    host: str
    port: int
    units: tuple[int, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Site:
    """What is served: a plant, its devices' names, and what sets its inputs at a bench time [ns]."""

    plant: Plant
    names: tuple[str, ...]
    set_inputs: Callable[[int], None]


def is_profile(name: str) -> bool:
    """Tell whether `name` means a device profile rather than a scenario.

    Raises
    ------
    ScenarioError
        A bundled name that is neither.
    """
    if name in profile_names():
        return True
    if name in scenario_names():
        return False
    if not name.endswith((".yaml", ".yml")):
        known = ", ".join((*profile_names(), *scenario_names()))
        raise ScenarioError(f"{name!r}: allowed a bundled profile or scenario ({known}) or a YAML file")
    return any(line.startswith("profile:") for line in read_text_file(Path(name)).splitlines())


def one_device(profile: DeviceProfile, soc_frac: float, load_w: float, pv_w: float) -> Site:
    """Return a site of one device in a steady world.

    Raises
    ------
    ScenarioError
        The state of charge is outside the profile's window.
    """
    battery = profile.battery
    if not battery.soc_frac_min <= soc_frac <= battery.soc_frac_max:
        raise ScenarioError(
            f"--soc {soc_frac:.1%}: allowed {battery.soc_frac_min:.0%} to {battery.soc_frac_max:.0%} for "
            f"{profile.profile}"
        )
    plant = Plant([profile], soc_frac=soc_frac)
    plant.set_input("load_w", load_w)
    plant.set_input("pv_w_available", pv_w)
    return Site(plant, (profile.profile,), lambda now_ns: None)


def whole_world(world: World) -> Site:
    """Return the devices of a world; after its end its last inputs go on."""
    plant = make_plant(world)
    scene = Scene(world)
    last_ns = world.duration_ns - 1
    return Site(plant, world.names, lambda now_ns: scene.set_inputs(plant, min(now_ns, last_ns)))


async def serve_site(
    site: Site,
    host: str,
    port: int,
    speed: float,
    ready: Callable[[list[Served]], None],
    *,
    allow_remote: bool = False,
) -> None:
    """Serve every device of a site until cancelled.

    Parameters
    ----------
    site : Site
    host : str
        Address to listen on.
    port : int
        Of the first device, the next ones follow; 0 picks free ones.
    speed : float
        Bench seconds per real second.
    ready : callable
        Called once with where each device answers.
    allow_remote : bool
        Allow an address that other machines can reach.

    Raises
    ------
    ScenarioError
        The address cannot be used.
    RidethroughError
        A port is taken.
    """
    plant = site.plant
    if port and port + plant.n - 1 > PORT_MAX:
        last = port + plant.n - 1
        raise ScenarioError(f"--port {port}: {plant.n} devices need ports up to {last}; allowed {PORT_MAX}")
    async with AsyncExitStack() as stack:
        served = []
        for d, name in enumerate(site.names):
            units = units_of(plant, d)
            wanted = port + d if port else 0
            try:
                server = await serve_tcp(units, host, wanted, allow_remote=allow_remote)
            except OSError as error:
                said = error.strerror or error
                raise RidethroughError(
                    f"cannot listen on {host}:{wanted}: {said}; choose another --port"
                ) from error
            await stack.enter_async_context(server)
            target = f"tcp:{server.host}:{server.port}/{min(units)}"
            profile = plant.profiles[d].profile
            served.append(Served(name, profile, server.host, server.port, tuple(units), target))
        ready(served)
        clock = RealClock(speed)
        quantum_ns = clock.quantum_ns
        now_ns = 0
        while True:
            site.set_inputs(now_ns)
            await clock.sleep_until(now_ns + quantum_ns)
            plant.advance(quantum_ns // NS_PER_TICK)
            now_ns += quantum_ns
