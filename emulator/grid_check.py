"""Whether settings may be taken: adjustable ranges, order and shape of curves, functions that exclude others.

Duty: `check` refuses with `SettingError`, whose message names function, point, what was found, what is
allowed and where that is written.  Disabled functions are held to the same ranges, so that enabling one needs
no second look at its numbers.

Decisions:

- Two reactive power functions at once are refused: 5.3.1 makes them exclusive.  Power factor 1 asks for
  nothing, is the standard's factory setting, and does not count: a client may enable volt-var without first
  disabling it.  Both directions of constant power factor are one function.
- Trip times of categories I to III are those of 2018 as widened by 1547a-2020.
- What a profile says itself (delay, random delay and ramp of entering service) is allowed on that device even
  outside the adjustable range: devices that do not conform can be emulated.
- Ramp and random delay may be set together.  1547 offers the second in place of the first (4.10.3); a device
  that does both is slower than asked and never faster.
- A power factor below 0.01 is refused: its reactive power per watt has no bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from .grid_types import (
    Droop,
    EnterService,
    Excitation,
    GridSettings,
    Point,
    PowerFactor,
    Ratings,
    SettingError,
    Trip,
    VarBase,
    VoltVar,
    VoltWatt,
    WattVar,
    at_nominal_hz,
    ratings,
)
from .profile import DeviceProfile

SLACK: Final = 1e-9
"""Allowed beyond every range: a register's 110 times 0.01 need not be 1.1."""

PF_LEAST: Final = 0.01
RANDOM_VA_MAX: Final = 500e3
"""Only up to this rating may the delay have a random part (4.10.3)."""
CURVE_WIDTH_PU: Final = 1e-4
"""Volt-var points nearer than this, 0.01 % of nominal voltage, must ask the same."""

Range = tuple[float, float]


def check(settings: GridSettings, profile: DeviceProfile) -> None:
    """Refuse settings that a device of this type does not take.

    Raises
    ------
    SettingError
        At the first point that is outside what is allowed.
    """
    rated = ratings(profile)
    _enter(settings.enter, profile, rated)
    _power_factor("PFWInj", settings.pf.inject)
    _power_factor("PFWAbs", settings.pf.absorb)
    reach: Range = (-rated.absorb_var, rated.inject_var)
    _within("constant var (704)", "VarSet", settings.var.var_var, reach, "the reactive rating, 5.3.5", "var")
    _volt_var(settings.volt_var, rated)
    _volt_watt(settings.volt_watt)
    _watt_var(settings.watt_var, rated)
    _droop(settings.droop, profile)
    _trips(settings, profile)
    _one_function(settings)


def _within(function: str, point: str, found: float, allowed: Range, source: str, unit: str = "") -> None:
    """Refuse a number outside a range; also one that is not a number."""
    low, high = allowed
    if low - SLACK <= found <= high + SLACK:
        return
    space = f" {unit}" if unit else ""
    span = f"{low:.6g}{space}" if low == high else f"{low:.6g} to {high:.6g}{space}"
    raise SettingError(
        f"{function}, {point}: found {found:.6g}{space}; allowed is {span} (IEEE 1547-2018, {source})"
    )


def _one_of(function: str, point: str, found: object, allowed: Sequence[str]) -> None:
    """Refuse a word that is not on the list."""
    if found not in allowed:
        raise SettingError(f"{function}, {point}: found {found!r}; allowed are {', '.join(allowed)}")


def _count(function: str, points: Sequence[Point], needed: int, source: str) -> None:
    """Refuse a curve with another number of points than the model has."""
    if len(points) != needed:
        raise SettingError(
            f"{function}, ActPt: found {len(points)} points; allowed is {needed} (IEEE 1547-2018, {source})"
        )


