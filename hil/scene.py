"""What the world does at an instant: inputs of the plant, and the faults in force.

Rules of this file: a reading of the World in order of time; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from ridethrough.controllers.contract import Prices
from ridethrough.emulator.errors import ScenarioError
from ridethrough.emulator.plant import Plant

from .effects.grid import Inputs, act, edges_ns
from .faults import Event
from .world import World

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Faults in force at an instant, per device, shape (n,).

    Attributes
    ----------
    cut_commands, cut_telemetry : Mask
        No message passes in that direction.
    loss_frac : Floats
        Probability that a message is lost [1].
    latency_ns_mean, latency_ns_p99 : Floats
        One-way delay, faults included [ns].
    frozen : Mask
        Telemetry repeats its last reading.
    frozen_fresh : Mask
        Of those, the ones whose time stamps and heartbeat go on.
    """

    cut_commands: Mask
    cut_telemetry: Mask
    loss_frac: Floats
    latency_ns_mean: Floats
    latency_ns_p99: Floats
    frozen: Mask
    frozen_fresh: Mask


class Scene:
    """The world as a function of bench time.

    Parameters
    ----------
    world : World
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._all: list[Event] = []
        self._edges: list[int] = []
        self._set_events(world.events)

    def _set_events(self, events: Iterable[Event]) -> None:
        """Take these events instead of those before; everything is looked at again."""
        self._all = list(events)
        edges = {edge for event in self._all for edge in (event.start_ns, event.end_ns, *edges_ns(event))}
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
        return next((edge for edge in self._edges if edge > now_ns), self.world.duration_ns)

    def conditions(self, now_ns: int) -> Conditions:
        """Return the faults in force from `now_ns` on; cheap between edges when called in order of time."""
        if now_ns >= self._until_ns:
            self._refresh(now_ns)
        return self._conditions

    def events(self, now_ns: int) -> tuple[Event, ...]:
        """Return the events in force from `now_ns` on, in order; cheap between edges."""
        if now_ns >= self._until_ns:
            self._refresh(now_ns)
        return self._events

    def _refresh(self, now_ns: int) -> None:
        self._events = tuple(event for event in self._all if event.start_ns <= now_ns < event.end_ns)
        self._conditions = self._at(self._events)
        self._until_ns = self.next_edge_ns(now_ns)

    def _at(self, events: Iterable[Event]) -> Conditions:
        n = len(self.world.names)
        comms = self.world.comms
        mask = {name: np.zeros(n, dtype=np.bool_) for name in ("commands", "telemetry", "frozen", "fresh")}
        pass_frac = np.full(n, 1.0 - comms.loss_frac)
        mean, p99 = np.full(n, float(comms.latency_ns_mean)), np.full(n, float(comms.latency_ns_p99))
        for event in events:
            _apply(event, mask, pass_frac, mean, p99)
        return Conditions(
            cut_commands=mask["commands"],
            cut_telemetry=mask["telemetry"],
            loss_frac=1.0 - pass_frac,
            latency_ns_mean=mean,
            latency_ns_p99=p99,
            frozen=mask["frozen"],
            frozen_fresh=mask["fresh"],
        )

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
            voltage_pu=np.full(n, self.world.source_voltage_pu),
            frequency_hz=plant.params("hz_nominal"),
        )
        act(self.events(now_ns), inputs, now_ns)
        plant.set_input("load_w", inputs.load_w)
        plant.set_input("pv_w_available", inputs.pv_w_available)
        good = inputs.grid_good != 0.0
        voltage_pu = self._voltage_pu(plant, good, inputs.voltage_pu)
        plant.set_input("grid_good", inputs.grid_good)
        plant.set_input("voltage_pu", voltage_pu)
        # A dead grid has no frequency; one that jumped to 0 and back would look like a rate of change.
        plant.set_input("frequency_hz", inputs.frequency_hz)

    def _voltage_pu(self, plant: Plant, good: Mask, source_pu: Floats) -> Floats:
        """Return the voltage at each home: the source's, or what the feeder has made of it; 0 when dead."""
        before_pu = plant.inputs("voltage_pu")
        if self.world.feeder is not None:
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


def _apply(event: Event, mask: dict[str, Mask], pass_frac: Floats, mean: Floats, p99: Floats) -> None:
    """Put one event in force; several of a kind add up."""
    rows = list(event.targets)
    params = event.params
    if event.fault == "comms.partition":
        direction = params["direction"]
        mask["commands"][rows] |= direction in ("both", "commands")
        mask["telemetry"][rows] |= direction in ("both", "telemetry")
    elif event.fault == "comms.loss":
        pass_frac[rows] *= 1.0 - float(params["loss_frac"])
    elif event.fault == "comms.latency":
        mean[rows] += float(params["latency_s_mean"]) * 1e9
        p99[rows] += float(params["latency_s_p99"]) * 1e9
    elif event.fault == "telemetry.frozen":
        mask["frozen"][rows] = True
        mask["fresh"][rows] |= params["stamp"] == "fresh"
