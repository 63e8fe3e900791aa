"""Values that faults impose on a plant, and what lies beneath them.

Duty: several faults may hold one field of one device at a time; while they do the field has what they agree
on, and afterwards what it would have had without them, to the last bit.

Rules of this file: what somebody else writes to an imposed field meanwhile (ageing, new settings) goes
beneath and comes out at the end.  Nothing is touched that no fault asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from ridethrough.emulator.fields import CONTROL, INPUT, LANES, PARAM, STATE
from ridethrough.emulator.model.battery import settle
from ridethrough.emulator.plant import Plant
from ridethrough.emulator.reference import load, store

NEVER: Final = 1e30
"""Ticks that do not pass."""

_GROUPS: Final = {"param": PARAM, "control": CONTROL, "input": INPUT, "state": STATE}
_AT: Final = {
    name: (group, k)
    for group in ("input", "state", "control", "param")
    for k, name in enumerate(_GROUPS[group])
}
_CELLS: Final = ("c_rate_limited", "charge_w_per_c_rate", "power_w_surge")
"""Parameters that the slow stage turns into limits; it runs once a minute only."""


class _Held(NamedTuple):
    """One imposed field: what lies beneath, and what was written over it."""

    base: float
    written: float


class Imposed:
    """The fields of one plant, as they are and as faults want them.

    Parameters
    ----------
    plant : Plant
    """

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._arrays = {group: getattr(plant, group) for group in _GROUPS}
        self._held: dict[tuple[str, int], _Held] = {}
        self._wanted: dict[tuple[str, int], float] = {}

    def get(self, name: str, d: int) -> float:
        """Return a field of a device as it is."""
        group, k = _AT[name]
        return float(self._arrays[group][d // LANES, k, d % LANES])

    def set(self, name: str, d: int, value: float) -> None:
        """Change a field of a device for good."""
        group, k = _AT[name]
        self._arrays[group][d // LANES, k, d % LANES] = value
        self._plant.touch()

    def base(self, name: str, d: int) -> float:
        """Return a field as it would be without faults."""
        held, now = self._held.get((name, d)), self.get(name, d)
        return held.base if held is not None and held.written == now else now

    def rebase(self, name: str, d: int, value: float) -> None:
        """Say what lies beneath an imposed field; without effect where nothing is imposed."""
        if (name, d) in self._held:
            self._held[name, d] = _Held(value, self._held[name, d].written)

    def imposed(self, name: str, d: int) -> float | None:
        """Return what is imposed on a field now, None for nothing."""
        held = self._held.get((name, d))
        return None if held is None else held.written

    def wanted(self, name: str, d: int) -> float | None:
        """Return what has been wanted of a field since the last `apply`, None for nothing."""
        return self._wanted.get((name, d))

    def put(self, name: str, d: int, value: float) -> None:
        """Want a value until the next `apply`; of several the last counts."""
        self._wanted[name, d] = value

    def least(self, name: str, d: int, value: float) -> None:
        """Want a field no greater than a value."""
        self._pick(min, name, d, value)

    def most(self, name: str, d: int, value: float) -> None:
        """Want a field no less than a value."""
        self._pick(max, name, d, value)

    def _pick(self, pick: Callable[[float, float], float], name: str, d: int, value: float) -> None:
        so_far = self._wanted.get((name, d), self.base(name, d))
        self._wanted[name, d] = pick(so_far, value)

    def apply(self) -> None:
        """Put in force what was wanted since the last call; what was not is put back."""
        moved: dict[int, None] = {}
        held: dict[tuple[str, int], _Held] = {}
        for name, d in dict.fromkeys((*self._held, *self._wanted)):
            base = self.base(name, d)
            value = self._wanted.get((name, d), base)
            if value != self.get(name, d):
                self.set(name, d, value)
                if name in _CELLS:
                    moved[d] = None
            if (name, d) in self._wanted:
                held[name, d] = _Held(base, value)
        self._held, self._wanted = held, {}
        if moved:
            self._settle(np.array(list(moved)))

    def _settle(self, rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        """Let what follows from the cells' parameters follow at once, for some devices."""
        plant = self._plant
        p, _, _, s = load((plant.param, plant.control, plant.input, plant.state), rows)
        settle(p, s)
        store(plant.state, STATE, rows, s)
