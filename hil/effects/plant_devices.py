"""What the faults of devices share: the plant they act on, their memory, their chance.

Rules of this file: a fault remembers by event and device; its draws come from a stream that is named after
the device, the fault and its start, so that no other event moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.fields import CONTROL, STATUS, TICKS_PER_S
from ridethrough.emulator.plant import Plant

from ..faults import Event
from ..streams import stream
from .plant_fields import Imposed

Floats = NDArray[np.float64]

AT: Final = {name: k for k, name in enumerate(CONTROL)}
"""Positions in a row of settings."""

TIMERS: Final = {"set": "set_rvrt_ticks", "limit": "limit_rvrt_ticks", "window": "window_rvrt_ticks"}
"""What a write is called at the intake, and its revert timer."""

IS: Final = {name: float(k) for k, name in enumerate(STATUS)}
"""Numbers of the operating states."""


@dataclass(slots=True)
class Devices:
    """The devices of one run, as the faults of this place see them.

    Attributes
    ----------
    plant : Plant
    seed : int
    names : tuple of str
    fields : Imposed
    now_ns : int
        Of the last step [ns].
    memory : dict
        What an event remembers of a device, by its number and the row.
    """

    plant: Plant
    seed: int
    names: tuple[str, ...]
    fields: Imposed
    now_ns: int = 0
    memory: dict[tuple[int, int], dict[str, float]] = field(default_factory=dict)
    _chances: dict[tuple[int, int], np.random.Generator] = field(default_factory=dict)

    def recall(self, event: Event, d: int) -> dict[str, float]:
        """Return what an event remembers of a device; to be changed in place."""
        return self.memory.setdefault((event.number, d), {})

    def draw(self, event: Event, d: int) -> float:
        """Return the next number of an event's chance at one device, in [0, 1)."""
        key = event.number, d
        if key not in self._chances:
            self._chances[key] = stream(self.seed, f"{self.names[d]}/{event.fault}/{event.start_ns}")
        return float(self._chances[key].random())

    def is_following(self, d: int) -> bool:
        """Whether a device follows a grid that is there."""
        return self.fields.get("status", d) == IS["on_grid"] and self.fields.get("grid_good", d) != 0.0


Step = Callable[[Devices, Event, int], None]
Write = Callable[[Devices, Event, int, Floats, Floats, frozenset[str]], Floats]
Admit = Callable[[Devices, Event, int], bool]


@dataclass(frozen=True, slots=True)
class Fault:
    """What one fault does to each of its targets.

    Attributes
    ----------
    begin, end : callable
        Once, when it comes into force at the device and when it is over.
    hold : callable
        Before each advance of the plant: what it imposes.
    admit : callable
        Whether a write is taken at all.
    write : callable
        What becomes of a write that is: settings before, settings asked, what was written; returns settings.
    """

    begin: Step | None = None
    hold: Step | None = None
    end: Step | None = None
    admit: Admit | None = None
    write: Write | None = None


def ticks_of(seconds: float | str) -> float:
    """Return a duration in whole ticks of the plant, the nearest."""
    return float(round(float(seconds) * TICKS_PER_S))


def targets_of(events: Sequence[Event]) -> list[tuple[Event, int]]:
    """Return each event with each of its targets, in order."""
    return [(event, d) for event in events for d in event.targets]
