"""Our own client before a device with quirks: what it reads, what it commands, what it says, and the truth.

Time is virtual, one bench second each, so the times of the quirks are those of their files.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field

from ridethrough.emulator.fields import TICKS_PER_S
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.profile import DeviceProfile
from ridethrough.emulator.quirks.knobs import Quirks
from ridethrough.emulator.quirks.transport import serve_quirky
from ridethrough.emulator.quirks.unit import quirky_units
from ridethrough.emulator.quirks.writes import WriteLayer
from ridethrough.hil.conformance.capability import CapabilityReport, discover_capabilities
from ridethrough.hil.conformance.subject import Subject
from ridethrough.hil.device import Device
from ridethrough.hil.device_scan import scan
from ridethrough.hil.modbus_link import TargetError
from ridethrough.hil.target import TcpTarget

from tests.devices import home
from tests.quirks.transport_bench import Home, QuickLoop, generator

TIMEOUT_S = 5.0
HOUR_S = 3600
SETTLE_S = 8.0
"""From a command to the power that it asks for, with the ramp of these devices."""

POLLS = 10
VALIDITY_S, LAST_S, PAUSE_S = 600, 400, 12.0
"""Of commands that are replaced; of the last one, which is left to end; between polls until then."""

_OLD = (1, 101, 120, 121, 122, 123, 124, 160)
_NEW = (1, 701, 702, 703, 704, 705, 713, 714, 715, 802)


def _face(*models: int, families: tuple[str, ...]) -> DeviceProfile:
    """Return a device of 5 kW both ways, 13.5 kWh and a reserve of 20 %, which alone gives 0 W."""
    return home(
        control={"revert_state": "idle", "families": families},
        face={"models": tuple(dict.fromkeys(models)), "pv_strings": 1},
    )


NEW, OLD, BOTH = "704", "124", "both"

DEVICES = {
    NEW: _face(*_NEW, families=("704",)),
    OLD: _face(*_OLD, families=("124",)),
    BOTH: _face(*_OLD, *_NEW, families=("704", "124")),
}
"""One device with three faces: commanded by 704, its reserve in 802; by 124, its reserve there; by either."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a quirk needs in order to show.

    Attributes
    ----------
    device : str
        One of `DEVICES`.
    start_of_day_s, warm_s : int
        Time of day at the start, and how long the device runs before the client comes [s].
    soc_frac : float
    reserves : tuple of float
        Reserves that are set, one after the other.
    points : tuple of (str, float)
        Points that are written, and with what.
    flash_writes : int
        Writes that the device's flash has seen already.
    seed : int
    """

    device: str = BOTH
    start_of_day_s: int = 12 * HOUR_S
    warm_s: int = 1
    soc_frac: float = 0.6
    reserves: tuple[float, ...] = (0.03, 0.3)
    points: tuple[tuple[str, float], ...] = ()
    flash_writes: int = 0
    seed: int = 5


@dataclass
class Story:
    """What became of one client at one home.

    Attributes
    ----------
    said : list of str
        Warnings, notes and errors, in order.
    failed : dict of str to int
        How often each thing that was tried ended in an error.
    wrong : list of str
        Values that are neither the truth nor unknown.
    unknown : dict of str to int
        How often each quantity was unknown.
    disobeyed : list of str
        Commands that the device held, and that its power did not follow, or outlived.
    """

    said: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    disobeyed: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that was said, each once."""
        return "\n".join(dict.fromkeys(self.said))

    @property
    def troubles(self) -> list[str]:
        """Everything that did not go right."""
        failed = [f"{what} failed {times} times" for what, times in self.failed.items()]
        unknown = [f"{what} unknown {times} times" for what, times in self.unknown.items()]
        return [*failed, *unknown, *self.wrong, *self.disobeyed]

    async def tried(self, what: str, work: Awaitable[object]) -> bool:
        """Do something; an error is kept."""
        try:
            await work
        except TargetError as error:
            self.failed[what] = self.failed.get(what, 0) + 1
            self.said.append(str(error))
            return False
        return True


