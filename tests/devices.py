"""Device types and settings that the tests draw: valid ones only, no expectations.

Delays are seconds and batteries are small, so that a life of a few seconds passes through every status.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from ridethrough.emulator.grid_settings import default_settings
from ridethrough.emulator.grid_types import (
    Excitation,
    GridSettings,
    Point,
    Trip,
    VoltVar,
    WattVar,
    at_nominal_hz,
)
from ridethrough.emulator.profile import DeviceProfile


def home(**changes: dict[str, Any]) -> DeviceProfile:
    """Return a 13.5 kWh, 5 kW home with round numbers; `changes` replace single values of a section.

    It has neither ohmic loss nor limits by temperature, and rides through everything.
    """
    sections: dict[str, dict[str, Any]] = {
        "battery": {"energy_wh": 13_500.0},
        "inverter": {
            "power_w_discharge_max": 5000.0,
            "power_w_charge_max": 5000.0,
            "power_w_surge": 7000.0,
            "ramp_w_per_s": 5000.0,
            "loss_a_w": 97.0,
            "loss_b_w": 113.0,
            "loss_c_w": 27.0,
            "standby_w": 15.0,
        },
        "island": {"transfer": "fast"},
        "control": {"revert_state": "idle", "has_reserve": True, "power_w_recharge": 2500.0},
        "grid": {},
        "face": {"model": "test", "models": (1,)},
    }
    for name, values in changes.items():
        sections[name] = sections[name] | values
    return DeviceProfile.model_validate({"profile": "test", "description": "test", **sections})


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    """Return ordinary numbers of a range, both ends included."""
    return st.floats(low, high, allow_nan=False, allow_subnormal=False)


def seconds(high: float) -> st.SearchStrategy[float]:
    """Return durations from 0 to `high` [s] that need not be whole ticks."""
    return st.one_of(st.sampled_from([s for s in (0.0, 0.02, 1.0) if s <= high]), floats(0.0, high))


@st.composite
def profiles(draw: st.DrawFn, *, hours_max: float = 4.0, plain: bool = False) -> DeviceProfile:
    """Draw a device type with a battery of up to `hours_max` at its rating; a `plain` one knows no extras."""
    rating_w = draw(floats(500.0, 20_000.0))
    hours = draw(st.one_of(floats(0.002, 0.01), floats(0.01, hours_max), *[floats(0.5, hours_max)] * 2))
    soc_frac_min = draw(floats(0.0, 0.3))
    soc_frac_max = draw(floats(0.6, 1.0))
    rise = draw(floats(0.01, 1.0)) * (soc_frac_max - soc_frac_min)
    share = floats(0.0, 1.0)

    def extra(values: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
        return {} if plain else draw(st.one_of(st.just({}), values))

    return home(
        battery={
            "energy_wh": rating_w * hours,
            "soc_frac_min": soc_frac_min,
            "soc_frac_max": soc_frac_max,
            "soc_frac_restart": min(soc_frac_min + rise, soc_frac_max),  # the sum may round up
            **extra(_cells(hours)),
            **extra(_gauge()),
        },
        inverter={
            "power_w_discharge_max": rating_w,
            "power_w_charge_max": rating_w * draw(floats(0.2, 1.2)),
            "power_w_surge": rating_w * draw(floats(1.0, 2.0)),
            "surge_s": draw(seconds(2.0)),
            "ramp_w_per_s": rating_w * draw(st.one_of(floats(0.05, 2.0), floats(2.0, 100.0))),
            "loss_a_w": rating_w * 0.03 * draw(share),
            "loss_b_w": rating_w * 0.03 * draw(share),
            "loss_c_w": rating_w * 0.02 * draw(share),
            "standby_w": rating_w * 0.01 * draw(share),
            "enter_delay_s": draw(st.one_of(seconds(0.4), seconds(4.0))),
            "enter_ramp_s": draw(seconds(4.0)),
            **extra(_reactive(rating_w)),
        },
        island={
            "transfer": draw(st.sampled_from(["ups", "ups", "fast", "fast", "slow", "dark"])),
            "restart_s": draw(seconds(2.0)),
            "pv_return_s": draw(seconds(2.0)),
            "cancels_grants": draw(st.booleans()),
            **({} if plain else draw(_switching())),
            **extra(_island_pv()),
            **extra(_tiers()),
        },
        control={
            "revert_state": (revert := draw(st.sampled_from(["idle", "self_consumption", "recharge"]))),
            "has_reserve": draw(st.booleans()) or revert == "recharge",
            "reserve_soc_frac": draw(share),
            "power_w_recharge": rating_w * draw(floats(0.05, 1.5)),
            "recharge_band_frac": draw(floats(0.0, 0.1)),
        },
        grid=extra(_grid()),
    )


def _cells(hours: float) -> st.SearchStrategy[dict[str, Any]]:
    """Draw chemistry, resistance and warmth; at the rating at most a tenth is lost in the cells."""
    return st.fixed_dictionaries(
        {
            "chemistry": st.sampled_from(["lfp", "nmc"]),
            "ohmic_frac_per_c": floats(0.0, 1.0).map(lambda x: min(0.2, 0.1 * hours * x)),
            "temperature_limits": st.booleans(),
            "c_rate_share": floats(0.1, 10.0),
            "heat_capacity_j_per_k": floats(100.0, 1e6),
            "cooling_w_per_k": floats(0.1, 100.0),
            "self_discharge_frac_per_month": floats(0.0, 0.5),
            "taper_soc_frac": floats(0.3, 1.0),
            "taper_frac_min": floats(0.01, 1.0),
        }
    )


def _gauge() -> st.SearchStrategy[dict[str, Any]]:
    """Draw what the battery's own estimate gets wrong."""
    return st.fixed_dictionaries(
        {
            "soc_error_frac": floats(-0.3, 0.3),
            "soc_drift_frac_per_day": floats(-1.0, 1.0),
            "soc_error_frac_max": floats(0.0, 0.3),
            "imbalance_frac": floats(0.0, 0.2),
        }
    )


