"""What clients that are not ours command, seen at the devices' registers.

Duty: turn every write that a device answers, and that concerns its power, its timer or its reserve, into a
row of commands.
Rules of this file: it looks and changes nothing.  Values are the device's own, as they are after the write:
what it has in force, not what somebody meant.  When a command was decided nobody here knows, so a row says
when it arrived, twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ridethrough.emulator import _registers
from ridethrough.emulator.fields import CONTROL, LANES, TICKS_PER_S
from ridethrough.emulator.image import DeviceImage
from ridethrough.emulator.layout import Layout, compile_layouts
from ridethrough.emulator.plant import Plant

DELIVERED: Final = "delivered"
REFUSED: Final = "refused"

_SET: Final = frozenset(
    {
        *("set_ena", "set_mode", "set_w", "set_frac", "set_rvrt_ena", "set_rvrt_w", "set_rvrt_frac"),
        "set_rvrt_s",
    }
)
"""Quantities of 704.WSet and what belongs to it."""

_WINDOW: Final = frozenset({"window_mode", "window_in_frac", "window_out_frac", "window_rvrt_s"})
"""Quantities of the storage window, 124."""

_RESERVE: Final = "reserve_frac"


@dataclass(frozen=True, slots=True)
class Command:
    """What a device was told in one write.

    Attributes
    ----------
    device : int
    power_w : float
        In force after the write; 0 with a validity of 0 when a set-point was taken back; NaN when the write
        did not concern power [W].
    validity_s : float
        Left on the device's own timer; infinite where none runs; NaN without a power [s].
    reserve_soc_frac : float
        NaN when the write did not concern it [1].
    outcome : "delivered" or "refused"
        A refused one has what was asked, as far as its registers tell.
    """

    device: int
    power_w: float
    validity_s: float
    reserve_soc_frac: float
    outcome: str


Told = Callable[[Command], None]


def watched_units(plant: Plant, d: int, told: Told) -> dict[int, DeviceImage]:
    """Return the units of device `d`, as `units_of` does, whose commands are told."""
    profile = plant.profiles[d]
    inverter, meter = compile_layouts(profile)
    return {
        1: WatchedImage(plant, d, inverter, told),
        1 + profile.face.meter_unit_offset: DeviceImage(plant, d, meter),
    }


class WatchedImage(DeviceImage):
    """An inverter's registers that tell what they are commanded.

    Parameters
    ----------
    plant : Plant
    device : int
    layout : Layout
    told : callable
        Called after each write that concerns power, timer or reserve.
    """

    def __init__(self, plant: Plant, device: int, layout: Layout, told: Told) -> None:
        super().__init__(plant, device, layout)
        self._told, self._number = told, device
        self._row = plant.control[device // LANES, :, device % LANES]
        self._charge_w = float(plant.params("power_w_charge_max")[device])

    def write(self, address: int, data: bytes) -> int:
        """Write registers, see `DeviceImage`."""
        before = self._in_force()
        code = super().write(address, data)
        asked = self._asked(address, data)
        if asked.keys() & (_SET | _WINDOW | {_RESERVE}):
            command = self._refused(asked) if code else self._accepted(asked, before)
            if command is not None:
                self._told(command)
        return code

    def _asked(self, address: int, data: bytes) -> dict[str, float]:
        """Return the quantities that a write gives, as far as it gives whole points."""
        first = address - self.layout.base_address
        count = len(data) // 2
        if first < 0 or first + count > self.layout.count:
            return {}
        asked = {}
        for point in dict.fromkeys(self.layout.point_at[first : first + count]):
            if point is None or point.quantity is None or not point.writable:
                continue
            offset = 2 * (point.address - address)
            part = data[max(offset, 0) : offset + 2 * point.size]
            if offset < 0 or len(part) < 2 * point.size:
                continue
            register = _registers.decode(part, point.signed)
            if register != point.blank:
                asked[point.quantity] = register * point.divisor / point.factor
        return asked

    def _accepted(self, asked: Mapping[str, float], before: _InForce) -> Command | None:
        now = self._in_force()
        reserve = self._control(_RESERVE) if _RESERVE in asked else math.nan
        power_w = validity_s = math.nan
        concerned = asked.keys() & {"set": _SET, "window": _WINDOW, "": frozenset[str]()}[now.family]
        if now.family and (concerned or now != before):
            power_w, validity_s = now.power_w, now.validity_s
        elif before.family and not now.family:
            power_w = validity_s = 0.0
        if math.isnan(power_w) and math.isnan(reserve):
            return None  # a set-point prepared, and not yet in force
        return Command(self._number, power_w, validity_s, reserve, DELIVERED)

    def _refused(self, asked: Mapping[str, float]) -> Command:
        frac_w = self.layout.profile.inverter.power_w_discharge_max
        power_w = asked.get("set_w", asked.get("set_frac", math.nan) * frac_w)
        validity_s = asked.get("set_rvrt_s", math.nan)
        return Command(self._number, power_w, validity_s, asked.get(_RESERVE, math.nan), REFUSED)

    def _control(self, name: str) -> float:
        return float(self._row[CONTROL.index(name)])

    def _in_force(self) -> _InForce:
        """Return the power command in force.

        A storage window is one where it forces a power: where it leaves no choice, or excludes doing nothing.
        """
        if self._control("set_ena"):
            return _InForce("set", self._control("set_w"), self._left_s("set_rvrt_ticks"))
        low_w = -self._charge_w * (self._control("window_in_frac") if self._control("window_in_ena") else 1.0)
        high_w = math.inf
        if self._control("window_out_ena"):
            high_w = self._charge_w * self._control("window_out_frac")
        if low_w > 0.0 or high_w < 0.0 or low_w == high_w:
            return _InForce("window", max(low_w, min(high_w, 0.0)), self._left_s("window_rvrt_ticks"))
        return _InForce("", math.nan, math.nan)

    def _left_s(self, timer: str) -> float:
        ticks = self._control(timer)
        return ticks / TICKS_PER_S if ticks > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class _InForce:
    """Which function commands power, if any, what, and for how long."""

    family: str
    power_w: float
    validity_s: float
