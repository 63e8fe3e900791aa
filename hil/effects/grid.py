"""What the world puts on a home: voltage, frequency, load, PV.

Rules of this file: a fault changes the inputs of its targets and nothing else; several add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..faults import Event

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the plant is given, to be changed in place, each of shape (n,).

    Attributes
    ----------
    load_w, pv_w_available : Floats
        [W].
    grid_good : Floats
        1 where there is a grid, else 0.
    voltage_pu : Floats
        Of the source; the feeder comes on top [pu].
    frequency_hz : Floats
        [Hz].
    """

    load_w: Floats
    pv_w_available: Floats
    grid_good: Floats
    voltage_pu: Floats
    frequency_hz: Floats


Act = Callable[[Event, list[int], Inputs, int], None]


def _outage(event: Event, rows: list[int], inputs: Inputs, now_ns: int) -> None:
    inputs.grid_good[rows] = 0.0


ACTS: Final[Mapping[str, Act]] = {"grid.outage": _outage}
"""What each fault of the grid does to the inputs of some rows at an instant."""


def act(events: Iterable[Event], inputs: Inputs, now_ns: int) -> None:
    """Change the inputs as the events in force want it.

    Parameters
    ----------
    events : iterable of Event
        In force now; those of other places are passed over.
    inputs : Inputs
        Changed in place.
    now_ns : int
        [ns].
    """
    for event in events:
        does = ACTS.get(event.fault)
        if does is not None:
            does(event, list(event.targets), inputs, now_ns)


def edges_ns(event: Event) -> tuple[int, ...]:
    """Return the instants inside an event at which it changes the inputs again [ns], ascending."""
    return ()
