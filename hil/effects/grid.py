"""What the world puts on a home: voltage, frequency, load, PV.

Rules of this file: a fault changes the inputs of its targets and nothing else.  Several add up: a home is out
while any outage says so, sags multiply, deviations of frequency are summed.  An event's draws come from a
stream that is named after its fault and its start, so that no other event moves them.

Not modelled: the angle of the grid; see `plant` for what comes of a jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.exact import log
from ridethrough.emulator.plant import Plant

from ..faults import Event
from ..streams import stream
from ..units import HOUR_NS, SECOND_NS, TICK_NS

Floats = NDArray[np.float64]

FLICKERS_MAX: Final = 5000
"""Most outages in one event."""
LOOKS_MAX: Final = 20_000
"""An event that waits for something looks for it once a second, or this often in all."""
FREQUENCY_STEPS: Final = 200
"""A ramp of frequency is made of this many steps at most, of 200 ms at least."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the plant is given, to be changed in place, each of shape (n,).

    Attributes
    ----------
    load_w, pv_w_available : Floats
        [W].
    grid_good : Floats
        1 where there is a grid, else 0.
    grid_held : Floats
        1 where a lost grid is held up by generation that matches its load, else 0.
    voltage_pu : Floats
        Of the source; the feeder comes on top [pu].
    frequency_hz : Floats
        [Hz].
    """

    load_w: Floats
    pv_w_available: Floats
    grid_good: Floats
    grid_held: Floats
    voltage_pu: Floats
    frequency_hz: Floats


def whole_ticks_ns(seconds: float | str) -> int:
    """Return a duration in whole ticks of the plant, the nearest, one at least [ns]."""
    return max(1, round(float(seconds) * SECOND_NS / TICK_NS)) * TICK_NS


class GridFaults:
    """Faults of the grid of one run.

    Parameters
    ----------
    seed : int
    hours_h : Floats, shape (n,)
        Promised backup of each home [h].
    """

    def __init__(self, seed: int, hours_h: Floats) -> None:
        self.seed, self.hours_h = seed, hours_h
        self.begun_ns: dict[tuple[int, int], int] = {}
        """When an event that waits for its moment has begun, by its number and the row."""
        self._flickers: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def act(self, events: Iterable[Event], inputs: Inputs, plant: Plant, now_ns: int) -> None:
        """Change the inputs as the events in force want it.

        Parameters
        ----------
        events : iterable of Event
            In force now; those of other places are passed over.
        inputs : Inputs
            Changed in place.
        plant : Plant
            As it is now; only read.
        now_ns : int
            [ns].
        """
        for event in events:
            does = ACTS.get(event.fault)
            if does is not None:
                does(self, event, inputs, plant, now_ns)

    def edges_ns(self, event: Event) -> tuple[int, ...]:
        """Return the instants inside an event at which it may change the inputs again [ns], ascending."""
        found = EDGES[event.fault](self, event) if event.fault in EDGES else ()
        return tuple(sorted({edge for edge in found if event.start_ns < edge < event.end_ns}))

    def chance(self, event: Event) -> np.random.Generator:
        """Return an event's own stream of chance, at its beginning."""
        return stream(self.seed, f"{event.fault}/{event.start_ns}")

    def flickers_ns(self, event: Event) -> list[tuple[int, int]]:
        """Return begin and end of each outage of a flicker, in order [ns]."""
        key = event.number, event.end_ns
        if key not in self._flickers:
            self._flickers[key] = _drawn_flickers(event, self.chance(event))
        return self._flickers[key]


def _drawn_flickers(event: Event, chance: np.random.Generator) -> list[tuple[int, int]]:
    """Draw outages that come in bursts: each may set off another one, as in a self-exciting process."""
    outage_s, gap_s = float(event.params["outage_s_mean"]), float(event.params["gap_s_mean"])
    again_frac, burst_s = float(event.params["again_frac"]), 3600.0 / float(event.params["bursts_per_h"])
    found: list[tuple[int, int]] = []
    begin_ns = event.start_ns
    while begin_ns < event.end_ns and len(found) < FLICKERS_MAX:
        length, again, gap = (float(number) for number in chance.random(3))
        end_ns = begin_ns + whole_ticks_ns(-outage_s * log(1.0 - length))
        found.append((begin_ns, min(end_ns, event.end_ns)))
        mean_s = gap_s if again < again_frac else burst_s
        begin_ns = end_ns + whole_ticks_ns(-mean_s * log(1.0 - gap))
    return found


Act = Callable[[GridFaults, Event, Inputs, Plant, int], None]
Edges = Callable[[GridFaults, Event], Iterable[int]]


