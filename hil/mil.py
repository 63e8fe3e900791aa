"""Model in the loop: virtual time, the plant called directly, messages as data.

One tick: the clock moves to the next deadline; events apply; the plant steps; due commands arrive;
telemetry is taken; the controller decides; the record gets its rows.  The same world, seed and controller
give the same record, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from ridethrough.emulator.plant import NS_PER_TICK, Plant

from .candidate import Candidate
from .effects.candidate import CandidateFaults
from .effects.orders import OrderFaults
from .effects.plant import PlantFaults
from .record import RecordWriter
from .scene import Scene
from .traffic import Orders, Readings
from .truth import TruthLog
from .units import SECOND_NS
from .world import World

Progress = Callable[[int], None]


def run_mil(
    world: World, plant: Plant, candidate: Candidate, writer: RecordWriter, progress: Progress | None = None
) -> None:
    """Run a world against a controller in virtual time.

    Parameters
    ----------
    world : World
    plant : Plant
        At its start.
    candidate : Candidate
        Enrolled.
    writer : RecordWriter
        Left open.
    progress : callable, optional
        Called with the bench time now and then [ns].
    """
    log = TruthLog(plant, writer)
    readings = Readings(world, plant, writer)
    try:
        _Loop(world, plant, candidate, log, readings, Orders(world, plant, writer)).run(progress)
    finally:  # an interrupted run keeps all that happened
        readings.flush()
        log.flush()


class _Loop:
    """The ticks of one run."""

    def __init__(
        self,
        world: World,
        plant: Plant,
        candidate: Candidate,
        log: TruthLog,
        readings: Readings,
        orders: Orders,
    ) -> None:
        self._world, self._plant, self._log = world, plant, log
        self._readings, self._orders = readings, orders
        self._scene = Scene(world)
        self._period_ns = candidate.period_ns
        self._candidate = CandidateFaults(candidate)
        self._broker = OrderFaults(world.seed, world.names)
        self._devices = PlantFaults(plant, world.seed, world.names)

    def run(self, progress: Progress | None) -> None:
        """Tick until the world's duration is over."""
        world, plant, scene, log, orders = self._world, self._plant, self._scene, self._log, self._orders
        now_ns = next_poll_ns = next_decision_ns = next_load_ns = next_edge_ns = 0
        unsettled, restless, outage = log.unsettled(), False, False
        while now_ns < world.duration_ns:
            if now_ns >= min(next_load_ns, next_edge_ns):
                scene.set_inputs(plant, now_ns)
                outage = bool((plant.inputs("grid_good") == 0.0).any())
                next_load_ns = (now_ns // world.load_step_ns + 1) * world.load_step_ns
                next_edge_ns = scene.next_edge_ns(now_ns)
            orders.deliver(now_ns)
            if now_ns >= next_poll_ns:
                self._readings.poll(now_ns, scene)
                next_poll_ns += world.poll_ns
            if now_ns >= next_decision_ns:
                self._decide(now_ns)
                next_decision_ns += self._period_ns
            self._release(now_ns)
            coarse_ns = min(next_poll_ns, next_load_ns, next_edge_ns, world.duration_ns)
            until_ns = min(coarse_ns, next_decision_ns, self._broker.next_ns() or coarse_ns)
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

    def _decide(self, now_ns: int) -> None:
        """Show the controller what the broker lets it see, and hand what it commands to the broker."""
        events = self._scene.events(now_ns)
        seen = self._broker.see(now_ns, self._readings.telemetry(now_ns, self._scene), events)
        self._broker.send(now_ns, self._candidate.decide(now_ns, seen, events), events)

    def _release(self, now_ns: int) -> None:
        """Send to the devices what leaves the broker."""
        for commands in self._broker.due(now_ns, self._scene.events(now_ns)):
            self._orders.send(now_ns, commands, self._scene)