class ClientHome(Home):
    """A home for one client, and what became of it."""

    def __init__(self, quirks: Quirks, found: Circumstances) -> None:
        self.found = found
        self.story = Story()
        self.plant = Plant([DEVICES[found.device]], soc_frac=found.soc_frac)
        self.plant.set_input("load_w", 500.0)
        self._quirks, self._rng = quirks, generator(found.seed)
        self.units = quirky_units(self.plant, 0, quirks, self._rng, start_of_day_s=found.start_of_day_s)
        self.unit = 1 if 1 in self.units else min(self.units)
        self.others = [number for number in sorted(self.units) if number != self.unit][:1]
        for layer in self.units[self.unit].layers:
            if isinstance(layer, WriteLayer):
                layer.flash_writes = found.flash_writes
        self.step(found.warm_s)

    def truth(self) -> dict[str, float]:
        """Return what a reading should tell."""
        capacity_j = HOUR_S * DEVICES[self.found.device].battery.energy_wh
        states = {name: float(self.plant.states(name)[0]) for name in ("energy_j", "power_w", "import_w")}
        return {
            "soc_frac": states["energy_j"] / capacity_j,
            "power_w": states["power_w"],
            "import_w": states["import_w"],
        }

    async def poll(self, device: Device, step_w: float) -> None:
        """Read once, and compare with the truth before and after."""
        before, told = self.truth(), []

        async def read() -> None:
            told.append(await device.telemetry())

        if not await self.story.tried("poll", read()):
            return
        for name, now in self.truth().items():
            value = float(getattr(told[0], name))
            room = 0.01 if name == "soc_frac" else step_w
            low, high = sorted((before[name], now))
            if math.isnan(value):
                self.story.unknown[name] = self.story.unknown.get(name, 0) + 1
            elif not low - room <= value <= high + room:
                self.story.wrong.append(f"{name} told {value:g}, is {now:g}")

    async def polls(self, device: Device, count: int = POLLS, pause_s: float = 1.0) -> None:
        """Read several times; registers show powers to 1 W, to 10 W where a quirk says so."""
        step_w = 12.0 if "scale" in "".join(self._quirks.names) else 2.0
        for _ in range(count):
            await self.poll(device, step_w)
            await asyncio.sleep(pause_s)

    async def command(self, device: Device, power_w: float, validity_s: float = VALIDITY_S) -> bool:
        """Command a power, and see that the plant gives what the device says it holds."""
        held: list[float] = []

        async def set_power() -> None:
            held.append(await device.set_power(power_w, validity_s))

        if not await self.story.tried("command", set_power()):
            return False
        await asyncio.sleep(SETTLE_S)
        now_w = self.truth()["power_w"]
        if abs(now_w - held[0]) > 5.0:
            self.story.disobeyed.append(f"held {held[0]:g} W of {power_w:g}, gives {now_w:g} W")
        return True

    async def last_command(self, device: Device) -> None:
        """Give a command, and let it end by itself."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if not await self.command(device, 1500.0, LAST_S):
            return
        for overtime, until_s in ((False, LAST_S - 60), (True, LAST_S + 120)):
            while loop.time() < began_s + until_s:
                await self.polls(device, 1, PAUSE_S)
            now_w = self.truth()["power_w"]
            if (abs(now_w - 1500.0) < 100.0) is overtime:
                self.story.disobeyed.append(f"1500 W for {LAST_S} s, {until_s} s later gives {now_w:g} W")

    async def ratings(self, device: Device) -> None:
        """Compare what the device is said to be able to do with what it is."""
        can, inverter = await device.capabilities(), DEVICES[self.found.device].inverter
        for told, is_w in (
            (can.power_w_discharge_max, inverter.power_w_discharge_max),
            (can.power_w_charge_max, inverter.power_w_charge_max),
        ):
            if abs(told - is_w) > 0.01 * is_w:
                self.story.wrong.append(f"rating told {told:g}, is {is_w:g}")

    async def visit(self) -> Story:
        """Discover, poll, command both ways, let one command end, set reserves, let go, and scan."""
        story = self.story
        async with self.device(TIMEOUT_S) as device:
            for _ in range(5):
                if await story.tried("discover", self.discover(device)):
                    break
            await story.tried("ratings", self.ratings(device))
            await self.polls(device)
            for power_w in (1200.0, -1234.0, 2600.0):
                await self.command(device, power_w)
                await self.polls(device)
            for point, value in self.found.points:
                await story.tried("point", device.write_point(point, value))
            for soc_frac in self.found.reserves:
                await story.tried("reserve", device.set_reserve(soc_frac))
            await self.last_command(device)
            await story.tried("release", device.release())
            await asyncio.sleep(SETTLE_S)
            await self.polls(device, 2)
            story.said += device.met
        await asyncio.sleep(130.0)  # some devices keep the place of a connection that has ended
        await story.tried("scan", self.scan())
        return story

    async def discover(self, device: Device) -> None:
        """Find out what the device is."""
        self.story.said += (await device.discover()).warnings

    async def scan(self) -> None:
        """Scan the device."""
        target = TcpTarget(self.server.host, self.server.port, self.unit)
        self.story.said += (await scan(target, TIMEOUT_S)).warnings


def visited(quirks: Quirks, found: Circumstances) -> Story:
    """Return the story of a visit to a home."""

    async def test() -> Story:
        home = ClientHome(quirks, found)
        async with home:
            return await home.visit()

    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(test())


class QuickSubject(Subject):
    """A device under test whose waits move its plant on at once."""

    def __init__(self, target: TcpTarget, home: ClientHome) -> None:
        super().__init__(target, TIMEOUT_S)
        self._home = home

    async def sleep(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds * 10))):
            self._home.plant.advance(TICKS_PER_S // 10)
            for unit in self._home.units.values():
                unit.step()
        await asyncio.sleep(0)

    def now(self) -> float:
        return self._home.plant.elapsed_ticks / TICKS_PER_S


def examined(quirks: Quirks, found: Circumstances) -> CapabilityReport:
    """Return what capability discovery finds of a home."""

    async def test() -> CapabilityReport:
        home = ClientHome(quirks, found)
        async with await serve_quirky(home.units, quirks=quirks, rng=generator()) as server:
            target = TcpTarget(server.host, server.port, home.unit)
            return await discover_capabilities(QuickSubject(target, home))

    return asyncio.run(test())
