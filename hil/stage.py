"""A world that goes on by a clock: the bench without a controller.

Duty: step the plant, let faults act, take in those that are injected, and record what happens and what the
devices are told.  Every bench whose devices stand behind registers uses it, and `serve`; who reaches the
devices how is not its business.
Rules of this file: whatever changes the world from outside acts from the next instant of the plant on, and
the record holds that instant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.image import units_of
from ridethrough.emulator.plant import NS_PER_TICK, Plant

from .effects.plant import PlantFaults
from .effects.registers import RegisterFaults
from .effects.table import places
from .fitness import Fitness
from .pacer import SECOND_NS, ComingClock, RealClock
from .scene import Conditions, Scene
from .watch import Command, watched_units
from .world import World

if TYPE_CHECKING:
    from ridethrough.emulator._modbus import Unit

    from .record import RecordWriter
    from .truth import TruthLog

EXTERNAL: Final = "external: "
"""Begins the controller of a record whose controller was a program; what was started follows."""
CLIENTS: Final = "clients"
"""Controller of a record of `serve`: whoever came."""

LAG_NS_MAX: Final = 5 * SECOND_NS
"""The plant may be this far behind the clock and catch up; beyond it the clock is held [ns]."""

FLUSH_S: Final = 5.0
"""The record is put on the disk this often, in real time [s]."""

ENDLESS_NS: Final = 3660 * 24 * 3600 * SECOND_NS
"""How long a world goes on that is not recorded; behind its own end its last loads and prices hold [ns]."""

WITHOUT_CONTROLLER: Final = frozenset({"grid", "plant", "registers"})
"""Places of faults that every stage has; `link` is one more where there is a network to disturb."""

_WHERE: Final = {
    "candidate": "the controller itself, which is not the bench's here",
    "orders": "the broker between the bench's controller and the devices, which is not there",
    "link": "the connection to a device, which has no network here: --network puts one there",
}


class Stage:
    """The world of one bench on the real clock.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    speed : float
        Bench seconds per real second.
    late_ns_max : int
        The bench may be this late; beyond it the run is not fit to be judged [ns].
    writer : RecordWriter, optional
        Left open; without one the world has no end.
    reach : frozenset of str
        Places where faults can act.
    progress : callable, optional
        Called with the bench time now and then [ns].
    watched : bool
        Record what the devices are told, whoever tells them.

    Attributes
    ----------
    scene : Scene
        The world and its faults.
    fitness : Fitness
        What the bench itself did to the run.
    started : bool
        The clock runs; no fault acts before that.
    clock : RealClock
        Once started.
    coming : ComingClock
        The same for those who look at it before.
    now_ns, next_ns : int
        Where the plant is, and the first instant that has not begun for it [ns].
    steps : sequence of callable
        To be called after each advance of the plant.
    flushes : sequence of callable
        To be called before the record is put on the disk.
    registers : RegisterFaults
        Faults in what the devices report.
    """

    clock: RealClock

    def __init__(
        self,
        world: World,
        plant: Plant,
        *,
        speed: float,
        late_ns_max: int,
        writer: RecordWriter | None = None,
        reach: frozenset[str] = WITHOUT_CONTROLLER,
        progress: Callable[[int], None] | None = None,
        watched: bool = True,
    ) -> None:
        self.world, self.plant, self.speed = world, plant, speed
        self.scene = Scene(world if writer is not None else replace(world, duration_ns=ENDLESS_NS))
        self.fitness = Fitness(
            world.names, world.clock, late_ns_max=late_ns_max, duration_ns=world.duration_ns, speed=speed
        )
        self.started = self.stopped = False
        self.coming = ComingClock()
        self.now_ns = self.next_ns = 0
        self.steps: Sequence[Callable[[], None]] = ()
        self.flushes: Sequence[Callable[[], None]] = ()
        self._watched = watched
        self._writer, self._reach, self._progress = writer, reach, progress
        self._log = None if writer is None else _truth_log(plant, writer)
        self._devices = PlantFaults(plant, world.seed, world.names)
        self.registers = RegisterFaults(world.seed, world.names)
        self._unsettled: NDArray[np.bool_] = np.zeros(plant.n, dtype=np.bool_)
        self._flushed_s = 0.0

    def units(self, plant: Plant, d: int) -> dict[int, Unit]:
        """Return the units of device `d`, with the faults of registers."""
        images = watched_units(plant, d, self._told) if self._watched else units_of(plant, d)
        return {number: self.registers.wrap(d, image, image.layout) for number, image in images.items()}

    def conditions(self) -> Conditions:
        """Return the faults in force at the plant's present instant."""
        return self.scene.conditions(self.now_ns)

    def start(self, clock: RealClock) -> None:
        """Let bench time begin, which `clock` has just done."""
        self.clock = self.coming.begun = clock
        self.started = True

    async def run(self) -> None:
        """Keep the plant up with the clock, and the record with the plant, until the end or `stop`."""
        try:
            while self.now_ns < self.scene.world.duration_ns and not self.stopped:
                await self._step()
        finally:
            self.flush()  # an interrupted run keeps all that happened

    async def _step(self) -> None:
        scene, now_ns = self.scene, self.now_ns
        last_ns = scene.world.duration_ns
        scene.set_inputs(self.plant, now_ns)
        self.registers.step(now_ns, scene.events(now_ns))
        self._devices.step(now_ns, scene.events(now_ns))
        until_ns = min(now_ns + self.clock.quantum_ns, scene.next_edge_ns(now_ns), last_ns)
        self.next_ns = until_ns
        await self.clock.sleep_until(until_ns)
        self._look_how_late(until_ns)
        self.plant.advance((until_ns - now_ns) // NS_PER_TICK)
        for step in self.steps:
            step()
        # Asked again: an event may have been injected meanwhile, and it begins at `until_ns`.
        edge = until_ns in (scene.next_edge_ns(now_ns), last_ns) or self.stopped
        self.now_ns = until_ns
        self._write(until_ns, edge)
        if self._progress is not None:
            self._progress(until_ns)

    def _write(self, now_ns: int, edge: bool) -> None:
        """Write the rows of truth that this instant deserves."""
        log, world = self._log, self.world
        if log is None:
            return
        before, self._unsettled = self._unsettled, self._unsettled | log.unsettled()
        if edge or now_ns % world.poll_ns == 0 or now_ns % world.load_step_ns == 0:
            log.write(now_ns)
        elif now_ns % SECOND_NS == 0 and (before | self._unsettled).any():
            log.write(now_ns, before | self._unsettled)
        else:
            return
        self._unsettled = log.unsettled()
        real_s = self.clock.real_s(now_ns)
        # A run in virtual time is soon over, and its parts are as long as they can be.
        if self.clock.is_real and real_s - self._flushed_s >= FLUSH_S:
            self._flushed_s = real_s
            self.flush()

    def flush(self) -> None:
        """Put everything recorded so far on the disk."""
        for flush in self.flushes:
            flush()
        if self._log is not None and self._writer is not None:
            self._log.flush()
            self._writer.flush()

    def _look_how_late(self, until_ns: int) -> None:
        """Note how late it is, and hold the clock where the plant cannot keep up with it."""
        late_ns = self.clock.now_ns() - until_ns
        self.fitness.late(until_ns, late_ns, "stepping the plant")
        if late_ns > LAG_NS_MAX:
            self.clock.hold(late_ns - LAG_NS_MAX)
            self.fitness.hold(late_ns - LAG_NS_MAX)

    def _told(self, command: Command) -> None:
        """Record what a device was told."""
        if self._writer is None or not self.started:
            return
        from .record import OUTCOMES  # with its Parquet, which serving does without

        # The clock may run ahead of the plant and then be held; no instant lies behind the plant's next one.
        now_ns = np.array([min(self.clock.now_ns(), self.next_ns)])
        self._writer.append_commands(
            {
                "t_ns": now_ns,
                "arrival_ns": now_ns,
                "device": np.array([command.device]),
                "power_w": np.array([command.power_w]),
                "validity_s": np.array([command.validity_s]),
                "reserve_soc_frac": np.array([command.reserve_soc_frac]),
                "outcome": np.array([OUTCOMES.index(command.outcome)]),
            }
        )

    def refuse(self, fault: str) -> str:
        """Return why a fault cannot act here; empty when it can."""
        return refusal(fault, self._reach)

    def note_act(self, act: Mapping[str, Any]) -> None:
        """Put what is about to be done into the record, if there is one."""
        if self._writer is not None:
            self._writer.note_act(act)

    def stop(self) -> None:
        """End the run in good order, at the plant's next instant."""
        self.stopped = True


def refusal(fault: str, reach: frozenset[str]) -> str:
    """Return why a fault cannot act in these places; empty when it can."""
    where = places().get(fault, ())
    if reach & set(where):
        return ""
    told = [_WHERE[place] for place in where if place in _WHERE]
    return f"it acts on {told[0] if told else 'nothing that is here'}"


def _truth_log(plant: Plant, writer: RecordWriter) -> TruthLog:
    from .truth import TruthLog  # with the record and its Parquet, which serving does without

    return TruthLog(plant, writer)
