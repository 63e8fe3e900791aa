"""Settings of the IEEE 1547-2018 functions of one device: what they are.

Duty: one immutable object, `GridSettings`, holds what is in force.  Stored curves that are not in force and
the values that remote writes revert to belong to the register layer; the permit to enter service is a field
of `fields.CONTROL`.

Rules of this file:

- Voltages are per unit of nominal, frequencies Hz, times seconds.
- Shares of active power count against the discharge rating where positive, against the charge rating where
  negative: 1547 knows a rating for each direction (table 28), and SunSpec's percent is read so.
- Shares of reactive power count against the base that the curve names; positive is injected (over-excited).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import DeviceError
from .profile import DeviceProfile

Point = tuple[float, float]
"""A point of a curve: what it depends on, what it asks."""

Excitation = Literal["over", "under"]
VarBase = Literal["w_max", "var_max", "va_max"]
"""What a share of reactive power counts against: active power rating, reactive rating of its own direction,
apparent power rating (SunSpec 705.DeptRef 0, 1, 3)."""


class SettingError(DeviceError):
    """A setting is outside what the device takes; the message names function, point, finding and range."""


@dataclass(frozen=True, slots=True)
class EnterService:
    """Conditions and manner of entering service (4.10, SunSpec 703).

    Attributes
    ----------
    voltage_pu_min, voltage_pu_max, frequency_hz_min, frequency_hz_max : float
        The grid is good within these.
    delay_s : float
        It must have been good this long [s].
    random_s : float
        Longest random addition to the delay [s].
    ramp_s : float
        From nothing to full power [s]; 0 is no ramp.
    """

    voltage_pu_min: float
    voltage_pu_max: float
    frequency_hz_min: float
    frequency_hz_max: float
    delay_s: float
    random_s: float
    ramp_s: float


@dataclass(frozen=True, slots=True)
class PowerFactor:
    """Constant power factor in one direction of active power."""

    enabled: bool
    factor: float
    excitation: Excitation


@dataclass(frozen=True, slots=True)
class ConstantPf:
    """Constant power factor (5.3.2, SunSpec 704.PFWInj and PFWAbs)."""

    inject: PowerFactor
    absorb: PowerFactor


@dataclass(frozen=True, slots=True)
class ConstantVar:
    """Constant reactive power (5.3.5, SunSpec 704.VarSet) [var]."""

    enabled: bool
    var_var: float


@dataclass(frozen=True, slots=True)
class VoltVar:
    """Reactive power by voltage (5.3.3, SunSpec 705).

    Attributes
    ----------
    points : four of (voltage_pu, var_frac)
        Voltages are those that hold at a reference of 1; another reference shifts the whole curve by its
        distance from 1.
    ref_pu : float
        Reference voltage (705.VRef).
    auto : bool
        The reference follows the measured voltage instead (705.VRefAutoEna), starting from `ref_pu`.
    auto_s : float
        Time constant of that [s].
    response_s : float
        Open loop response time, to 90 % [s].
    """

    enabled: bool
    points: tuple[Point, ...]
    var_base: VarBase
    ref_pu: float
    auto: bool
    auto_s: float
    response_s: float


@dataclass(frozen=True, slots=True)
class VoltWatt:
    """Limit of active power by voltage (5.4.2, SunSpec 706); two points of (voltage_pu, power_frac)."""

    enabled: bool
    points: tuple[Point, ...]
    response_s: float


@dataclass(frozen=True, slots=True)
class WattVar:
    """Reactive power by active power (5.3.4, SunSpec 712).

    Attributes
    ----------
    generate : three of (power_frac, var_frac)
        P1, P2, P3 of the standard.
    absorb : three of (power_frac, var_frac)
        P'1, P'2, P'3, powers negative and falling; all six numbers 0: no reactive power while absorbing.
    """

    enabled: bool
    generate: tuple[Point, ...]
    absorb: tuple[Point, ...]
    var_base: VarBase


@dataclass(frozen=True, slots=True)
class Droop:
    """Frequency droop (6.5.2.7, SunSpec 711).

    Attributes
    ----------
    dead_hz_over, dead_hz_under : float
        Half dead bands, from nominal [Hz].
    droop_frac_over, droop_frac_under : float
        Per-unit change of frequency for a change by the whole power rating [1].
    response_s : float
        Open loop response time [s].
    power_frac_min : float
        High frequency brings active power no lower than this; negative charges [1].
    """

    enabled: bool
    dead_hz_over: float
    dead_hz_under: float
    droop_frac_over: float
    droop_frac_under: float
    response_s: float
    power_frac_min: float


@dataclass(frozen=True, slots=True)
class Trip:
    """Limits of one side of voltage [pu] or frequency [Hz] (6.4, 6.5, SunSpec 707 to 710).

    Cannot be disabled: tripping is mandatory (6.4.1, 6.5.1).

    Attributes
    ----------
    must : two of (limit, seconds)
        Level 1, the slow one nearer to nominal, and level 2.
    may : two of (limit, seconds), or none
        The same where the device is allowed to trip; only devices that take the permission mind
        (`profile.Grid.takes_may_trip`).
    cease : float or None
        Momentary cessation beyond this voltage; None: never, as for frequency always.
    """

    must: tuple[Point, ...]
    may: tuple[Point, ...]
    cease: float | None


@dataclass(frozen=True, slots=True)
class GridSettings:
    """Everything that is in force on one device."""

    enter: EnterService
    pf: ConstantPf
    var: ConstantVar
    volt_var: VoltVar
    volt_watt: VoltWatt
    watt_var: WattVar
    droop: Droop
    under_voltage: Trip
    over_voltage: Trip
    under_frequency: Trip
    over_frequency: Trip


@dataclass(frozen=True, slots=True)
class Ratings:
    """What shares count against; all positive or zero."""

    discharge_w: float
    charge_w: float
    apparent_va: float
    inject_var: float
    absorb_var: float

    def power_w(self, frac: float) -> float:
        """Return the active power of a share [W]."""
        return frac * (self.charge_w if frac < 0.0 else self.discharge_w)

    def reactive_var(self, frac: float, base: VarBase) -> float:
        """Return the reactive power of a share of a base [var]."""
        return frac * self.var_base(base, absorbs=frac < 0.0)

    def var_base(self, base: VarBase, absorbs: bool) -> float:
        """Return what a share of reactive power counts against [var]."""
        if base == "w_max":
            return self.discharge_w
        if base == "va_max":
            return self.apparent_va
        return self.absorb_var if absorbs else self.inject_var


def ratings(profile: DeviceProfile) -> Ratings:
    """Return the ratings of a device type."""
    inverter = profile.inverter
    discharge_w, charge_w = inverter.power_w_discharge_max, inverter.power_w_charge_max
    apparent_va = inverter.apparent_va_max or max(discharge_w, charge_w)
    return Ratings(
        discharge_w,
        charge_w,
        apparent_va,
        inverter.var_frac_inject * apparent_va,
        inverter.var_frac_absorb * apparent_va,
    )


def at_nominal_hz(hz: float, profile: DeviceProfile, digits: int = 2) -> float:
    """Return a frequency of the standard, which means 60 Hz, for the device's own nominal frequency [Hz]."""
    return round(hz * profile.face.frequency_hz / 60.0, digits)
