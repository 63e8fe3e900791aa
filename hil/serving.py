"""Emulated devices on the wire, until they are told to stop.

How clients reach them is in `wires`.  The world goes on by the real clock, so what they write takes effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import NS_PER_TICK, Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.server import open_lane

from .assembly import make_plant
from .files import family_names, is_file_name, profile_names, read_text_file, scenario_names
from .pacer import RealClock
from .scene import Scene
from .target import TcpTarget
from .units import did_you_mean
from .wires import GATEWAY_DEVICES, Door, Dress, Wire, doors_of, open_door
from .world import World

if TYPE_CHECKING:
    from .stage import Stage

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

LOOPBACK: Final = "127.0.0.1"
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
    async with AsyncExitStack() as stack:
        doors = doors_of(site.plant, wire, dress)
        served, lines = await _open_doors(stack, site, wire, doors, dress)
        ready(served)
        steps = [step for door in doors for step in door.steps]
        await _until_gone(_live(site, RealClock(speed), steps), lines)


async def serve_stage(
    stage: Stage,
    wire: Wire,
    ready: Callable[[list[Served]], None],
    *,
    dress: Dress | None = None,
    network: bool = False,
    opened: Callable[[Path], None] | None = None,
    facts: Mapping[str, Any] | None = None,
    beside: Callable[[list[Served]], AbstractAsyncContextManager[Any]] | None = None,
) -> None:
    """Serve every device of a stage until the stage ends, is stopped or cancelled, or its line is gone.

    Parameters
    ----------
    stage : Stage
    wire : Wire
        How clients reach the devices.
    ready : callable
        Called once with where each device answers.
    dress : Dress, optional
        Quirks of all devices; they are then neither watched nor bent by faults of registers.
    network : bool
        Put the scenario's network, and its faults, before each device; with tcp and a port each.
    opened : callable, optional
        Faults can be injected; called with the bench's file, see `remote`.
    facts : mapping, optional
        Of the bench, for those who ask for its state.
    beside : callable, optional
        Given where each device answers, what lives beside them; entered before the world begins.

    Raises
    ------
    ScenarioError
        The address, port or line cannot be used, or has disappeared.
    """
    site = Site(stage.plant, stage.world.names, lambda now_ns: None)
    async with AsyncExitStack() as stack:
        doors = doors_of(site.plant, wire, dress, stage.units)
        near = replace(wire, host=LOOPBACK, port=0) if network else wire
        served, lines = await _open_doors(stack, site, near, doors, dress)
        stage.steps = [step for door in doors for step in door.steps]
        if network:
            served = await _behind_relays(stack, stage, wire, served)
        if beside is not None:
            await stack.enter_async_context(beside(served))
        stage.start(RealClock(stage.speed))
        if opened is not None:
            from .injection import Injector
            from .remote import open_control

            door = open_control(Injector(stage, facts or {}), stage.world.scenario_name)
            opened(await stack.enter_async_context(door))
        ready(served)
        await _until_gone(stage.run(), lines)


async def _open_doors(
    stack: AsyncExitStack, site: Site, wire: Wire, doors: Sequence[Door], dress: Dress | None
) -> tuple[list[Served], list[Any]]:
    """Open every port or line; returns where each device answers, and the lines."""
    if wire.port and wire.port + len(doors) - 1 > PORT_MAX:
        last = wire.port + len(doors) - 1
        raise ScenarioError(
            f"--port {wire.port}: {site.plant.n} devices need ports up to {last}; allowed {PORT_MAX}"
        )
    make_room(len(doors))
    lane = open_lane()
    if lane is not None:
        stack.callback(lane.close)
    served, lines = [], []
    for k, door in enumerate(doors):
        opening, target = await open_door(door, wire, wire.port + k if wire.port else 0, dress, lane)
        server = await stack.enter_async_context(opening)
        lines += [server] if wire.serial else []
        for d, ids in door.devices:
            place = target(ids[0])
            host, port = getattr(place, "host", ""), getattr(place, "port", 0)
            profile = site.plant.profiles[d].profile
            served.append(Served(site.names[d], profile, ids, str(place), host, port))
    return served, lines


async def _behind_relays(
    stack: AsyncExitStack, stage: Stage, wire: Wire, served: Sequence[Served]
) -> list[Served]:
    """Put the network before each device; returns where clients reach them now."""
    from .link import Route
    from .relay import Relay

    world = stage.world
    found = []
    for d, device in enumerate(served):
        route = Route(world.seed, world.names, d, world.comms, stage.scene.events)
        relay = Relay(route.link, lambda row: served[row].port, stage.coming)
        try:
            await relay.start(wire.host, wire.port + d if wire.port else 0)
        except OSError as error:
            raise ScenarioError(
                f"port: cannot listen on {wire.host} port {wire.port + d} ({error.strerror or error}); "
                "choose an address of this machine and a free port above 1023, or port 0 for any free one"
            ) from error
        stack.push_async_callback(relay.close)
        target = TcpTarget(wire.host, relay.port, device.units[0])
        found.append(replace(device, host=wire.host, port=relay.port, target=str(target)))
    return found


async def _until_gone(living: Coroutine[Any, Any, None], lines: Sequence[Any]) -> None:
    """Let the world go on until it ends, or until a serial line is gone."""
    world = asyncio.create_task(living)
    gone = [asyncio.create_task(line.wait_closed()) for line in lines]
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
