"""Model in the loop: virtual time, the plant called directly, messages as data.

One tick: the clock moves to the next deadline; events apply; the plant steps; due commands arrive;
telemetry is taken; the controller decides; the record gets its rows.  The same world, seed and controller
give the same record, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Commands, Floats, Telemetry, Times
from ridethrough.emulator.fields import STATE
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

_SHOWN: Final = [
    STATE.index(name) for name in ("energy_j", "power_w", "import_w", "status", "soc_error_frac")
]
_POLLS_PER_WRITE: Final = 256


class _Readings:
    """Telemetry on its way and arrived: one snapshot per poll, one arrival time per device.

    A snapshot is the raw state of `_SHOWN`, shape (5, n); it becomes a reading only where somebody looks.
    """

    def __init__(self, world: World, plant: Plant, writer: RecordWriter) -> None:
        n = plant.n
        self._plant, self._writer = plant, writer
        self._fates = Fates(world.seed, world.names, "telemetry", world.comms.timeout_ns)
        self._step = soc_steps(world)
        self._capacity_j = plant.params("capacity_j")
        self._held = np.empty((0, n))
        self._held_ns = np.full(n, -1, dtype=np.int64)
        self._flying: list[tuple[Times, Times, Floats]] = []
        self._unwritten: list[tuple[Times, Times, Floats]] = []
        self._known = np.full((len(_SHOWN), n), np.nan)
        self._measured_ns = np.full(n, -1, dtype=np.int64)
        self._received_ns = np.full(n, -1, dtype=np.int64)

    def poll(self, now_ns: int, scene: Scene) -> None:
        """Take one reading of every device and send it off."""
        conditions = scene.conditions(now_ns)
        shown = self._plant.state[:, _SHOWN, :].transpose(1, 0, 2).reshape(len(_SHOWN), -1)
        taken = shown[:, : self._plant.n]
        measured_ns = np.full(self._plant.n, now_ns, dtype=np.int64)
        if self._held.size and conditions.frozen.any():
            taken = np.where(conditions.frozen, self._held, taken)
            measured_ns = np.where(conditions.frozen & ~conditions.frozen_fresh, self._held_ns, measured_ns)
        self._held, self._held_ns = taken, measured_ns
        delay_ns = self._fates.draw(conditions)
        message = np.where(delay_ns == LOST, LOST, now_ns + delay_ns), measured_ns, taken
        self._flying.append(message)
        self._unwritten.append(message)
        if len(self._unwritten) == _POLLS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Hand the polls so far to the record."""
        if not self._unwritten:
            return
        arrival_ns, measured_ns, taken = (np.stack(column) for column in zip(*self._unwritten, strict=True))
        self._unwritten = []
        poll, d = np.nonzero(arrival_ns != LOST)
        values = self._reading(taken[poll, :, d].T, d)
        self._writer.append_telemetry(
            {"received_ns": arrival_ns[poll, d], "measured_ns": measured_ns[poll, d], "device": d, **values}
        )

    def _reading(self, shown: Floats, d: NDArray[np.intp] | slice) -> dict[str, Floats]:
        """Return what devices `d` report of themselves in the raw state `shown`, shape (5, m)."""
        energy_j, power_w, import_w, status, error_frac = shown
        # As registers would say it: the estimated SoC, rounded down; a device that waits to reconnect is not
        # connected.
        estimate_frac = np.clip(energy_j / self._capacity_j[d] + error_frac, 0.0, 1.0)
        soc_frac = quantise_soc(estimate_frac, self._step[d])
        grid_good = np.where(np.isnan(status), np.nan, np.where(status == 0.0, 1.0, 0.0))
        return {"soc_frac": soc_frac, "power_w": power_w, "import_w": import_w, "grid_good": grid_good}

    def _deliver(self, now_ns: int) -> None:
        """Let everything that has arrived by now replace what was known, the newest measurement last."""
        left = []
        for arrival_ns, measured_ns, taken in self._flying:
            here = (arrival_ns != LOST) & (arrival_ns <= now_ns)
            fresh = here & (measured_ns >= self._measured_ns)
            self._known = np.where(fresh, taken, self._known)
            self._measured_ns = np.where(fresh, measured_ns, self._measured_ns)
            self._received_ns = np.where(fresh, arrival_ns, self._received_ns)
            if (arrival_ns > now_ns).any():
                left.append((np.where(here, LOST, arrival_ns), measured_ns, taken))
        self._flying = left

    def telemetry(self, now_ns: int, scene: Scene) -> Telemetry:
        """Return what the controller is shown."""
        self._deliver(now_ns)
        values = self._reading(self._known.copy(), slice(None))
        return Telemetry(
            measured_ns=self._measured_ns.copy(),
            received_ns=self._received_ns.copy(),
            prices=scene.prices(now_ns),
            **values,
        )


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
    try:
        _loop(world, plant, candidate, scene, log, readings, orders, progress)
    finally:  # an interrupted run keeps all that happened
        readings.flush()
        log.flush()


def _loop(
    world: World,
    plant: Plant,
    candidate: Candidate,
    scene: Scene,
    log: TruthLog,
    readings: _Readings,
    orders: _Orders,
    progress: Progress | None,
) -> None:
    """Tick until the world's duration is over."""
    now_ns = next_poll_ns = next_decision_ns = next_load_ns = next_edge_ns = 0
    unsettled, restless, outage = log.unsettled(), False, False
    while now_ns < world.duration_ns:
        if now_ns >= min(next_load_ns, next_edge_ns):
            scene.set_inputs(plant, now_ns)
            outage = bool(scene.conditions(now_ns).outage.any())
            next_load_ns = (now_ns // world.load_step_ns + 1) * world.load_step_ns
            next_edge_ns = scene.next_edge_ns(now_ns)
        orders.deliver(now_ns)
        if now_ns >= next_poll_ns:
            readings.poll(now_ns, scene)
            next_poll_ns += world.poll_ns
        if now_ns >= next_decision_ns:
            commands = candidate.decide(now_ns, readings.telemetry(now_ns, scene))
            orders.send(now_ns, commands, scene)
            next_decision_ns += candidate.period_ns
        coarse_ns = min(next_poll_ns, next_load_ns, next_edge_ns, world.duration_ns)
        until_ns = min(coarse_ns, next_decision_ns)
        if outage or restless or orders.any:
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
