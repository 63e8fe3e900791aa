"""Settings in the form the step needs: slopes, widths, gains, ticks.

Duty: `control_values` gives every field of `fields.CONTROL` that follows from `GridSettings`.  All of them
are finite, those of disabled functions too, because the kernel multiplies before it selects.  The settings
must have passed `grid_check.check`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

from .errors import InvariantError
from .exact import lag_gain
from .fields import TICKS_PER_S
from .grid_types import (
    ConstantPf,
    Droop,
    EnterService,
    GridSettings,
    Point,
    PowerFactor,
    Ratings,
    Trip,
    VoltVar,
    VoltWatt,
    WattVar,
    ratings,
)
from .model.ride import CONTINUOUS_HZ, CONTINUOUS_PU
from .profile import DeviceProfile

FINE_S: Final = 1.0 / TICKS_PER_S
LN10: Final = 2.302585092994046
"""A lag with this time constant has gone 90 % of a step after this many of them."""

NEVER_LOW_PU: Final = 0.0
NEVER_HIGH_PU: Final = 1000.0
"""Limits of cessation where there is none: no voltage is below or above."""

WIDTH_LEAST: Final = 1e-6
"""Points nearer than this have the same place on the axis; `grid_check` sees that they ask the same."""


def control_values(
    settings: GridSettings, profile: DeviceProfile, coarse_s: float, random_share: float
) -> dict[str, float]:
    """Return the fields of CONTROL that follow from settings.

    Parameters
    ----------
    settings : GridSettings
        Checked by `grid_check.check` against the same profile.
    profile : DeviceProfile
        The device type: ratings, nominal frequency, whether it takes the permission to trip.
    coarse_s : float
        Length of the plant's coarse step [s]; the lag gains without `_fine` are for it.
    random_share : float
        Share of the random part of the enter-service delay that is waited, from 0 to 1; the caller draws it.

    Returns
    -------
    dict of str to float
        All of `fields.CONTROL` from ``pf_ena`` on.

    Raises
    ------
    InvariantError
        When `coarse_s` or `random_share` is out of its range, or a value is not finite.
    """
    if not (math.isfinite(coarse_s) and coarse_s >= FINE_S):
        raise InvariantError(f"control_values: coarse_s must be at least {FINE_S}, found {coarse_s}")
    if not 0.0 <= random_share <= 1.0:
        raise InvariantError(f"control_values: random_share must be from 0 to 1, found {random_share}")
    rated = ratings(profile)
    values = (
        _power_factor(settings.pf)
        | {"var_ena": float(settings.var.enabled), "var_var": settings.var.var_var}
        | _volt_var(settings.volt_var, rated, coarse_s)
        | _volt_watt(settings.volt_watt, rated, coarse_s)
        | _watt_var(settings.watt_var, rated)
        | _droop(settings.droop, rated, float(profile.face.frequency_hz), coarse_s)
        | _limits(settings, profile)
        | _enter(settings.enter, random_share)
    )
    for name, value in values.items():
        if not math.isfinite(value):
            raise InvariantError(f"control_values: {name} is {value}")
    return values


def var_per_w(side: PowerFactor) -> float:
    """Return the reactive power that goes with each watt of either direction [var/W]."""
    ratio = math.sqrt((1.0 - side.factor) * (1.0 + side.factor)) / side.factor
    return ratio if side.excitation == "over" else -ratio


def effective_levels(trip: Trip, profile: DeviceProfile, under: bool) -> tuple[Point, ...]:
    """Return the limits a device trips at, level 1 and 2: of must and may the tighter, where it takes may.

    The tighter limit of a level is the one nearer to nominal, and the shorter time.
    """
    if not (profile.grid.takes_may_trip and trip.may):
        return trip.must
    nearer = max if under else min
    return tuple(
        (nearer(must, may), min(must_s, may_s))
        for (must, must_s), (may, may_s) in zip(trip.must, trip.may, strict=True)
    )


def _ticks(seconds: float) -> float:
    """Return a time in ticks.

    To the nearest: 0.16 s is 8 ticks, though 0.16 * 50 may come out a little above; and half a tick is less
    than the accuracy the standard asks of times, two cycles (table 3).
    """
    return float(round(seconds * TICKS_PER_S))


def _gains(name: str, coarse_s: float, response_s: float) -> dict[str, float]:
    """Return both gains of one lag."""
    return {
        f"{name}_gain": float(lag_gain(coarse_s, response_s)),
        f"{name}_gain_fine": float(lag_gain(FINE_S, response_s)),
    }


def _slope(a: Point, b: Point) -> tuple[float, float]:
    """Return width and slope from one point of a curve to the next."""
    width = b[0] - a[0]
    if width < WIDTH_LEAST:
        return 0.0, 0.0
    return width, (b[1] - a[1]) / width


def _power_factor(pf: ConstantPf) -> dict[str, float]:
    return {
        "pf_ena": float(pf.inject.enabled),
        "pf_var_per_w": var_per_w(pf.inject),
        "pf_abs_ena": float(pf.absorb.enabled),
        "pf_abs_var_per_w": var_per_w(pf.absorb),
    }


def _volt_var(curve: VoltVar, rated: Ratings, coarse_s: float) -> dict[str, float]:
    shift_pu = curve.ref_pu - 1.0
    points = [(v + shift_pu, rated.reactive_var(q, curve.var_base)) for v, q in curve.points]
    (d1, s1), (d2, s2), (d3, s3) = (_slope(a, b) for a, b in pairwise(points))
    return {
        "volt_var_ena": float(curve.enabled),
        "volt_var_v1_pu": points[0][0],
        "volt_var_v2_pu": points[1][0],
        "volt_var_v3_pu": points[2][0],
        "volt_var_d1_pu": d1,
        "volt_var_d2_pu": d2,
        "volt_var_d3_pu": d3,
        "volt_var_q1_var": points[0][1],
        "volt_var_s1": s1,
        "volt_var_s2": s2,
        "volt_var_s3": s3,
        "volt_var_ref_pu": curve.ref_pu,
        "volt_var_auto": float(curve.auto),
        **_gains("volt_var", coarse_s, curve.response_s),
        **_gains("volt_var_auto", coarse_s, curve.auto_s * LN10),
    }


def _volt_watt(curve: VoltWatt, rated: Ratings, coarse_s: float) -> dict[str, float]:
    high, low = ((v, rated.power_w(share)) for v, share in curve.points)
    width, slope = _slope(high, low)
    return {
        "volt_watt_ena": float(curve.enabled),
        "volt_watt_v1_pu": high[0],
        "volt_watt_d_pu": width,
        "volt_watt_p1_w": high[1],
        "volt_watt_s": -slope if slope else 0.0,  # the kernel subtracts
        **_gains("volt_watt", coarse_s, curve.response_s),
    }


def _watt_var(curve: WattVar, rated: Ratings) -> dict[str, float]:
    values = {"watt_var_ena": float(curve.enabled)}
    for name, side in (("watt_var", curve.generate), ("watt_var_abs", curve.absorb)):
        points = [(abs(rated.power_w(p)), rated.reactive_var(q, curve.var_base)) for p, q in side]
        (d1, s1), (d2, s2) = (_slope(a, b) for a, b in pairwise(points))
        values |= {
            f"{name}_p1_w": points[0][0],
            f"{name}_p2_w": points[1][0],
            f"{name}_d1_w": d1,
            f"{name}_d2_w": d2,
            f"{name}_q1_var": points[0][1],
            f"{name}_s1": s1,
            f"{name}_s2": s2,
        }
    return values


def _droop(droop: Droop, rated: Ratings, nominal_hz: float, coarse_s: float) -> dict[str, float]:
    return {
        "droop_ena": float(droop.enabled),
        "droop_over_hz": nominal_hz + droop.dead_hz_over,
        "droop_under_hz": nominal_hz - droop.dead_hz_under,
        "droop_over_w_per_hz": rated.discharge_w / (nominal_hz * droop.droop_frac_over),
        "droop_under_w_per_hz": rated.discharge_w / (nominal_hz * droop.droop_frac_under),
        "droop_low_w": rated.power_w(droop.power_frac_min),
        **_gains("droop", coarse_s, droop.response_s),
    }


def _limits(settings: GridSettings, profile: DeviceProfile) -> dict[str, float]:
    """Return trips, cessation, and the envelope within which none of them can begin."""
    levels = {
        "over_v": effective_levels(settings.over_voltage, profile, under=False),
        "under_v": effective_levels(settings.under_voltage, profile, under=True),
        "over_f": effective_levels(settings.over_frequency, profile, under=False),
        "under_f": effective_levels(settings.under_frequency, profile, under=True),
    }
    values: dict[str, float] = {}
    for name, pair in levels.items():
        unit = "pu" if name.endswith("v") else "hz"
        for level, (limit, seconds) in enumerate(pair, 1):
            values[f"{name}{level}_{unit}"] = limit
            values[f"{name}{level}_ticks"] = _ticks(seconds)
    low, high = settings.under_voltage.cease, settings.over_voltage.cease
    cease_low = NEVER_LOW_PU if low is None else low
    cease_high = NEVER_HIGH_PU if high is None else high
    nominal_hz = float(profile.face.frequency_hz)
    return values | {
        "cease_low_pu": cease_low,
        "cease_high_pu": cease_high,
        "calm_low_pu": max(CONTINUOUS_PU[0], cease_low, *(v for v, _ in levels["under_v"])),
        "calm_high_pu": min(CONTINUOUS_PU[1], cease_high, *(v for v, _ in levels["over_v"])),
        "calm_low_hz": max(CONTINUOUS_HZ[0] * nominal_hz, *(f for f, _ in levels["under_f"])),
        "calm_high_hz": min(CONTINUOUS_HZ[1] * nominal_hz, *(f for f, _ in levels["over_f"])),
    }


def _enter(enter: EnterService, random_share: float) -> dict[str, float]:
    ramp_ticks = _ticks(enter.ramp_s)
    return {
        "enter_low_pu": enter.voltage_pu_min,
        "enter_high_pu": enter.voltage_pu_max,
        "enter_low_hz": enter.frequency_hz_min,
        "enter_high_hz": enter.frequency_hz_max,
        "enter_delay_ticks": _ticks(enter.delay_s + random_share * enter.random_s),
        "enter_ramp_ticks": ramp_ticks,
        "enter_ramp_per_tick": 1.0 / ramp_ticks if ramp_ticks else 0.0,
    }