def _outage(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    inputs.grid_good[list(event.targets)] = 0.0


def _flicker(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    if any(begin_ns <= now_ns < end_ns for begin_ns, end_ns in faults.flickers_ns(event)):
        inputs.grid_good[list(event.targets)] = 0.0


def _flicker_edges(faults: GridFaults, event: Event) -> Iterable[int]:
    return [edge for outage in faults.flickers_ns(event) for edge in outage]


def _in_charge(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    due = plant.states("power_w") < -float(event.params["power_w"])
    _when(faults, event, inputs, due, now_ns)


def _in_export(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    due = (plant.states("import_w") < -float(event.params["power_w"])) & (plant.states("power_w") > 0.0)
    _when(faults, event, inputs, due, now_ns)


def _when(faults: GridFaults, event: Event, inputs: Inputs, due: NDArray[np.bool_], now_ns: int) -> None:
    """Let the outage of each target begin when it is due."""
    outage_ns = whole_ticks_ns(event.params["outage_s"])
    for row in event.targets:
        key = event.number, row
        if due[row]:
            faults.begun_ns.setdefault(key, now_ns)
        if key in faults.begun_ns and now_ns < faults.begun_ns[key] + outage_ns:
            inputs.grid_good[row] = 0.0


def _looks(faults: GridFaults, event: Event) -> Iterable[int]:
    seconds = -(-(event.end_ns - event.start_ns) // (LOOKS_MAX * SECOND_NS))
    return range(event.start_ns, event.end_ns, max(1, seconds) * SECOND_NS)


def _sag(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    inputs.voltage_pu[list(event.targets)] *= float(event.params["voltage_frac"])


def _ramp_ns(event: Event) -> int:
    """Return how long the frequency of an event takes to its deviation, at most half of the event [ns]."""
    ramp_s = abs(float(event.params["deviation_hz"])) / float(event.params["rate_hz_per_s"])
    return min(whole_ticks_ns(ramp_s), (event.end_ns - event.start_ns) // 2)


def _frequency(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    deviation_hz, rate = float(event.params["deviation_hz"]), float(event.params["rate_hz_per_s"])
    near_ns = min(now_ns - event.start_ns, event.end_ns - now_ns)
    size_hz = min(abs(deviation_hz), rate * near_ns / SECOND_NS)
    inputs.frequency_hz[list(event.targets)] += size_hz if deviation_hz > 0.0 else -size_hz


def _frequency_edges(faults: GridFaults, event: Event) -> Iterable[int]:
    ramp_ns = _ramp_ns(event)
    step_ns = max(SECOND_NS // 5, -(-ramp_ns // (FREQUENCY_STEPS * TICK_NS)) * TICK_NS)
    there = [event.start_ns + k for k in (*range(0, ramp_ns, step_ns), ramp_ns)]
    top_ns = (event.end_ns - ramp_ns) // TICK_NS * TICK_NS
    return [*there, *range(top_ns, event.end_ns, step_ns)]


def _interruption(key: str) -> tuple[Act, Edges]:
    """Return an outage at an event's start whose length is the parameter `key`."""

    def edges(faults: GridFaults, event: Event) -> Iterable[int]:
        return (event.start_ns + whole_ticks_ns(event.params[key]),)

    def act(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
        if now_ns < event.start_ns + whole_ticks_ns(event.params[key]):
            inputs.grid_good[list(event.targets)] = 0.0

    return act, edges


def _promised_end_ns(faults: GridFaults, event: Event, row: int) -> int:
    lasts_ns = float(faults.hours_h[row]) * float(event.params["factor"]) * HOUR_NS
    return event.start_ns + whole_ticks_ns(lasts_ns / SECOND_NS)


def _beyond_promise(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    for row in event.targets:
        if now_ns < _promised_end_ns(faults, event, row):
            inputs.grid_good[row] = 0.0


def _beyond_promise_edges(faults: GridFaults, event: Event) -> Iterable[int]:
    return [_promised_end_ns(faults, event, row) for row in event.targets]


def _held_until_ns(event: Event) -> int:
    return event.start_ns + whole_ticks_ns(event.params["held_s"])


def _unintentional(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    rows = list(event.targets)
    inputs.grid_good[rows] = 0.0
    if now_ns < _held_until_ns(event):
        inputs.grid_held[rows] = 1.0


def _unintentional_edges(faults: GridFaults, event: Event) -> Iterable[int]:
    return (_held_until_ns(event),)


def _partial(faults: GridFaults, event: Event, inputs: Inputs, plant: Plant, now_ns: int) -> None:
    count = len(event.targets)
    out = -(
        -round(float(event.params["share_frac"]) * count * 1e6) // 1_000_000
    )  # rounded up, but not by dust
    draws = faults.chance(event).random(count)
    chosen = np.argsort(draws, kind="stable")[: max(1, out)]
    inputs.grid_good[[event.targets[k] for k in chosen]] = 0.0


_DEAD, _DEAD_EDGES = _interruption("dead_s")
_SHORT, _SHORT_EDGES = _interruption("outage_s")

ACTS: Final[Mapping[str, Act]] = {
    "grid.planned-outage": _outage,
    "grid.outage": _outage,
    "grid.flicker": _flicker,
    "grid.outage-in-charge": _in_charge,
    "grid.outage-in-export": _in_export,
    "grid.sag": _sag,
    "grid.frequency": _frequency,
    "grid.phase-jump": _DEAD,
    "grid.outage-beyond-promise": _beyond_promise,
    "grid.stale-set-point": _SHORT,
    "grid.unintentional-island": _unintentional,
    "grid.partial-outage": _partial,
}
"""What each fault of the grid does to the inputs of its targets at an instant."""

EDGES: Final[Mapping[str, Edges]] = {
    "grid.flicker": _flicker_edges,
    "grid.outage-in-charge": _looks,
    "grid.outage-in-export": _looks,
    "grid.frequency": _frequency_edges,
    "grid.phase-jump": _DEAD_EDGES,
    "grid.outage-beyond-promise": _beyond_promise_edges,
    "grid.stale-set-point": _SHORT_EDGES,
    "grid.unintentional-island": _unintentional_edges,
}
"""When each fault that changes within its event does so."""