def _enter(enter: EnterService, profile: DeviceProfile, rated: Ratings) -> None:
    name = "enter service (703)"

    def hz(low: float, high: float) -> Range:
        return at_nominal_hz(low, profile), at_nominal_hz(high, profile)

    _within(name, "ESVLo", enter.voltage_pu_min, (0.88, 0.95), "table 4", "pu")
    _within(name, "ESVHi", enter.voltage_pu_max, (1.05, 1.06), "table 4", "pu")
    _within(name, "ESHzLo", enter.frequency_hz_min, hz(59.0, 59.9), "table 4", "Hz")
    _within(name, "ESHzHi", enter.frequency_hz_max, hz(60.1, 61.0), "table 4", "Hz")
    factory = profile.inverter.enter_delay_s, profile.grid.enter_random_s, profile.inverter.enter_ramp_s
    delay_s, random_s, ramp_s = factory
    if enter.delay_s != delay_s:
        _within(name, "ESDlyTms", enter.delay_s, (0.0, 600.0), "4.10.3", "s")
    if enter.random_s not in (0.0, random_s):
        if rated.apparent_va > RANDOM_VA_MAX:
            raise SettingError(
                f"{name}, ESRndTms: found {enter.random_s:g} s; allowed is 0 s above 500 kVA "
                "(IEEE 1547-2018, 4.10.3)"
            )
        _within(name, "ESRndTms", enter.random_s, (1.0, 1000.0), "4.10.3; 0 is none", "s")
    if enter.ramp_s not in (0.0, ramp_s):
        _within(name, "ESRmpTms", enter.ramp_s, (1.0, 1000.0), "4.10.3; 0 is none", "s")


def _power_factor(point: str, side: PowerFactor) -> None:
    name = "constant power factor (704)"
    _within(name, f"{point}.PF", side.factor, (PF_LEAST, 1.0), "5.3.2; least assumed")
    _one_of(name, f"{point}.Ext", side.excitation, get_args(Excitation))


def _shares(base: VarBase, rated: Ratings) -> Range:
    """Return the shares of a base that the device's reactive ratings cover."""
    below, above = rated.var_base(base, absorbs=True), rated.var_base(base, absorbs=False)
    return (
        -rated.absorb_var / below if below else 0.0,
        rated.inject_var / above if above else 0.0,
    )


def _volt_var(curve: VoltVar, rated: Ratings) -> None:
    name, table = "volt-var (705)", "table 8"
    _count(name, curve.points, 4, table)
    _one_of(name, "DeptRef", curve.var_base, get_args(VarBase))
    (v1, q1), (v2, q2), (v3, q3), (v4, q4) = curve.points
    _within(name, "Pt[2].V", v2, (0.97, 1.0), table, "pu")
    _within(name, "Pt[1].V", v1, (0.82, v2 - 0.02), table, "pu")
    _within(name, "Pt[3].V", v3, (1.0, 1.03), table, "pu")
    _within(name, "Pt[4].V", v4, (v3 + 0.02, 1.18), table, "pu")
    least, most = _shares(curve.var_base, rated)
    _within(name, "Pt[1].Var", q1, (0.0, most), table)
    _within(name, "Pt[2].Var", q2, (least, q1), f"{table}, falling")
    _within(name, "Pt[3].Var", q3, (least, q2), f"{table}, falling")
    _within(name, "Pt[4].Var", q4, (least, min(q3, 0.0)), f"{table}, falling")
    if v3 - v2 < CURVE_WIDTH_PU - SLACK:
        _within(name, "Pt[3].Var", q3, (q2, q2), "no steps: same voltage as Pt[2]")
    _within(name, "VRef", curve.ref_pu, (0.95, 1.05), table, "pu")
    _within(name, "VRefAutoTms", curve.auto_s, (300.0, 5000.0), "5.3.3", "s")
    _within(name, "RspTms", curve.response_s, (1.0, 90.0), table, "s")