def _reactive(rating_w: float) -> st.SearchStrategy[dict[str, Any]]:
    """Draw ratings of apparent and reactive power."""
    return st.fixed_dictionaries(
        {
            "apparent_va_max": st.one_of(st.none(), floats(0.8, 1.5).map(lambda x: rating_w * x)),
            "var_frac_inject": floats(0.0, 1.0),
            "var_frac_absorb": floats(0.0, 1.0),
            "var_at_no_power": st.booleans(),
        }
    )


def _switching() -> st.SearchStrategy[dict[str, Any]]:
    """Draw how a device leaves the grid and comes back."""
    return st.fixed_dictionaries(
        {
            "capable": st.sampled_from([True, True, True, False]),
            "detect_s": seconds(2.0),
            "sync_s": seconds(0.5),
            "break_s": st.one_of(st.just(0.0), floats(0.02, 1.0)),
            "restart_growth": floats(1.0, 3.0),
            "restart_s_max": seconds(6.0),
        }
    )


def _island_pv() -> st.SearchStrategy[dict[str, Any]]:
    """Draw droop, and how an island curtails its PV."""

    def values(kind: str, trip: float, more: float, off: float, on: float) -> dict[str, Any]:
        return {
            "pv": kind,
            "pv_trip_hz_above": trip,
            "shift_hz_above": trip + more,
            "shift_soc_frac_off": min(off, on),
            "shift_soc_frac_on": on,
        }

    kinds = st.sampled_from(["commanded", "droop", "trips"])
    pv = st.builds(values, kinds, floats(0.1, 5.0), floats(0.0, 4.0), floats(0.3, 1.0), floats(0.5, 1.0))
    droop = st.fixed_dictionaries({"droop_frac": floats(0.0, 0.05), "voltage_droop_frac": floats(0.0, 0.2)})
    return st.builds(lambda a, b: a | b, pv, droop)


