"""Hardware in the loop: real sockets and the real clock.

Each device sits behind its own Modbus server on loopback, a relay injects the network's faults, and one
actor per device owns its only connection: it polls, and writes what the controller last asked.  Plant,
record, faults and controller are those of the model level.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commands, Pool, Telemetry
from ridethrough.emulator.errors import RidethroughError
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import NS_PER_TICK, Plant
from ridethrough.emulator.points import Point
from ridethrough.emulator.server import serve_tcp

from .candidate import Candidate
from .device import Device
from .effects.candidate import CandidateFaults
from .effects.orders import OrderFaults
from .effects.plant import PlantFaults
from .freezing import FreezableUnit
from .messages import LOST, delay_ns
from .modbus_link import TargetError
from .pacer import SECOND_NS, RealClock
from .record import OUTCOMES, RecordWriter
from .relay import LOOPBACK, Relay
from .scene import Conditions, Scene
from .streams import stream
from .truth import TruthLog
from .world import World

TIMEOUT_S_MIN = 0.25
"""Real time a request is given at least, however fast the bench runs [s]."""

LAG_NS_MAX = 5 * SECOND_NS
"""The plant may be this far behind the clock and catch up; beyond it the clock is held [ns]."""

HELD_FRAC_MAX = 0.5
"""A bench that had to hold its clock for more than this share of the run is not fit to judge."""

FLUSH_S = 5.0
"""The record is put on the disk this often, in real time [s]."""

Progress = Callable[[int], None]


@dataclass
class _Order:
    """What the controller last asked of one device."""

    decided_ns: int
    power_w: float
    validity_s: float
    reserve_soc_frac: float


class _Board:
    """The newest reading of every device."""

    def __init__(self, n: int) -> None:
        self.measured_ns = np.full(n, -1, dtype=np.int64)
        self.received_ns = np.full(n, -1, dtype=np.int64)
        self.values = {name: np.full(n, np.nan) for name in ("soc_frac", "power_w", "import_w", "grid_good")}


class _Fate:
    """Fate of the messages of one device, from streams of its own."""

    def __init__(self, bench: LiveBench, d: int) -> None:
        self._bench, self._d = bench, d
        world = bench.world
        self._streams = {
            is_command: stream(
                world.seed, f"{world.names[d]}/comms/{'commands' if is_command else 'telemetry'}"
            )
            for is_command in (True, False)
        }

    def __call__(self, is_command: bool) -> float:
        """Return the delay of one message in real seconds, or `LOST`."""
        if not self._bench.started:  # devices are discovered before the world begins
            return 0.0
        conditions = self._bench.conditions()
        d = self._d
        cut = conditions.cut_commands[d] if is_command else conditions.cut_telemetry[d]
        loss, late = self._streams[is_command].random(2)
        if cut or loss < conditions.loss_frac[d]:
            return LOST
        one = slice(d, d + 1)
        delay = delay_ns(np.array([late]), conditions.latency_ns_mean[one], conditions.latency_ns_p99[one])
        return self._bench.clock.real_s(round(float(delay[0])))


class LiveBench:
    """One run over real sockets.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    pool : Pool
    candidate : Candidate
        Enrolled.
    writer : RecordWriter
        Left open.
    speed : float
        Bench seconds per real second.
    progress : callable, optional
        Called with the bench time now and then [ns].

    Attributes
    ----------
    held_ns : int
        For how long the world had to stand still because this machine could not keep up [ns].
    started, over : bool
        The clock runs, and no fault acts before that; the run is at its end.
    clock : RealClock
        Once started.
    """

    clock: RealClock

    def __init__(
        self,
        world: World,
        plant: Plant,
        pool: Pool,
        candidate: Candidate,
        writer: RecordWriter,
        *,
        speed: float,
        progress: Progress | None = None,
    ) -> None:
        self.world, self.plant, self.pool = world, plant, pool
        self.candidate, self.writer = candidate, writer
        self.speed = speed
        self.progress = progress
        self.scene = Scene(world)
        self.held_ns = 0
        self.started = self.over = False
        self._now_ns = 0
        self._log = TruthLog(plant, writer)
        self._devices = PlantFaults(plant, world.seed, world.names)
        self._broker = OrderFaults(world.seed, world.names)
        self._candidate = CandidateFaults(candidate)
        self._board = _Board(plant.n)
        self._orders: list[_Order | None] = [None] * plant.n
        self._woken = [asyncio.Event() for _ in range(plant.n)]
        self._units: list[list[FreezableUnit]] = []

    def conditions(self) -> Conditions:
        """Return the faults in force at the plant's present instant."""
        return self.scene.conditions(self._now_ns)

    async def run(self) -> None:
        """Serve, poll, decide and step until the world's duration is over.

        Raises
        ------
        DeviceError
            A device cannot be reached or mapped at the start.
        """
        async with AsyncExitStack() as stack:
            devices = [await self._make_device(stack, d) for d in range(self.plant.n)]
            await asyncio.gather(*(device.discover() for device in devices))
            self.clock = RealClock(self.speed)
            self.started = True
            try:
                await self._play(devices)
            except BaseExceptionGroup as group:
                raise _told(group) from group

    async def _play(self, devices: list[Device]) -> None:
        """Let everybody act until the plant has reached the end."""
        async with asyncio.TaskGroup() as group:
            actors = [group.create_task(self._act(d, device)) for d, device in enumerate(devices)]
            actors.append(group.create_task(self._control()))
            actors.append(group.create_task(self._flush()))
            try:
                await self._step_plant()
            finally:
                # On Python 3.11 asyncio.wait_for loses a cancellation that arrives together with a reply, so
                # the actors also look for themselves whether the run is over, by an error too.
                self.over = True
                self._log.flush()  # an interrupted run keeps all that happened
            for actor in actors:
                actor.cancel()

    async def _make_device(self, stack: AsyncExitStack, d: int) -> Device:
        """Serve device `d` behind a relay and return the client to it."""
        units = {}
        frozen = []
        for unit_id, image in units_of(self.plant, d).items():
            layout = image.layout
            settings = _registers(p for p in layout.points if p.writable or p.name.endswith("RvrtRem"))
            heartbeat = _registers(p for p in layout.points if (p.model, p.name) == (715, "DERHb"))
            unit = FreezableUnit(image, layout.base_address, layout.count, settings, heartbeat)
            units[unit_id] = unit
            frozen.append(unit)
        self._units.append(frozen)
        server = await stack.enter_async_context(await serve_tcp(units))
        relay = Relay(server.port, _Fate(self, d))
        await relay.start()
        stack.push_async_callback(relay.close)
        timeout_s = max(self.world.comms.timeout_ns / 1e9 / self.speed, TIMEOUT_S_MIN)
        target = f"tcp:{LOOPBACK}:{relay.port}/1"
        # A read asked again would hide the messages that the scenario loses.
        return await stack.enter_async_context(Device(target, timeout_s=timeout_s, reread=False))

    async def _step_plant(self) -> None:
        """Keep the plant up with the clock, and the record with the plant."""
        log = self._log
        unsettled = np.zeros(self.plant.n, dtype=np.bool_)
        quantum_ns = self.clock.quantum_ns
        while self._now_ns < self.world.duration_ns:
            self.scene.set_inputs(self.plant, self._now_ns)
            self._set_frozen()
            edge_ns = self.scene.next_edge_ns(self._now_ns)
            until_ns = min(self._now_ns + quantum_ns, edge_ns, self.world.duration_ns)
            await self.clock.sleep_until(until_ns)
            late_ns = self.clock.now_ns() - until_ns
            if late_ns > LAG_NS_MAX:
                # Plant, polls and controller live by one clock, so all of them wait, and nothing is missed.
                self.clock.hold(late_ns - LAG_NS_MAX)
                self.held_ns += late_ns - LAG_NS_MAX
            self._devices.step(self._now_ns, self.scene.events(self._now_ns))
            self.plant.advance((until_ns - self._now_ns) // NS_PER_TICK)
            before, unsettled = unsettled, unsettled | log.unsettled()
            self._now_ns = until_ns
            coarse = until_ns % self.world.poll_ns == 0 or until_ns % self.world.load_step_ns == 0
            if coarse or until_ns in (edge_ns, self.world.duration_ns):
                log.write(until_ns)
                unsettled = log.unsettled()
            elif until_ns % SECOND_NS == 0:
                log.write(until_ns, before | unsettled)
                unsettled = log.unsettled()
            if self.progress is not None:
                self.progress(until_ns)

    def _set_frozen(self) -> None:
        conditions = self.conditions()
        for d, units in enumerate(self._units):
            for unit in units:
                if conditions.frozen[d]:
                    unit.freeze(fresh=bool(conditions.frozen_fresh[d]))
                else:
                    unit.thaw()

    async def _act(self, d: int, device: Device) -> None:
        """Own the connection to device `d`: poll in time, write what was asked."""
        poll_ns = self.world.poll_ns
        next_ns = poll_ns * d // self.plant.n  # spread over the period
        beat = math.nan
        while not self.over:
            woken = self._woken[d]
            with suppress(TimeoutError):  # no order came before the poll was due
                async with asyncio.timeout(max(0.0, self.clock.real_s(next_ns - self.clock.now_ns()))):
                    await woken.wait()
            if woken.is_set():
                woken.clear()
                await self._write(d, device)
            if self.clock.now_ns() >= next_ns:
                beat = await self._poll(d, device, beat)
                # The next turn of this device that is still to come, however long this one took.
                next_ns += ((self.clock.now_ns() - next_ns) // poll_ns + 1) * poll_ns

    async def _poll(self, d: int, device: Device, beat: float) -> float:
        """Read device `d`; returns its heartbeat, NaN where it has none."""
        asked_ns = self.clock.now_ns()
        try:
            reading = await device.telemetry()
        except TargetError:
            return beat  # no reading: the controller sees the last one grow old
        # A heart that stands still means the reading is no newer than the last one.
        still = not math.isnan(reading.heartbeat) and reading.heartbeat == beat
        measured_ns = int(self._board.measured_ns[d]) if still else asked_ns
        received_ns = self.clock.now_ns()
        values = {name: float(getattr(reading, name)) for name in self._board.values}
        self._board.measured_ns[d], self._board.received_ns[d] = measured_ns, received_ns
        for name, value in values.items():
            self._board.values[name][d] = value
        self.writer.append_telemetry(
            {
                "received_ns": np.array([received_ns]),
                "measured_ns": np.array([measured_ns]),
                "device": np.array([d]),
                **{name: np.array([value]) for name, value in values.items()},
            }
        )
        return reading.heartbeat

    async def _write(self, d: int, device: Device) -> None:
        """Write the last order to device `d` and note what became of it."""
        order, self._orders[d] = self._orders[d], None
        if order is None:
            return
        outcome = "lost"
        # An order that waited out a dead connection is too old to be carried out.
        if self.clock.now_ns() - order.decided_ns <= self.pool.delay_s_max * 1e9:
            try:
                if not math.isnan(order.reserve_soc_frac):
                    await device.set_reserve(order.reserve_soc_frac)
                if not math.isnan(order.power_w):
                    # The device counts bench seconds, whole ones.
                    await device.set_power(order.power_w, math.ceil(order.validity_s))
                outcome = "delivered"
            except TargetError as error:
                outcome = "refused" if error.refused else "lost"
        self.writer.append_commands(
            {
                "t_ns": np.array([order.decided_ns]),
                "arrival_ns": np.array([LOST if outcome == "lost" else self.clock.now_ns()]),
                "device": np.array([d]),
                "power_w": np.array([order.power_w]),
                "validity_s": np.array([order.validity_s]),
                "reserve_soc_frac": np.array([order.reserve_soc_frac]),
                "outcome": np.array([OUTCOMES.index(outcome)]),
            }
        )

    async def _control(self) -> None:
        """Ask the controller in time and hand its commands to the actors."""
        next_ns = 0
        while not self.over:
            await self.clock.sleep_until(next_ns)
            now_ns = self.clock.now_ns()
            events = self.scene.events(self._now_ns)
            seen = self._broker.see(now_ns, self._telemetry(now_ns), events)
            self._broker.send(now_ns, self._candidate.decide(now_ns, seen, events), events)
            for commands in self._broker.due(now_ns, events):
                self._hand_out(now_ns, commands)
            next_ns = (now_ns // self.candidate.period_ns + 1) * self.candidate.period_ns

    def _telemetry(self, now_ns: int) -> Telemetry:
        board = self._board
        return Telemetry(
            measured_ns=board.measured_ns.copy(),
            received_ns=board.received_ns.copy(),
            prices=self.scene.prices(min(now_ns, self.world.duration_ns - 1)),
            **{name: values.copy() for name, values in board.values.items()},
        )

    def _hand_out(self, now_ns: int, commands: Commands) -> None:
        asked: NDArray[np.bool_] = ~np.isnan(commands.power_w) | ~np.isnan(commands.reserve_soc_frac)
        for d in np.flatnonzero(asked):
            self._orders[d] = _Order(
                now_ns,
                float(commands.power_w[d]),
                float(commands.validity_s[d]),
                float(commands.reserve_soc_frac[d]),
            )
            self._woken[d].set()

    async def _flush(self) -> None:
        while not self.over:
            await asyncio.sleep(FLUSH_S)
            self._log.flush()
            self.writer.flush()

    @property
    def bench_fault(self) -> str:
        """What makes the bench itself unfit to judge; empty when nothing does."""
        if self.held_ns <= HELD_FRAC_MAX * self.world.duration_ns:
            return ""
        return (
            f"this machine held the world still for {self.held_ns / 1e9:.0f} s of bench time in a run of "
            f"{self.world.duration_ns / 1e9:.0f} s; run it at a lower --speed than {self.speed:g}"
        )


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error on purpose in a group, for the user; the group itself when it holds none."""
    ours, _ = group.split(RidethroughError)
    found: BaseException = group if ours is None else ours
    while isinstance(found, BaseExceptionGroup) and ours is not None:
        found = found.exceptions[0]
    return found


def _registers(points: Iterable[Point]) -> tuple[int, ...]:
    """Return the registers of some points."""
    return tuple(register for p in points for register in range(p.address, p.address + p.size))