def _volt_watt(curve: VoltWatt) -> None:
    name, table = "volt-watt (706)", "table 10"
    _count(name, curve.points, 2, table)
    (v1, p1), (v2, p2) = curve.points
    _within(name, "Pt[1].V", v1, (1.05, 1.09), table, "pu")
    _within(name, "Pt[2].V", v2, (v1 + 0.01, 1.10), table, "pu")
    _within(name, "Pt[1].W", p1, (0.0, 1.0), table)
    _within(name, "Pt[2].W", p2, (-1.0, p1), f"{table}, falling")
    _within(name, "RspTms", curve.response_s, (0.5, 60.0), table, "s")


def _watt_var(curve: WattVar, rated: Ratings) -> None:
    name, table = "watt-var (712)", "table 9"
    _count(f"{name}, generating", curve.generate, 3, table)
    _count(f"{name}, absorbing", curve.absorb, 3, table)
    _one_of(name, "DeptRef", curve.var_base, get_args(VarBase))
    (p1, _), (p2, _), (p3, _) = curve.generate
    _within(name, "Pt[5].W", p2, (0.4, 0.8), table)
    _within(name, "Pt[4].W", p1, (0.0, p2 - 0.1), table)
    _within(name, "Pt[6].W", p3, (p2 + 0.1, 1.0), table)
    unused = all(point == (0.0, 0.0) for point in curve.absorb)
    if not unused:
        (p1, _), (p2, _), (p3, _) = curve.absorb
        _within(name, "Pt[2].W", p2, (-0.8, -0.4), f"{table}; or all six load values 0")
        _within(name, "Pt[3].W", p1, (p2 + 0.1, 0.0), table)
        _within(name, "Pt[1].W", p3, (-1.0, p2 - 0.1), table)
    reach = _shares(curve.var_base, rated)
    for number, (_, share) in enumerate((*reversed(curve.absorb), *curve.generate), 1):
        _within(name, f"Pt[{number}].Var", share, reach, table)


def _droop(droop: Droop, profile: DeviceProfile) -> None:
    name, table = "frequency droop (711)", "table 24"
    dead: Range = (at_nominal_hz(0.017, profile, 4), at_nominal_hz(1.0, profile, 4))
    fast = profile.grid.abnormal == "III"
    steepest, quickest_s = (0.02, 0.2) if fast else (0.03, 1.0)
    _within(name, "DbOf", droop.dead_hz_over, dead, table, "Hz")
    _within(name, "DbUf", droop.dead_hz_under, dead, table, "Hz")
    _within(name, "KOf", droop.droop_frac_over, (steepest, 0.05), table)
    _within(name, "KUf", droop.droop_frac_under, (steepest, 0.05), table)
    _within(name, "RspTms", droop.response_s, (quickest_s, 10.0), table, "s")
    _within(name, "PMin", droop.power_frac_min, (-1.0, 1.0), "6.5.2.7; range of SunSpec 711")


def _trips(settings: GridSettings, profile: DeviceProfile) -> None:
    """Check the four sides; limits, then times, level 1 before level 2."""

    def hz(low: float, high: float) -> Range:
        return at_nominal_hz(low, profile), at_nominal_hz(high, profile)

    third = profile.grid.abnormal == "III"
    slow: Range = (2.0, 50.0) if third else (2.0, 21.0)
    quick: Range = (0.16, 21.0) if third else (0.16, 2.0)
    long: Range = (180.0, 1000.0)
    any_s: Range = (0.16, 1000.0)
    tables = "tables 11 to 13 and 1547a-2020"
    name, trip = "under-voltage trip (707)", settings.under_voltage
    _must(name, "V", trip, ((0.0, 0.88), slow), ((0.0, 0.50), quick), tables)
    _may(name, "V", trip, (0.0, 0.88), under=True)
    _cease(name, trip, (0.0, 0.88))
    name, trip = "over-voltage trip (708)", settings.over_voltage
    _must(name, "V", trip, ((1.10, 1.20), (1.0, 13.0)), ((1.20, 1.20), (0.16, 0.16)), tables)
    _may(name, "V", trip, (1.10, 1.20), under=False)
    _cease(name, trip, (1.10, 1.20))
    name, trip = "under-frequency trip (709)", settings.under_frequency
    _must(name, "Hz", trip, (hz(50.0, 59.0), long), (hz(50.0, 57.0), any_s), "table 18")
    _may(name, "Hz", trip, hz(50.0, 59.0), under=True)
    _cease(name, trip, None)
    name, trip = "over-frequency trip (710)", settings.over_frequency
    _must(name, "Hz", trip, (hz(61.0, 66.0), long), (hz(61.8, 66.0), any_s), "table 18")
    _may(name, "Hz", trip, hz(61.0, 66.0), under=False)
    _cease(name, trip, None)


