"""Device types and settings for the tests of the grid-support functions.

Rule of this file: what it draws is valid; no expectations.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from ridethrough.emulator.grid_settings import (
    ConstantPf,
    ConstantVar,
    Droop,
    EnterService,
    GridSettings,
    Point,
    PowerFactor,
    Trip,
    VarBase,
    VoltVar,
    VoltWatt,
    WattVar,
    ratings,
)
from ridethrough.emulator.profile import DeviceProfile

CATEGORIES = ("I", "II", "III")


def device(hz: int = 60, grid: dict[str, Any] | None = None, **inverter: float) -> DeviceProfile:
    """Return a home of 5 kW out, 4 kW in and 6 kVA; `grid` and `inverter` replace single values."""
    return DeviceProfile.model_validate(
        {
            "profile": "test",
            "description": "test",
            "battery": {"energy_wh": 13_500.0},
            "inverter": {
                "power_w_discharge_max": 5000.0,
                "power_w_charge_max": 4000.0,
                "power_w_surge": 7000.0,
                "ramp_w_per_s": 5000.0,
                "loss_a_w": 97.0,
                "loss_b_w": 113.0,
                "loss_c_w": 27.0,
                "standby_w": 15.0,
                "apparent_va_max": 6000.0,
            }
            | inverter,
            "island": {"transfer": "fast"},
            "control": {"revert_state": "idle", "has_reserve": True, "power_w_recharge": 2500.0},
            "face": {"model": "test", "models": (1,), "frequency_hz": hz},
            "grid": grid or {},
        }
    )


def devices() -> st.SearchStrategy[DeviceProfile]:
    """Draw device types of all categories, both frequencies and several reactive ratings."""
    grid = st.fixed_dictionaries(
        {
            "normal": st.sampled_from("AB"),
            "abnormal": st.sampled_from(CATEGORIES),
            "takes_may_trip": st.booleans(),
            "function": st.sampled_from(("power_factor", "var", "volt_var", "watt_var")),
        }
    )
    share = st.sampled_from((0.0, 0.25, 0.44, 0.6, 1.0))
    return st.builds(
        lambda hz, grid, inject, absorb: device(hz, grid, var_frac_inject=inject, var_frac_absorb=absorb),
        st.sampled_from((50, 60)),
        grid,
        share,
        share,
    )


def _between(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw a number; none where the range is closed by rounding."""
    return st.floats(low, max(low, high), allow_nan=False, allow_subnormal=False)


@st.composite
def settings_of(draw: st.DrawFn, profile: DeviceProfile) -> GridSettings:
    """Draw settings that a device type takes."""
    scale = profile.face.frequency_hz / 60.0
    function = draw(st.sampled_from(("none", "pf", "var", "volt_var", "watt_var")))
    rated = ratings(profile)
    side = st.builds(
        PowerFactor, st.just(function == "pf"), _between(0.01, 1.0), st.sampled_from(("over", "under"))
    )
    return GridSettings(
        enter=EnterService(
            draw(_between(0.88, 0.95)),
            draw(_between(1.05, 1.06)),
            draw(_between(59.0 * scale + 0.01, 59.9 * scale - 0.01)),
            draw(_between(60.1 * scale + 0.01, 61.0 * scale - 0.01)),
            draw(_between(0.0, 600.0)),
            draw(st.just(0.0) | _between(1.0, 1000.0)),
            draw(st.just(0.0) | _between(1.0, 1000.0)),
        ),
        pf=ConstantPf(draw(side), draw(side)),
        var=ConstantVar(function == "var", draw(_between(-rated.absorb_var, rated.inject_var))),
        volt_var=draw(_volt_var(profile, function == "volt_var")),
        volt_watt=draw(_volt_watt()),
        watt_var=draw(_watt_var(profile, function == "watt_var")),
        droop=draw(_droop(profile, scale)),
        under_voltage=draw(_trip(((0.0, 0.5), (0.16, 2.0)), ((0.5, 0.88), (2.0, 21.0)), (0.0, 0.88))),
        over_voltage=draw(_trip(((1.2, 1.2), (0.16, 0.16)), ((1.1, 1.2), (1.0, 13.0)), (1.1, 1.2))),
        under_frequency=draw(_frequency(scale, ((50.1, 56.9), (57.0, 58.9)))),
        over_frequency=draw(_frequency(scale, ((64.0, 65.9), (61.1, 64.0)))),
    )


