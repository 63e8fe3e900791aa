"""The device itself: its battery, inverter, switch and timers.

Rules of this file: what an event changes is put back at its end, but for what it has done to the world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ridethrough.emulator.plant import Plant

from ..faults import Event

ACTS: Final[Mapping[str, Any]] = {}
"""What each fault of a device does."""


class PlantFaults:
    """Faults of the devices of one run.

    Parameters
    ----------
    plant : Plant
    seed : int
    names : sequence of str, length n
        Of the devices: one stream of chance each.
    """

    def __init__(self, plant: Plant, seed: int, names: Sequence[str]) -> None:
        self._plant, self._seed, self._names = plant, seed, tuple(names)

    def step(self, now_ns: int, events: Sequence[Event]) -> None:
        """Let the events in force act on the plant; to be called before each of its advances.

        Parameters
        ----------
        now_ns : int
            [ns].
        events : sequence of Event
            In force now; those of other places are passed over.
        """
