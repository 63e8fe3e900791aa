"""Emulated devices on the wire, until they are told to stop.

How clients reach them is in `wires`.  The world goes on by the real clock, so what they write takes effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import NS_PER_TICK, Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import open_lane

from .assembly import make_plant
from .files import family_names, is_file_name, profile_names, read_text_file, scenario_names
from .pacer import RealClock
from .scene import Scene
from .units import did_you_mean
from .wires import GATEWAY_DEVICES, Dress, Wire, doors_of, open_door
from .world import World

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

PORT_MAX: Final = 65_535

OPEN_FILES_MAX: Final = 65_536
"""Sockets and files the process asks for: two for each of many devices."""
OTHER_FILES: Final = 64
"""What it needs beside its ports: its own files, and a few clients."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where one device answers.

    Attributes
    ----------
    name, profile : str
    units : tuple of int
        Unit ids: the inverter and, where it has one of its own, the meter.
    target : str
        The inverter as the other verbs want it.
    host : str
        Of a line: empty.
    port : int
        Of a line: 0.
    """

    name: str
    profile: str
    units: tuple[int, ...]
    target: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Site:
    """What is served: a plant, its devices' names, and what sets its inputs at a bench time [ns]."""

    plant: Plant
    names: tuple[str, ...]
    set_inputs: Callable[[int], None]


def what_is(name: str) -> Literal["profile", "family", "scenario"]:
    """Tell what `name` means.

    Raises
    ------
    ScenarioError
        A bundled name that is none of them, or a file that cannot be read.
    """
    bundled: dict[Literal["profile", "family", "scenario"], tuple[str, ...]] = {
        "profile": profile_names(),
        "family": family_names(),
        "scenario": scenario_names(),
    }
    for kind, names in bundled.items():
        if name in names:
            return kind
    if not is_file_name(name):
        known = [each for names in bundled.values() for each in names]
        raise ScenarioError(
            f"{name!r}{did_you_mean(name, known)}: allowed a bundled profile, family or scenario "
            f"({', '.join(known)}) or a YAML file"
        )
    lines = read_text_file(Path(name)).splitlines()
    if any(line.startswith("profile:") for line in lines):
        return "profile"
    return "family" if any(line.startswith("family:") for line in lines) else "scenario"


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


def make_room(ports: int) -> None:
    """Let this process have as many sockets as the system grants it, which must be enough for `ports`.

    Raises
    ------
    ScenarioError
        Not even the ports themselves fit.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and ports + OTHER_FILES > soft:
        raise ScenarioError(
            f"{ports} ports found, and this process may open {soft} files and sockets, {OTHER_FILES} of them "
            f"besides; allowed fewer devices, --gateway, which puts {GATEWAY_DEVICES} behind each "
            "port, or a higher limit (ulimit -n)"
        )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a uvloop, where it is installed (the extra `uvloop`); None for asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve_site(
    site: Site, wire: Wire, speed: float, ready: Callable[[list[Served]], None], *, dress: Dress | None = None
) -> None:
    """Serve every device of a site until cancelled, or until its serial line is gone.

    Parameters
    ----------
    site : Site
    wire : Wire
        How clients reach the devices.
    speed : float
        Bench seconds per real second.
    ready : callable
        Called once with where each device answers.
    dress : Dress, optional
        Quirks of all devices.

    Raises
    ------
    ScenarioError
        The address, port or line cannot be used, or has disappeared.
    """
    plant = site.plant
    ports = 1 if wire.serial else -(-plant.n // GATEWAY_DEVICES) if wire.gateway else plant.n
    if wire.port and wire.port + ports - 1 > PORT_MAX:
        last = wire.port + ports - 1
        raise ScenarioError(
            f"--port {wire.port}: {plant.n} devices need ports up to {last}; allowed {PORT_MAX}"
        )
    make_room(ports)
    async with AsyncExitStack() as stack:
        lane = open_lane()
        if lane is not None:
            stack.callback(lane.close)
        served = []
        doors = doors_of(plant, wire, dress)
        servers = []
        for k, door in enumerate(doors):
            server, target = await open_door(door, wire, wire.port + k if wire.port else 0, dress, lane)
            servers.append(await stack.enter_async_context(server))
            for d, ids in door.devices:
                place = target(ids[0])
                host, port = getattr(place, "host", ""), getattr(place, "port", 0)
                served.append(Served(site.names[d], plant.profiles[d].profile, ids, str(place), host, port))
        ready(served)
        steps = [step for door in doors for step in door.steps]
        world = asyncio.create_task(_live(site, RealClock(speed), steps))
        gone = [asyncio.create_task(line.wait_closed()) for line in servers if wire.serial]
        try:
            done, _ = await asyncio.wait({world, *gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (world, *gone):
                task.cancel()
            await asyncio.gather(world, *gone, return_exceptions=True)


async def _live(site: Site, clock: RealClock, steps: Sequence[Callable[[], None]]) -> None:
    """Let the world go on."""
    quantum_ns = clock.quantum_ns
    now_ns = 0
    while True:
        site.set_inputs(now_ns)
        await clock.sleep_until(now_ns + quantum_ns)
        site.plant.advance(quantum_ns // NS_PER_TICK)
        for step in steps:
            step()
        now_ns += quantum_ns