def _must(
    name: str, what: str, trip: Trip, slow: tuple[Range, Range], quick: tuple[Range, Range], source: str
) -> None:
    """Check a must-trip curve: ranges of limit and time of both levels, and their order."""
    name = f"{name}, MustTrip"
    _count(name, trip.must, 2, f"{source}: two levels")
    unit = "pu" if what == "V" else "Hz"
    for level, (limit, seconds), (limits, times) in zip((1, 2), trip.must, (slow, quick), strict=True):
        _within(name, f"level {level} {what}", limit, limits, source, unit)
        _within(name, f"level {level} Tms", seconds, times, source, "s")
    _ordered(name, trip.must, under=name.startswith("under"))


def _may(name: str, what: str, trip: Trip, limits: Range, under: bool) -> None:
    """Check a may-trip curve, if there is one; 1547 states no range, the must-trip curve's is taken."""
    if not trip.may:
        return
    name, source = f"{name}, MayTrip", "no range stated; that of MustTrip assumed"
    _count(name, trip.may, 2, "6.4.2: two levels kept")
    unit = "pu" if what == "V" else "Hz"
    for level, (limit, seconds) in enumerate(trip.may, 1):
        _within(name, f"level {level} {what}", limit, limits, source, unit)
        _within(name, f"level {level} Tms", seconds, (0.0, 1000.0), source, "s")
    _ordered(name, trip.may, under)


def _ordered(name: str, levels: Sequence[Point], under: bool) -> None:
    """Refuse a level 2 that is nearer to nominal, or slower, than level 1."""
    (limit_1, seconds_1), (limit_2, seconds_2) = levels
    if limit_2 > limit_1 + SLACK if under else limit_2 < limit_1 - SLACK:
        side = "at most" if under else "at least"
        raise SettingError(f"{name}, level 2: found {limit_2:g}; allowed is {side} {limit_1:g}, as level 1")
    if seconds_2 > seconds_1 + SLACK:
        raise SettingError(
            f"{name}, level 2 Tms: found {seconds_2:g} s; allowed is at most {seconds_1:g} s, as level 1"
        )


def _cease(name: str, trip: Trip, limits: Range | None) -> None:
    """Check the limit of momentary cessation, if there is one."""
    if trip.cease is None:
        return
    if limits is None:
        raise SettingError(
            f"{name}, MomCess: found {trip.cease:g} Hz; allowed is none: voltage alone makes it cease"
        )
    _within(
        f"{name}, MomCess",
        "V",
        trip.cease,
        limits,
        "table 36 states no range; that of MustTrip assumed",
        "pu",
    )


def _one_function(settings: GridSettings) -> None:
    """Refuse two reactive power functions at once."""
    sides = (settings.pf.inject, settings.pf.absorb)
    enabled = {
        "volt-var (705)": settings.volt_var.enabled,
        "watt-var (712)": settings.watt_var.enabled,
        "constant var (704)": settings.var.enabled,
        "constant power factor other than 1 (704)": any(s.enabled and s.factor != 1.0 for s in sides),
    }
    found = [name for name, on in enabled.items() if on]
    if len(found) > 1:
        raise SettingError(
            f"reactive power, Ena: found {' and '.join(found)} enabled; allowed is one function at a time "
            "(IEEE 1547-2018, 5.3.1)"
        )