def _tiers() -> st.SearchStrategy[dict[str, Any]]:
    """Draw up to three parts of the backup panel that are given up."""
    part = st.tuples(floats(0.01, 0.33), floats(0.0, 1.0))

    def values(parts: list[tuple[float, float]], overload_s: float, restore_s: float) -> dict[str, Any]:
        stairs = sorted((soc for _, soc in parts), reverse=True)
        tiers = [{"frac": frac, "soc_frac": soc} for (frac, _), soc in zip(parts, stairs, strict=True)]
        return {"shed": tiers, "shed_overload_s": overload_s, "restore_s": restore_s}

    return st.builds(values, st.lists(part, min_size=1, max_size=3), seconds(1.0), seconds(1.0))


def _grid() -> st.SearchStrategy[dict[str, Any]]:
    """Draw categories, functions from the factory, and what the device does not stand."""
    return st.fixed_dictionaries(
        {
            "normal": st.sampled_from(["A", "B"]),
            "abnormal": st.sampled_from(["I", "II", "III"]),
            "function": st.sampled_from(["power_factor", "var", "volt_var", "watt_var"]),
            "volt_watt": st.booleans(),
            "droop": st.booleans(),
            "takes_may_trip": st.booleans(),
            "events_max": st.one_of(st.none(), st.integers(0, 3)),
            "events_s": seconds(3.0),
            "rocof_hz_per_s_max": st.one_of(st.none(), st.none(), floats(0.5, 50.0)),
            "restore_s": seconds(0.4),
            "enter_random_s": st.one_of(st.just(0.0), floats(0.0, 2.0)),
        }
    )


@st.composite
def grid_settings(draw: st.DrawFn, profile: DeviceProfile) -> GridSettings:
    """Draw settings a device of this type takes, of all functions."""
    base = default_settings(profile)
    third, fast = profile.grid.abnormal == "III", profile.grid.abnormal == "III"
    share, dead = floats(0.0, 1.0), floats(*(at_nominal_hz(hz, profile, 4) for hz in (0.017, 1.0)))
    function = draw(st.sampled_from(["none", "pf", "var", "volt_var", "watt_var"]))
    excitations: list[Excitation] = ["over", "under"]
    side = st.tuples(floats(0.1, 1.0), st.sampled_from(excitations))
    sides = [
        replace(now, enabled=function == "pf", factor=factor, excitation=excitation)
        for now, (factor, excitation) in zip(
            (base.pf.inject, base.pf.absorb), draw(st.tuples(side, side)), strict=True
        )
    ]
    steepest, quickest_s = (0.02, 0.2) if fast else (0.03, 1.0)
    v1_pu = draw(floats(1.05, 1.09))
    p1 = draw(share)
    vars_ = profile.inverter
    apparent_va = vars_.apparent_va_max or max(vars_.power_w_discharge_max, vars_.power_w_charge_max)
    reach_var = [vars_.var_frac_absorb * apparent_va, vars_.var_frac_inject * apparent_va]
    return replace(
        base,
        enter=replace(
            base.enter,
            voltage_pu_min=draw(floats(0.88, 0.95)),
            voltage_pu_max=draw(floats(1.05, 1.06)),
            delay_s=draw(seconds(4.0)),
            ramp_s=draw(st.one_of(st.just(0.0), floats(1.0, 4.0))),
        ),
        pf=replace(base.pf, inject=sides[0], absorb=sides[1]),
        var=replace(base.var, enabled=function == "var", var_var=draw(floats(-reach_var[0], reach_var[1]))),
        volt_var=draw(_volt_var(base.volt_var, profile, enabled=function == "volt_var")),
        watt_var=draw(_watt_var(base.watt_var, profile, enabled=function == "watt_var")),
        volt_watt=replace(
            base.volt_watt,
            enabled=draw(st.booleans()),
            points=(
                (v1_pu, p1),
                (min(v1_pu + draw(floats(0.01, 0.05)), 1.10), p1 - draw(share) * (1.0 + p1)),
            ),
            response_s=draw(floats(0.5, 60.0)),
        ),
        droop=replace(
            base.droop,
            enabled=draw(st.booleans()),
            dead_hz_over=draw(dead),
            dead_hz_under=draw(dead),
            droop_frac_over=draw(floats(steepest, 0.05)),
            droop_frac_under=draw(floats(steepest, 0.05)),
            response_s=draw(floats(quickest_s, 10.0)),
            power_frac_min=draw(floats(-1.0, 1.0)),
        ),
        under_voltage=draw(_under_voltage(base.under_voltage, third=third)),
        over_voltage=replace(
            base.over_voltage,
            must=((draw(floats(1.10, 1.20)), draw(floats(1.0, 13.0))), (1.20, 0.16)),
            cease=draw(st.one_of(st.none(), floats(1.10, 1.20))),
        ),
        over_frequency=replace(
            base.over_frequency,
            must=_must(profile, draw(floats(61.0, 61.8)), draw(floats(61.8, 66.0)), draw(floats(0.16, 3.0))),
        ),
        under_frequency=replace(
            base.under_frequency,
            must=_must(profile, draw(floats(57.0, 59.0)), draw(floats(50.0, 57.0)), draw(floats(0.16, 3.0))),
        ),
    )


