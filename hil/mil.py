"""Model in the loop: virtual time, the plant called directly, messages as data.

One tick: the clock moves to the next deadline; events apply; the plant steps; due commands arrive;
telemetry is taken; the controller decides; the record gets its rows.  The same world, seed and controller
give the same record, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ridethrough.emulator.plant import NS_PER_TICK, Plant

from .desk import Desk
from .effects.candidate import CandidateFaults
from .effects.orders import OrderFaults, limits_of
from .effects.plant import PlantFaults
from .record import RecordWriter
from .scene import Scene
from .traffic import Orders, Readings
from .truth import TruthLog
from .units import SECOND_NS
from .world import World

Progress = Callable[[int], None]


def run_mil(
    world: World,
    plant: Plant,
    candidate: CandidateFaults,
    writer: RecordWriter,
    progress: Progress | None = None,
) -> None:
    """Run a world against a controller in virtual time.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    candidate : CandidateFaults
        Enrolled.
    writer : RecordWriter
        Left open.
    progress : callable, optional
        Called with the bench time now and then [ns].
    """
    log = TruthLog(plant, writer)
    readings = Readings(world, plant, writer)
    orders = Orders(world, plant, writer)
    broker = OrderFaults(world.seed, world.names, limits=limits_of(plant), tell=writer.append_telemetry)
    try:
        _Loop(world, plant, candidate, log, readings, orders, broker).run(progress)
    finally:  # an interrupted run keeps all that happened
        readings.flush()
        log.flush()


class _Loop:
    """The ticks of one run."""

    def __init__(
        self,
        world: World,
        plant: Plant,
        candidate: CandidateFaults,
        log: TruthLog,
        readings: Readings,
        orders: Orders,
        broker: OrderFaults,
    ) -> None:
        self._world, self._plant, self._log = world, plant, log
        self._readings, self._orders = readings, orders
        self._scene = Scene(world)
        self._desk = Desk(candidate, broker)
        self._devices = PlantFaults(plant, world.seed, world.names)

    def run(self, progress: Progress | None) -> None:
        """Tick until the world's duration is over."""
        world, plant, scene, log = self._world, self._plant, self._scene, self._log
        readings, orders = self._readings, self._orders
        now_ns = next_poll_ns = next_load_ns = next_edge_ns = 0
        unsettled, restless, outage = log.unsettled(), False, False
        while now_ns < world.duration_ns:
            if now_ns >= min(next_load_ns, next_edge_ns):
                scene.set_inputs(plant, now_ns)
                outage = bool((plant.inputs("grid_good") == 0.0).any())
                next_load_ns = (now_ns // world.load_step_ns + 1) * world.load_step_ns
                next_edge_ns = scene.next_edge_ns(now_ns)
            orders.deliver(now_ns)
            if now_ns >= next_poll_ns:
                readings.poll(now_ns, scene)
                next_poll_ns += world.poll_ns
            for commands in self._desk.turn(
                now_ns, partial(readings.telemetry, now_ns, scene), scene.events(now_ns)
            ):
                orders.send(now_ns, commands, scene)
            coarse_ns = min(next_poll_ns, next_load_ns, next_edge_ns, world.duration_ns)
            until_ns = min(coarse_ns, self._desk.next_ns)
            if outage or restless or orders.any:
                until_ns = min(until_ns, (now_ns // SECOND_NS + 1) * SECOND_NS)
            self._devices.step(now_ns, scene.events(now_ns))
            ticks = max(1, (until_ns - now_ns) // NS_PER_TICK)
            plant.advance(ticks)
            now_ns += ticks * NS_PER_TICK
            before, unsettled = unsettled, log.unsettled()
            was_restless, restless = restless, bool(unsettled.any())
            if now_ns >= coarse_ns:
                log.write(now_ns)
            elif restless or was_restless:
                log.write(now_ns, before | unsettled)
            if progress is not None:
                progress(now_ns)
