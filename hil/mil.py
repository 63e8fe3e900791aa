"""Model in the loop: virtual time, the plant called directly, messages as data.

One tick: the clock moves to the next deadline; events apply; the plant steps; due commands arrive;
telemetry is taken; the controller decides; the record gets its rows.  The same world, seed and controller
give the same record, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ridethrough.controllers.contract import Commands, Floats, Telemetry, Times
from ridethrough.emulator.layout import quantise_soc
from ridethrough.emulator.plant import NS_PER_TICK, Plant

from .assembly import soc_steps
from .candidate import Candidate
from .messages import LOST, Fates
from .record import OUTCOMES, RecordWriter
from .scene import Scene
from .truth import TruthLog
from .world import World

SECOND_NS = 1_000_000_000
Progress = Callable[[int], None]


class _Readings:
    """Telemetry on its way and arrived: one snapshot per poll, one arrival time per device."""

    def __init__(self, world: World, plant: Plant, writer: RecordWriter) -> None:
        n = plant.n
        self._plant, self._writer = plant, writer
        self._fates = Fates(world.seed, world.names, "telemetry", world.comms.timeout_ns)
        self._step = soc_steps(world)
        self._capacity_j = plant.params("capacity_j")
        self._held: dict[str, Floats] = {}
        self._held_ns = np.full(n, -1, dtype=np.int64)
        self._flying: list[tuple[Times, Times, dict[str, Floats]]] = []
        self.measured_ns = np.full(n, -1, dtype=np.int64)
        self.received_ns = np.full(n, -1, dtype=np.int64)
        self.values = {name: np.full(n, np.nan) for name in ("soc_frac", "power_w", "import_w", "grid_good")}

    def _measure(self) -> dict[str, Floats]:
        """Return what the devices report of themselves now."""
        soc = self._plant.states("energy_j") / self._capacity_j
        status = self._plant.states("status")
        return {
            "soc_frac": quantise_soc(soc, self._step),  # as a register would say it: rounded down
            "power_w": self._plant.states("power_w"),
            "import_w": self._plant.states("import_w"),
            "grid_good": (status <= 1.0).astype(
                np.float64
            ),  # on_grid or enter: the transfer switch is closed
        }

    def poll(self, now_ns: int, scene: Scene) -> None:
        """Take one reading of every device and send it off."""
        conditions = scene.conditions(now_ns)
        taken = self._measure()
        measured_ns = np.full(self._plant.n, now_ns, dtype=np.int64)
        if conditions.frozen.any() and self._held:
            frozen = conditions.frozen
            taken = {name: np.where(frozen, self._held[name], values) for name, values in taken.items()}
            measured_ns = np.where(frozen & ~conditions.frozen_fresh, self._held_ns, measured_ns)
        self._held, self._held_ns = taken, measured_ns
        delay_ns = self._fates.draw(conditions)
        got = delay_ns != LOST
        arrival_ns = np.where(got, now_ns + delay_ns, LOST)
        self._flying.append((arrival_ns, measured_ns, taken))
        d = np.flatnonzero(got)
        columns = {name: values[d] for name, values in taken.items()}
        self._writer.append_telemetry(
            {"received_ns": arrival_ns[d], "measured_ns": measured_ns[d], "device": d, **columns}
        )

    def deliver(self, now_ns: int) -> None:
        """Let everything that has arrived by now replace what was known, the newest measurement last."""
        left = []
        for arrival_ns, measured_ns, taken in self._flying:
            here = (arrival_ns != LOST) & (arrival_ns <= now_ns)
            fresh = here & (measured_ns >= self.measured_ns)
            if fresh.all():
                self.values, self.measured_ns, self.received_ns = taken, measured_ns, arrival_ns
                continue
            self.values = {name: np.where(fresh, values, self.values[name]) for name, values in taken.items()}
            self.measured_ns = np.where(fresh, measured_ns, self.measured_ns)
            self.received_ns = np.where(fresh, arrival_ns, self.received_ns)
            if (arrival_ns > now_ns).any():
                left.append((np.where(here, LOST, arrival_ns), measured_ns, taken))
        self._flying = left


class _Orders:
    """Commands on their way."""

    def __init__(self, world: World, plant: Plant, writer: RecordWriter) -> None:
        self._plant, self._writer = plant, writer
        self._fates = Fates(world.seed, world.names, "commands", world.comms.timeout_ns)
        self._flying: list[tuple[Times, Commands]] = []
        self._low_w = -plant.params("power_w_charge_max")
        self._high_w = plant.params("power_w_discharge_max")
        self._has_reserve = plant.params("has_reserve") != 0.0

    @property
    def any(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._flying)

    def send(self, now_ns: int, commands: Commands, scene: Scene) -> None:
        """Send the rows that say anything; they arrive on the next whole second after their delay."""
        asked = ~np.isnan(commands.power_w) | ~np.isnan(commands.reserve_soc_frac)
        if not asked.any():
            return
        delay_ns = self._fates.draw(scene.conditions(now_ns))
        arrival_ns = -(-(now_ns + delay_ns) // SECOND_NS) * SECOND_NS
        out_of_range = (commands.power_w < self._low_w) | (commands.power_w > self._high_w)
        no_reserve = ~np.isnan(commands.reserve_soc_frac) & ~self._has_reserve
        outcome = np.where(out_of_range | no_reserve, OUTCOMES.index("refused"), OUTCOMES.index("delivered"))
        outcome = np.where(delay_ns == LOST, OUTCOMES.index("lost"), outcome)
        arrival_ns = np.where(delay_ns == LOST, LOST, arrival_ns)
        d = np.flatnonzero(asked)
        self._writer.append_commands(
            {
                "t_ns": np.full(d.size, now_ns, dtype=np.int64),
                "arrival_ns": arrival_ns[d],
                "device": d,
                "power_w": commands.power_w[d],
                "validity_s": commands.validity_s[d],
                "reserve_soc_frac": commands.reserve_soc_frac[d],
                "outcome": outcome[d],
            }
        )
        taken = asked & (outcome == OUTCOMES.index("delivered"))
        if taken.any():
            self._flying.append((np.where(taken, arrival_ns, LOST), commands))

    def deliver(self, now_ns: int) -> None:
        """Write to the devices what has arrived by now."""
        left = []
        for arrival_ns, commands in self._flying:
            here = (arrival_ns != LOST) & (arrival_ns <= now_ns)
            if here.any():
                validity_ns = np.where(np.isnan(commands.validity_s), 0.0, commands.validity_s) * 1e9
                ticks = np.ceil(validity_ns / NS_PER_TICK).astype(np.int64)
                self._plant.command(here, commands.power_w, ticks, commands.reserve_soc_frac)
            if (arrival_ns > now_ns).any():
                left.append((np.where(here, LOST, arrival_ns), commands))
        self._flying = left


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
    scene = Scene(world)
    log = TruthLog(plant, writer)
    readings, orders = _Readings(world, plant, writer), _Orders(world, plant, writer)
    now_ns = next_poll_ns = next_decision_ns = 0
    unsettled = np.zeros(plant.n, dtype=np.bool_)
    restless = False
    while now_ns < world.duration_ns:
        scene.set_inputs(plant, now_ns)
        orders.deliver(now_ns)
        if now_ns >= next_poll_ns:
            readings.poll(now_ns, scene)
            next_poll_ns += world.poll_ns
        if now_ns >= next_decision_ns:
            readings.deliver(now_ns)
            orders.send(now_ns, candidate.decide(now_ns, _telemetry(readings, scene, now_ns)), scene)
            next_decision_ns += candidate.period_ns
        next_load_ns = (now_ns // world.load_step_ns + 1) * world.load_step_ns
        coarse_ns = min(next_poll_ns, next_load_ns, scene.next_edge_ns(now_ns), world.duration_ns)
        until_ns = min(coarse_ns, next_decision_ns)
        if orders.any or restless or scene.conditions(now_ns).outage.any():
            until_ns = min(until_ns, (now_ns // SECOND_NS + 1) * SECOND_NS)
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
    log.flush()


def _telemetry(readings: _Readings, scene: Scene, now_ns: int) -> Telemetry:
    """Return what the controller is shown."""
    return Telemetry(
        measured_ns=readings.measured_ns.copy(),
        received_ns=readings.received_ns.copy(),
        prices=scene.prices(now_ns),
        **{name: values.copy() for name, values in readings.values.items()},
    )