def _shares(profile: DeviceProfile, base: VarBase) -> tuple[float, float]:
    """Return the least and the greatest share of a base."""
    rated = ratings(profile)
    below, above = rated.var_base(base, absorbs=True), rated.var_base(base, absorbs=False)
    return (
        -rated.absorb_var / below if below else 0.0,
        rated.inject_var / above if above else 0.0,
    )


BASES: tuple[VarBase, ...] = ("w_max", "var_max", "va_max")


@st.composite
def _volt_var(draw: st.DrawFn, profile: DeviceProfile, enabled: bool) -> VoltVar:
    base = draw(st.sampled_from(BASES))
    least, most = _shares(profile, base)
    q1, q4 = draw(_between(0.0, most)), draw(_between(least, 0.0))
    q2 = draw(_between(q4, q1))
    v2, v3 = draw(_between(0.97, 1.0)), draw(_between(1.0, 1.03))
    flat = v3 - v2 < 1e-3
    q3 = q2 if flat else draw(_between(q4, q2))
    v1, v4 = draw(_between(0.82, v2 - 0.02)), draw(_between(v3 + 0.02, 1.18))
    return VoltVar(
        enabled,
        ((v1, q1), (v2, q2), (v3, q3), (v4, q4)),
        base,
        draw(_between(0.95, 1.05)),
        draw(st.booleans()),
        draw(_between(300.0, 5000.0)),
        draw(_between(1.0, 90.0)),
    )


@st.composite
def _volt_watt(draw: st.DrawFn) -> VoltWatt:
    v1, p1 = draw(_between(1.05, 1.09)), draw(_between(0.0, 1.0))
    points = ((v1, p1), (draw(_between(v1 + 0.01, 1.10)), draw(_between(-1.0, p1))))
    return VoltWatt(draw(st.booleans()), points, draw(_between(0.5, 60.0)))


@st.composite
def _watt_var(draw: st.DrawFn, profile: DeviceProfile, enabled: bool) -> WattVar:
    base = draw(st.sampled_from(BASES))
    var = _between(*_shares(profile, base))

    def side(sign: float) -> tuple[Point, ...]:
        p2 = draw(_between(0.4, 0.8))
        powers = (draw(_between(0.0, p2 - 0.1)), p2, draw(_between(p2 + 0.1, 1.0)))
        return tuple((sign * power, draw(var)) for power in powers)

    unused = draw(st.booleans())
    absorb = ((0.0, 0.0),) * 3 if unused else side(-1.0)
    return WattVar(enabled, side(1.0), absorb, base)


@st.composite
def _droop(draw: st.DrawFn, profile: DeviceProfile, scale: float) -> Droop:
    dead_hz = _between(0.0171 * scale, 0.999 * scale)
    fast = profile.grid.abnormal == "III"
    k = _between(0.02 if fast else 0.03, 0.05)
    response_s = _between(0.2 if fast else 1.0, 10.0)
    return Droop(
        draw(st.booleans()),
        draw(dead_hz),
        draw(dead_hz),
        draw(k),
        draw(k),
        draw(response_s),
        draw(_between(-1.0, 1.0)),
    )


Box = tuple[tuple[float, float], tuple[float, float]]


@st.composite
def _trip(draw: st.DrawFn, far: Box, near: Box, cease: tuple[float, float] | None) -> Trip:
    """Draw limits: ranges of limit and seconds, of level 2 and of level 1, which do not overlap."""
    levels = [(draw(_between(*limits)), draw(_between(*seconds))) for limits, seconds in (near, far)]
    may = [(draw(_between(*limits)), draw(_between(*seconds))) for limits, seconds in (near, far)]
    return Trip(
        tuple(levels),
        draw(st.sampled_from(((), tuple(may)))),
        draw(st.none() | _between(*cease)) if cease else None,
    )


def _frequency(scale: float, places: Box) -> st.SearchStrategy[Trip]:
    """Draw limits of frequency; `places` are the ranges of level 2 and of level 1 at 60 Hz."""
    (far_low, far_high), (near_low, near_high) = places
    return _trip(
        ((far_low * scale, far_high * scale), (0.16, 180.0)),
        ((near_low * scale, near_high * scale), (180.0, 1000.0)),
        None,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[DeviceProfile, GridSettings]:
    """Draw a device type and settings it takes."""
    profile = draw(devices())
    return profile, draw(settings_of(profile))
