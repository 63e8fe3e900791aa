"""Messages of the model level: telemetry and commands on their way, as data.

Rules of this file: one snapshot of all devices per poll, one arrival time per device and message; what is
lost or late is decided by `messages` and, where faults act, by `effects.messages`.  A command that is carried
out without an answer is recorded as lost, for its sender does not know.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ridethrough.controllers.contract import Commands, Floats, Telemetry, Times
from ridethrough.emulator.fields import STATE
from ridethrough.emulator.layout import quantise_soc
from ridethrough.emulator.plant import NS_PER_TICK, Plant

from .assembly import soc_steps
from .effects.messages import MessageFaults
from .effects.readings import ReadingFaults
from .messages import COMMANDS, LOST, TELEMETRY, Fates
from .record import OUTCOMES, RecordWriter
from .scene import Scene
from .units import SECOND_NS
from .world import World

_SHOWN: Final = [
    STATE.index(name) for name in ("energy_j", "power_w", "import_w", "status", "soc_error_frac")
]
_VALUES: Final = ("soc_frac", "power_w", "import_w", "grid_good")
_POLLS_PER_WRITE: Final = 256


class Readings:
    """Telemetry on its way and arrived: one snapshot per poll, one arrival time per device.

    A snapshot holds `_VALUES` as the devices report them, shape (4, n).
    """

    def __init__(self, world: World, plant: Plant, writer: RecordWriter) -> None:
        n = plant.n
        self._plant, self._writer = plant, writer
        self._fates = Fates(world.seed, world.names, TELEMETRY)
        self._network = MessageFaults(world.seed, world.names, TELEMETRY, world.comms.timeout_ns)
        self._all = np.ones(n, dtype=np.bool_)
        self._step = soc_steps(world)
        self._faults = ReadingFaults(world.seed, world.names, self._step)
        self._capacity_j = plant.params("capacity_j")
        self._flying: list[tuple[int, Times, Times, Floats]] = []
        self._unwritten: list[tuple[Times, Times, Floats]] = []
        self._known = np.full((len(_VALUES), n), np.nan)
        self._taken_ns = np.full(n, -1, dtype=np.int64)
        self._measured_ns = np.full(n, -1, dtype=np.int64)
        self._received_ns = np.full(n, -1, dtype=np.int64)

    def poll(self, now_ns: int, scene: Scene) -> None:
        """Take one reading of every device and send it off."""
        measured_ns = np.full(self._plant.n, now_ns, dtype=np.int64)
        events = scene.events(now_ns)
        values, measured_ns = self._faults.take(now_ns, events, self._reported(), measured_ns)
        drawn_ns = self._fates.draw(scene.conditions(now_ns), self._all)
        delay_ns = self._network.meet(now_ns, events, drawn_ns, self._all).delay_ns
        taken = np.stack([values[name] for name in _VALUES])
        message = np.where(delay_ns == LOST, LOST, now_ns + delay_ns), measured_ns, taken
        self._flying.append((now_ns, *message))
        self._unwritten.append(message)
        if len(self._unwritten) == _POLLS_PER_WRITE:
            self.flush()

    def _reported(self) -> dict[str, Floats]:
        """Return what sound devices report of themselves now."""
        shown = self._plant.state[:, _SHOWN, :].transpose(1, 0, 2).reshape(len(_SHOWN), -1)
        energy_j, power_w, import_w, status, error_frac = shown[:, : self._plant.n]
        # As registers would say it: the estimated SoC, rounded down; a device that waits to reconnect is not
        # connected.
        estimate_frac = np.clip(energy_j / self._capacity_j + error_frac, 0.0, 1.0)
        grid_good = np.where(status == 0.0, 1.0, 0.0)
        values = (quantise_soc(estimate_frac, self._step), power_w, import_w, grid_good)
        return dict(zip(_VALUES, values, strict=True))

    def flush(self) -> None:
        """Hand the polls so far to the record."""
        if not self._unwritten:
            return
        arrival_ns, measured_ns, taken = (np.stack(column) for column in zip(*self._unwritten, strict=True))
        self._unwritten = []
        poll, d = np.nonzero(arrival_ns != LOST)
        values = dict(zip(_VALUES, taken[poll, :, d].T, strict=True))
        self._writer.append_telemetry(
            {"received_ns": arrival_ns[poll, d], "measured_ns": measured_ns[poll, d], "device": d, **values}
        )

    def _deliver(self, now_ns: int) -> None:
        """Let everything that has arrived by now replace what was known, the newest poll last.

        The newest by the bench's own clock: a device's may be wrong.
        """
        left = []
        for taken_ns, arrival_ns, measured_ns, taken in self._flying:
            here = (arrival_ns != LOST) & (arrival_ns <= now_ns)
            fresh = here & (taken_ns >= self._taken_ns)
            self._taken_ns = np.where(fresh, taken_ns, self._taken_ns)
            self._known = np.where(fresh, taken, self._known)
            self._measured_ns = np.where(fresh, measured_ns, self._measured_ns)
            self._received_ns = np.where(fresh, arrival_ns, self._received_ns)
            if (arrival_ns > now_ns).any():
                left.append((taken_ns, np.where(here, LOST, arrival_ns), measured_ns, taken))
        self._flying = left

    def telemetry(self, now_ns: int, scene: Scene) -> Telemetry:
        """Return what the controller is shown."""
        self._deliver(now_ns)
        values = dict(zip(_VALUES, self._known.copy(), strict=True))
        return Telemetry(
            measured_ns=self._measured_ns.copy(),
            received_ns=self._received_ns.copy(),
            prices=scene.prices(now_ns),
            **values,
        )


class Orders:
    """Commands on their way."""

    def __init__(self, world: World, plant: Plant, writer: RecordWriter) -> None:
        self._plant, self._writer = plant, writer
        self._fates = Fates(world.seed, world.names, COMMANDS)
        self._network = MessageFaults(world.seed, world.names, COMMANDS, world.comms.timeout_ns)
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
        drawn_ns = self._fates.draw(scene.conditions(now_ns), asked)
        met = self._network.meet(now_ns, scene.events(now_ns), drawn_ns, asked)
        arrives = met.delay_ns != LOST
        arrival_ns = np.where(arrives, _whole_second_ns(now_ns + met.delay_ns), LOST)
        out_of_range = (commands.power_w < self._low_w) | (commands.power_w > self._high_w)
        no_reserve = ~np.isnan(commands.reserve_soc_frac) & ~self._has_reserve
        unfit = out_of_range | no_reserve
        lost = (~arrives & ~met.refused) | met.unheard
        refused = ~lost & (unfit | met.refused)
        outcome = np.where(lost, OUTCOMES.index("lost"), OUTCOMES.index("delivered"))
        outcome = np.where(refused, OUTCOMES.index("refused"), outcome)
        answered_ns = np.where(arrives, arrival_ns, _whole_second_ns(now_ns))
        d = np.flatnonzero(asked)
        self._writer.append_commands(
            {
                "t_ns": np.full(d.size, now_ns, dtype=np.int64),
                "arrival_ns": np.where(lost, LOST, answered_ns)[d],
                "device": d,
                "power_w": commands.power_w[d],
                "validity_s": commands.validity_s[d],
                "reserve_soc_frac": commands.reserve_soc_frac[d],
                "outcome": outcome[d],
            }
        )
        taken = asked & arrives & ~unfit
        if taken.any():
            self._flying.append((np.where(taken, arrival_ns, LOST), commands))
        for row, delay_ns in met.copies:
            if taken[row]:
                again_ns = np.full(asked.size, LOST, dtype=np.int64)
                again_ns[row] = _whole_second_ns(now_ns + delay_ns)
                self._flying.append((again_ns, commands))

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


def _whole_second_ns(t_ns: Any) -> Any:
    """Return the next whole second, of one instant or of an array of them [ns]."""
    return -(-t_ns // SECOND_NS) * SECOND_NS
