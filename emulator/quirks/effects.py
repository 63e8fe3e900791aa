"""Registers and power apart: what a device does late, or not, or against what its registers say.

Duty: two units to put between a client and a device's registers.  `Delayed` lets writes act later; `Steered`
lets the device's own business prevail over the command.  Both show the settings as the client wrote them, and
the measurements as they are.

How: a `Mirror` is a second device of the same type that gets every write at once, and its timers run with
those of the true one.  Settings are read from the mirror, everything else from the true device.

Rules of this file: the true device is moved by writes to its registers and by `Plant.set_control` alone.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, model_validator

from ..fields import CONTROL, INPUT, STATUS, TICKS_PER_S
from ..image import DeviceImage
from ..layout import Layout
from ..plant import Plant
from ..points import Point
from .schedule import Schedule, Seconds, Strict, When
from .timers import served

if TYPE_CHECKING:
    from numpy.random import Generator

    from .._modbus import Unit

BUSY: Final = 6
PENDING_MAX: Final = 1000
"""Writes that wait; one more is answered "busy"."""

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Watts = Annotated[float, Field(ge=-1e8, le=1e8, allow_inf_nan=False)]

_TIMERS: Final = ("set_rvrt_ticks", "limit_rvrt_ticks", "window_rvrt_ticks")
_COMMANDED: Final = ("set_ena", "window_in_ena", "window_out_ena")
_STEERED: Final = tuple(name for name in CONTROL if name.startswith(("set_", "limit_", "window_")))
_ISLAND: Final = float(STATUS.index("island"))


class Delay(Strict):
    """A command is shown at once and acts after a time between these [s]; never before an earlier one."""

    low_s: Seconds
    high_s: Seconds

    @model_validator(mode="after")
    def _ordered(self) -> Delay:
        if self.high_s < self.low_s:
            raise ValueError("high_s at least low_s")
        return self


class Override(Strict):
    """A local control of higher rank takes over; registers go on showing the command.

    Attributes
    ----------
    power_w : float
        Active power it asks for, positive out of the device [W].
    power_w_max : float
        Limit of the power out of the device, instead [W].
    """

    when: When
    power_w: Watts | None = None
    power_w_max: Annotated[float, Field(ge=0, le=1e8, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Override:
        if (self.power_w is None) == (self.power_w_max is None):
            raise ValueError("one of power_w and power_w_max")
        return self


class Ends(Strict):
    """A command ends without a word: one to discharge at the least, to charge at the greatest SoC [1]."""

    soc_frac_min: Fraction = 0.0
    soc_frac_max: Fraction = 1.0


class Mirror:
    """A second device that does what registers say."""

    def __init__(self, layout: Layout, plant: Plant, device: int) -> None:
        window = layout.profile.battery
        self._source, self._device = plant, device
        step_s = plant.step_ticks / TICKS_PER_S
        self._plant = Plant(
            [layout.profile], soc_frac=0.5 * (window.soc_frac_min + window.soc_frac_max), step_s=step_s
        )
        self._plant.set_settings(0, plant.settings(device))
        for name in CONTROL:
            self._plant.set_control(name, plant.controls(name)[device])
        self._before = plant.elapsed_ticks
        self.image = DeviceImage(self._plant, 0, layout)
        shown = [point is not None and _is_setting(point) for point in layout.point_at]
        self._shown = [2 * k for k, yes in enumerate(shown) if yes]

    def follow(self) -> None:
        """Catch up with the true device's time, in the same grid."""
        for name in INPUT:
            self._plant.set_input(name, self._source.inputs(name)[self._device])
        now = self._source.elapsed_ticks
        self._plant.advance(now - self._before)
        self._before = now

    def controls(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return what the settings come to."""
        return {name: float(self._plant.controls(name)[0]) for name in names}

    def over(self, address: int, data: bytes) -> bytes:
        """Return what was read from the true device, its settings replaced by the mirror's."""
        own = self.image.read(address, len(data) // 2)
        if not isinstance(own, bytes):
            return data
        out, start = bytearray(data), 2 * (address - self.image.base_address)
        for place in self._shown:
            k = place - start
            if 0 <= k < len(out):
                out[k : k + 2] = own[k : k + 2]
        return bytes(out)


def _is_setting(point: Point) -> bool:
    """Whether a point shows what was written, or what is left of its timer."""
    return point.writable or point.name.endswith("RvrtRem") or point.quantity == f"{point.model}.{point.name}"


class Delayed:
    """A unit whose settings act late.

    A write is refused, or shown, at once.  What the device makes of it when it acts is not told: one that it
    would then refuse is lost.
    """

    def __init__(
        self, inner: Unit, layout: Layout, plant: Plant, device: int, knob: Delay, rng: Generator
    ) -> None:
        self._inner = inner
        self._plant = plant
        self._knob = knob
        self._rng = rng
        self._mirror = Mirror(layout, plant, device)
        self._pending: deque[tuple[int, int, bytes]] = deque()

    def read(self, address: int, count: int) -> bytes | int:
        """Return measurements as they are, and settings as written."""
        data = self._inner.read(address, count)
        return self._mirror.over(address, data) if isinstance(data, bytes) else data

    def write(self, address: int, data: bytes) -> int:
        """Take a write; it acts later."""
        if len(self._pending) >= PENDING_MAX:
            return BUSY
        code = self._mirror.image.write(address, data)
        if code:
            return code
        wait_s = self._knob.low_s + (self._knob.high_s - self._knob.low_s) * self._rng.random()
        due = self._plant.elapsed_ticks + math.ceil(wait_s * TICKS_PER_S)
        self._pending.append((due, address, data))
        return 0

    def step(self) -> None:
        """Let the writes act that are due, in their order: one that waits holds up those behind it."""
        self._mirror.follow()
        while self._pending and self._pending[0][0] <= self._plant.elapsed_ticks:
            _, address, data = self._pending.popleft()
            self._inner.write(address, data)


class Steered:
    """A unit whose device has a will of its own.

    Local controls come first, then charging to the reserve, then the end of a command.
    """

    def __init__(
        self,
        inner: Unit,
        layout: Layout,
        plant: Plant,
        device: int,
        *,
        overrides: tuple[Override, ...] = (),
        ends: Ends | None = None,
        charge_w: float | None = None,
        off_grid: bool = False,
        schedule: Schedule,
    ) -> None:
        self._inner = inner
        self._plant = plant
        self._device = device
        self._overrides = overrides
        self._ends = ends
        self._charge_w = charge_w
        self._off_grid = off_grid
        self._mirror = Mirror(layout, plant, device)
        self._schedule = schedule
        self._rated_w = layout.profile.inverter.power_w_discharge_max
        commands = [one for one in served(layout) if one.function.name in ("set", "window")]
        self._commands = {k for one in commands for point in one.points for k in _registers_of(point)}
        self._ended = False
        self._steering = False
        self._opened = False

    def read(self, address: int, count: int) -> bytes | int:
        """Return measurements as they are, and settings as written."""
        data = self._inner.read(address, count)
        return self._mirror.over(address, data) if isinstance(data, bytes) else data

    def write(self, address: int, data: bytes) -> int:
        """Take a write; the device's own business goes on."""
        code = self._inner.write(address, data) or self._mirror.image.write(address, data)
        if code == 0 and not self._commands.isdisjoint(range(address, address + len(data) // 2)):
            self._ended = False
        if code == 0 and self._steering:
            self._steer()
        return code

    def step(self) -> None:
        """Look what the device wants of itself now."""
        self._mirror.follow()
        self._steer()
        if self._off_grid:
            self._guard_island()

    def _state(self, name: str) -> float:
        return float(self._plant.states(name)[self._device])

    def _soc_frac(self) -> float:
        """State of charge as the device believes it [1]."""
        capacity_j = float(self._plant.params("capacity_j")[self._device])
        return self._state("energy_j") / capacity_j + self._state("soc_error_frac")

    def _set(self, name: str, value: float) -> None:
        values = self._plant.controls(name)
        if values[self._device] != value:
            values[self._device] = value
            self._plant.set_control(name, values)

    def _steer(self) -> None:
        """Put in force what prevails, or the command again when nothing does any more."""
        command = self._mirror.controls(_STEERED)
        prevails = self._prevails(command)
        if prevails is not None or self._steering:
            for name, value in {**command, **(prevails or {})}.items():
                self._set(name, value)
        self._steering = prevails is not None

    def _prevails(self, command: dict[str, float]) -> dict[str, float] | None:
        """Return the settings that differ from the command's, None when none do."""
        for override in self._overrides:
            if self._schedule.active(override.when, override):
                if override.power_w is not None:
                    return _asking(override.power_w)
                limit_frac = min((override.power_w_max or 0.0) / self._rated_w, 1.0)
                if command["limit_ena"]:
                    limit_frac = min(limit_frac, command["limit_frac"])
                return {"limit_ena": 1.0, "limit_frac": limit_frac, "limit_rvrt_ticks": 0.0}
        reserve_frac = float(self._plant.controls("reserve_frac")[self._device])
        if self._charge_w is not None and self._soc_frac() < reserve_frac:
            return _asking(-self._charge_w)
        if self._ends is not None:
            commanded = any(command[name] for name in _COMMANDED)
            power_w, soc_frac = self._state("power_w"), self._soc_frac()
            low = power_w > 0.0 and soc_frac <= self._ends.soc_frac_min
            high = power_w < 0.0 and soc_frac >= self._ends.soc_frac_max
            self._ended = commanded and (self._ended or low or high)
            if self._ended:
                return dict.fromkeys(_COMMANDED + _TIMERS, 0.0)
        return None

    def _guard_island(self) -> None:
        """Open the battery's contactors at the reserve in an island, and close them when the grid is back."""
        reserve_frac = float(self._plant.controls("reserve_frac")[self._device])
        if self._opened and self._plant.inputs("grid_good")[self._device]:
            self._set("bms_open", 0.0)
            self._opened = False
        elif self._state("status") == _ISLAND and self._soc_frac() <= reserve_frac:
            self._set("bms_open", 1.0)
            self._opened = True


def _asking(power_w: float) -> dict[str, float]:
    """Return the settings that make the device give a power, whatever else is commanded."""
    off = ("window_in_ena", "window_out_ena", "limit_ena")
    return {"set_ena": 1.0, "set_w": power_w, **dict.fromkeys((*off, *_TIMERS), 0.0)}


def _registers_of(point: Point) -> range:
    return range(point.address, point.address + point.size)