def _must(profile: DeviceProfile, hz_1: float, hz_2: float, seconds_2: float) -> tuple[Point, Point]:
    """Return trip limits for the device's own nominal frequency; level 1 takes at least three minutes."""
    return (at_nominal_hz(hz_1, profile), 180.0), (at_nominal_hz(hz_2, profile), seconds_2)


@st.composite
def _under_voltage(draw: st.DrawFn, base: Trip, *, third: bool) -> Trip:
    limit_1, limit_2 = draw(floats(0.5, 0.88)), draw(floats(0.0, 0.5))
    slow_s = draw(floats(2.0, 50.0 if third else 21.0))
    return replace(
        base,
        must=((limit_1, slow_s), (limit_2, draw(floats(0.16, 2.0)))),
        cease=draw(st.one_of(st.none(), floats(0.0, 0.88))),
    )


@st.composite
def _volt_var(draw: st.DrawFn, base: VoltVar, profile: DeviceProfile, *, enabled: bool) -> VoltVar:
    v2, v3 = draw(floats(0.97, 0.99)), draw(floats(1.0, 1.03))
    q1, q2 = (profile.inverter.var_frac_inject * x for x in _falling(draw))
    q3, q4 = (-profile.inverter.var_frac_absorb * x for x in reversed(_falling(draw)))
    points = (
        (v2 - draw(floats(0.02, 0.15)), q1),
        (v2, q2),
        (v3, q3),
        (v3 + draw(floats(0.02, 0.15)), q4),
    )
    return replace(
        base,
        enabled=enabled,
        points=points,
        ref_pu=draw(floats(0.95, 1.05)),
        auto=draw(st.booleans()),
        auto_s=draw(floats(300.0, 5000.0)),
        response_s=draw(floats(1.0, 90.0)),
    )


def _falling(draw: st.DrawFn) -> tuple[float, float]:
    """Draw two shares, the second not greater."""
    first = draw(floats(0.0, 1.0))
    return first, first * draw(floats(0.0, 1.0))


@st.composite
def _watt_var(draw: st.DrawFn, base: WattVar, profile: DeviceProfile, *, enabled: bool) -> WattVar:
    inverter = profile.inverter

    def side(sign: float) -> tuple[Point, ...]:
        p2 = draw(floats(0.4, 0.8))
        powers = draw(floats(0.0, p2 - 0.1)), p2, draw(floats(p2 + 0.1, 1.0))
        return tuple(
            (sign * power, draw(floats(-inverter.var_frac_absorb, inverter.var_frac_inject)))
            for power in powers
        )

    return replace(base, enabled=enabled, generate=side(1.0), absorb=side(-1.0))
