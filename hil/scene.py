"""What the world does at an instant: inputs of the plant, and the faults in force.

Rules of this file: a reading of the World in order of time; nothing here decides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Prices
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant

from .effects.grid import GridFaults, Inputs
from .effects.messages import Conditions as Conditions
from .effects.messages import conditions_of
from .faults import Event
from .world import World

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Scene:
    """The world as a function of bench time.

    Parameters
    ----------
    world : World
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._grid = GridFaults(world.seed, world.commitments.hours_h)
        self._all: list[Event] = []
        self._edges: list[int] = []
        self._set_events(world.events)

    def _set_events(self, events: Iterable[Event]) -> None:
        """Take these events instead of those before; everything is looked at again."""
        self._all = list(events)
        edges = {
            edge
            for event in self._all
            for edge in (event.start_ns, event.end_ns, *self._grid.edges_ns(event))
        }
        self._edges = sorted(edge for edge in edges if 0 < edge < self.world.duration_ns)
        self._until_ns = self._inputs_until_ns = -1
        self._refresh(0)

    def add(self, event: Event) -> None:
        """Let an event that was not in the scenario happen."""
        self._set_events([*self._all, event])

    def end(self, number: int, now_ns: int) -> None:
        """Let the event of this number end now, if it has not ended.

        Raises
        ------
        ScenarioError
            There is none of that number.
        """
        if all(event.number != number for event in self._all):
            raise ScenarioError(f"event {number} found; allowed the number of an event of this run")
        self._set_events(
            replace(event, end_ns=max(event.start_ns, now_ns))
            if event.number == number and event.end_ns > now_ns
            else event
            for event in self._all
        )

    @property
    def all_events(self) -> tuple[Event, ...]:
        """All events so far: the scenario's, and those that were added."""
        return tuple(self._all)

    def next_edge_ns(self, now_ns: int) -> int:
        """Return the next instant after `now_ns` at which an event begins or ends, or the end of the run."""
        k = bisect_right(self._edges, now_ns)
        return self._edges[k] if k < len(self._edges) else self.world.duration_ns

    def conditions(self, now_ns: int) -> Conditions:
        """Return the faults in force from `now_ns` on; cheap between edges when called in order of time."""
        if not self._since_ns <= now_ns < self._until_ns:
            self._refresh(now_ns)
        return self._conditions

    def events(self, now_ns: int) -> tuple[Event, ...]:
        """Return the events in force from `now_ns` on, in order; cheap between edges."""
        if not self._since_ns <= now_ns < self._until_ns:
            self._refresh(now_ns)
        return self._events

    def _refresh(self, now_ns: int) -> None:
        self._events = tuple(event for event in self._all if event.start_ns <= now_ns < event.end_ns)
        self._conditions = conditions_of(self._events, len(self.world.names), self.world.comms)
        self._since_ns = max((edge for edge in self._edges if edge <= now_ns), default=0)
        self._until_ns = self.next_edge_ns(now_ns)

    def set_inputs(self, plant: Plant, now_ns: int) -> None:
        """Set the plant's inputs to what the world does from `now_ns` on; cheap while nothing changes."""
        if now_ns < self._inputs_until_ns:
            return
        step_ns = self.world.load_step_ns
        self._inputs_until_ns = min((now_ns // step_ns + 1) * step_ns, self.next_edge_ns(now_ns))
        row = min(now_ns // step_ns, len(self.world.load_w) - 1)
        n = plant.n
        inputs = Inputs(
            load_w=self.world.load_w[row].copy(),
            pv_w_available=self.world.pv_w[row].copy(),
            grid_good=np.ones(n),
            grid_held=np.zeros(n),
            voltage_pu=np.full(n, self.world.source_voltage_pu),
            frequency_hz=plant.params("hz_nominal"),
        )
        self._grid.act(self.events(now_ns), inputs, plant, now_ns)
        plant.set_input("load_w", inputs.load_w)
        plant.set_input("pv_w_available", inputs.pv_w_available)
        good = (inputs.grid_good != 0.0) | (inputs.grid_held != 0.0)
        voltage_pu = self._voltage_pu(plant, good, inputs.voltage_pu)
        plant.set_input("grid_good", inputs.grid_good)
        plant.set_input("grid_held", inputs.grid_held)
        plant.set_input("voltage_pu", voltage_pu)
        # A dead grid has no frequency; one that jumped to 0 and back would look like a rate of change.
        plant.set_input("frequency_hz", inputs.frequency_hz)

    def _voltage_pu(self, plant: Plant, good: Mask, source_pu: Floats) -> Floats:
        """Return the voltage at each home: the source's, or what the feeder has made of it; 0 when dead."""
        before_pu = plant.inputs("voltage_pu")
        if self.world.feeder is not None:
            sag_frac = source_pu / self.world.source_voltage_pu  # the feeder's voltages are made each second
            plant.sag_frac = None if (sag_frac == 1.0).all() else sag_frac
            source_pu = np.where((before_pu > 0.0) & (plant.inputs("grid_good") != 0.0), before_pu, source_pu)
        return np.where(good, source_pu, 0.0)

    def prices(self, now_ns: int) -> Prices:
        """Return the prices published at `now_ns`: real time now, day ahead for 24 hours."""
        step_ns = self.world.price_step_ns
        k = min(now_ns // step_ns, len(self.world.prices_usd_per_mwh) - 1)
        day = round(24 * 3600e9 / step_ns)
        return Prices(
            now_usd_per_mwh=float(self.world.prices_usd_per_mwh[k]),
            ahead_usd_per_mwh=self.world.prices_ahead_usd_per_mwh[k : k + day],
            step_s=step_ns / 1e9,
        )
