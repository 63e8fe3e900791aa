"""What the step gets of settings: curves, gains, limits and ticks.

Witnesses: numpy's interpolation over the points of the settings, and the stage functions of the model, which
are run here on what `control_values` gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as pace
from hypothesis import strategies as st
from ridethrough.emulator.errors import InvariantError
from ridethrough.emulator.fields import CONTROL, INPUT, PARAM, STATE
from ridethrough.emulator.grid_control import effective_levels, var_per_w
from ridethrough.emulator.grid_curves import (
    TRIP_MODELS,
    TripSide,
)
from ridethrough.emulator.grid_settings import (
    ConstantVar,
    GridSettings,
    Point,
    PowerFactor,
    Trip,
    check,
    control_values,
    default_settings,
    ratings,
)
from ridethrough.emulator.model.active import _droop, _volt_watt
from ridethrough.emulator.model.ops import Columns, Flow, Value
from ridethrough.emulator.model.reactive import _volt_var, _watt_var
from ridethrough.emulator.model.ride import ride
from ridethrough.emulator.profile import DeviceProfile

from tests.emulator.grid_strategies import BASES, CATEGORIES, cases, device

UNHURRIED = pace(deadline=None, max_examples=60)
DERIVED = {name for name in CONTROL[CONTROL.index("pf_ena") :] if "_rvrt_" not in name}
SIDES: tuple[TripSide, ...] = tuple(TRIP_MODELS.values())


def columns(values: Mapping[str, float | Value] | None = None, **more: Any) -> Columns:
    """Return columns of every field, 0 where nothing is given; the stages run here read few of them."""
    given = dict.fromkeys((*PARAM, *CONTROL, *INPUT, *STATE), 0.0) | dict(values or {}) | more
    return Columns({name: np.asarray(value, dtype=np.float64) for name, value in given.items()})


def flow(convert_w: Value) -> Flow:
    """Return the flow of a step on the grid after one on the grid, with nothing in the way."""
    k = Flow()
    k.convert_w = convert_w
    k.before = k.status = np.zeros(convert_w.shape)
    k.was_ceased = k.ceased = k.tripped = k.lost = k.before > 0.0
    return k


def axis(low: float, high: float, knots: list[float]) -> Value:
    """Return places on an axis: evenly, and at and beside the knots of a curve."""
    beside = [knot + by for knot in knots for by in (-1e-6, 0.0, 1e-6)]
    return np.sort(np.array([*np.linspace(low, high, 101), *beside]))


def tolerance(points: list[Point]) -> float:
    """Return what rounding may do to a curve: some units of the last place of its axis, times its slope."""
    slopes = [abs((q2 - q1) / (x2 - x1)) for (x1, q1), (x2, q2) in pairwise(points) if x2 > x1]
    size = max(1.0, *(abs(x) for x, _ in points))
    return 1e-9 * max(1.0, *(abs(q) for _, q in points)) + 16 * np.finfo(float).eps * size * max(
        slopes, default=0.0
    )


@UNHURRIED
@given(cases())
def test_valid_settings_give_every_field_finite(case: tuple[DeviceProfile, GridSettings]) -> None:
    profile, settings = case
    check(settings, profile)
    values = control_values(settings, profile, 1.0, 1.0)
    assert set(values) == DERIVED
    assert all(math.isfinite(value) for value in values.values())
    for name, value in values.items():
        if name.endswith("_ticks"):
            assert value >= 0.0
            assert value == int(value)
        if "_gain" in name:
            assert 0.0 < value <= 1.0
        if name.endswith(("_d_pu", "_d1_pu", "_d2_pu", "_d3_pu", "_d1_w", "_d2_w")):
            assert value >= 0.0


@UNHURRIED
@given(cases())
def test_volt_var_curve(case: tuple[DeviceProfile, GridSettings]) -> None:
    profile, settings = case
    curve, rated = settings.volt_var, ratings(profile)
    points = [(v + curve.ref_pu - 1.0, rated.reactive_var(q, curve.var_base)) for v, q in curve.points]
    v = axis(0.6, 1.4, [x for x, _ in points])
    c = columns(
        control_values(settings, profile, 1.0, 0.0), volt_var_gain=1.0, volt_var_ena=1.0, volt_var_auto=0.0
    )
    s = columns(volt_var_ref_pu_now=1.0, volt_var_var=0.0)
    got = _volt_var(c, columns(voltage_pu=v), s, np.full(v.shape, True), True)
    places, asked = zip(*points, strict=True)
    assert np.allclose(got, np.interp(v, places, asked), rtol=0.0, atol=tolerance(points))
    assert np.all(np.diff(got) <= tolerance(points))


@UNHURRIED
@given(cases(), st.floats(0.95, 1.05))
def test_volt_var_curve_follows_its_reference(
    case: tuple[DeviceProfile, GridSettings], now_pu: float
) -> None:
    """A reference that has drifted shifts the curve as one that was set."""
    profile, settings = case
    drifted, fixed = (
        columns(
            control_values(
                replace(settings, volt_var=replace(settings.volt_var, auto=auto, ref_pu=ref_pu)),
                profile,
                1.0,
                0.0,
            ),
            volt_var_gain=1.0,
            volt_var_ena=1.0,
            volt_var_auto_gain=0.0,
        )
        for auto, ref_pu in ((True, settings.volt_var.ref_pu), (False, now_pu))
    )
    rated = ratings(profile)
    points = [(v, rated.reactive_var(q, settings.volt_var.var_base)) for v, q in settings.volt_var.points]
    v = np.linspace(0.7, 1.3, 61)
    a, b = (
        _volt_var(
            c, columns(voltage_pu=v), columns(volt_var_ref_pu_now=now_pu, volt_var_var=0.0), v > 0.0, True
        )
        for c in (drifted, fixed)
    )
    assert np.allclose(a, b, rtol=0.0, atol=4 * tolerance(points))


@UNHURRIED
@given(cases())
def test_volt_watt_curve(case: tuple[DeviceProfile, GridSettings]) -> None:
    profile, settings = case
    points = [(v, ratings(profile).power_w(share)) for v, share in settings.volt_watt.points]
    v = axis(0.8, 1.3, [x for x, _ in points])
    c = columns(control_values(settings, profile, 1.0, 0.0), volt_watt_gain=1.0, volt_watt_ena=1.0)
    on = np.full(v.shape, True)
    p = columns(power_w_discharge_max=5000.0)
    got = _volt_watt(flow(v), p, c, columns(voltage_pu=v), columns(volt_watt_w=0.0), on, True)
    places, asked = zip(*points, strict=True)
    assert np.allclose(got, np.interp(v, places, asked), rtol=0.0, atol=tolerance(points))


@UNHURRIED
@given(cases())
def test_watt_var_curve(case: tuple[DeviceProfile, GridSettings]) -> None:
    profile, settings = case
    curve, rated = settings.watt_var, ratings(profile)
    c = columns(control_values(settings, profile, 1.0, 0.0))
    for side, sign in ((curve.generate, 1.0), (curve.absorb, -1.0)):
        points = [(abs(rated.power_w(p)), rated.reactive_var(q, curve.var_base)) for p, q in side]
        w = axis(1.0, 6000.0, [x for x, _ in points if x > 1.0])
        places, asked = zip(*points, strict=True)
        assert np.allclose(
            _watt_var(flow(sign * w), c), np.interp(w, places, asked), rtol=0.0, atol=tolerance(points)
        )


@UNHURRIED
@given(cases(), st.floats(-4000.0, 5000.0))
def test_droop_line(case: tuple[DeviceProfile, GridSettings], base_w: float) -> None:
    profile, settings = case
    droop, nominal_hz = settings.droop, float(profile.face.frequency_hz)
    f = axis(
        nominal_hz - 5.0,
        nominal_hz + 5.0,
        [nominal_hz + droop.dead_hz_over, nominal_hz - droop.dead_hz_under],
    )
    low_w = ratings(profile).power_w(droop.power_frac_min)
    over = np.maximum(f - nominal_hz - droop.dead_hz_over, 0.0) / (nominal_hz * droop.droop_frac_over)
    under = np.maximum(nominal_hz - f - droop.dead_hz_under, 0.0) / (nominal_hz * droop.droop_frac_under)
    lowest_w = min(low_w, base_w)
    lower, higher = np.maximum(base_w - 5000.0 * over, lowest_w), np.minimum(base_w + 5000.0 * under, 5000.0)
    wanted = np.where(over > 0.0, lower, higher)
    c = columns(control_values(settings, profile, 1.0, 0.0), droop_gain=1.0, droop_ena=1.0)
    p, s = columns(power_w_discharge_max=5000.0), columns(power_w=base_w)
    on = np.full(f.shape, True)
    base, _ = _droop(flow(f), p, c, columns(frequency_hz=f), s, np.full(f.shape, base_w), on, True)
    assert np.allclose(base + s.droop_w, wanted, rtol=0.0, atol=2e-3)  # below a milliwatt droop rests


@UNHURRIED
@given(st.floats(0.01, 1.0), st.sampled_from(("over", "under")))
def test_power_factor(factor: float, excitation: Any) -> None:
    ratio = var_per_w(PowerFactor(True, factor, excitation))
    assert math.cos(math.atan(ratio)) == pytest.approx(factor, rel=1e-12)
    if factor < 1.0:
        assert (ratio > 0.0) == (excitation == "over")


@pytest.mark.parametrize("coarse_s", [1.0, 60.0])
def test_lags_have_gone_their_way_at_the_response_time(coarse_s: float) -> None:
    settings = default_settings(device())
    values = control_values(settings, device(), coarse_s, 0.0)
    for name, response_s in (("volt_var", 5.0), ("volt_watt", 10.0), ("droop", 5.0)):
        left = (1.0 - values[f"{name}_gain_fine"]) ** (response_s * 50)
        assert left == pytest.approx(0.1, rel=1e-9)
        steps = response_s / coarse_s
        assert values[f"{name}_gain"] == pytest.approx(1.0 - 0.1 ** (1.0 / steps), rel=1e-12)
    # 705.VRefAutoTms is a time constant: 63 % at it.
    assert (1.0 - values["volt_var_auto_gain_fine"]) ** (300.0 * 50) == pytest.approx(
        math.exp(-1.0), rel=1e-9
    )


def test_enter_service() -> None:
    profile = device(grid={"enter_random_s": 100.0}, enter_delay_s=300.0, enter_ramp_s=0.0)
    settings = default_settings(profile)
    delays = [control_values(settings, profile, 1.0, share)["enter_delay_ticks"] for share in (0.0, 0.5, 1.0)]
    assert delays == [15_000.0, 17_500.0, 20_000.0]
    values = control_values(settings, profile, 1.0, 0.0)
    assert (values["enter_ramp_ticks"], values["enter_ramp_per_tick"]) == (0.0, 0.0)
    ramped = control_values(default_settings(device(enter_ramp_s=2.0)), device(), 1.0, 0.0)
    assert (ramped["enter_ramp_ticks"], ramped["enter_ramp_per_tick"]) == (100.0, 0.01)


@pytest.mark.parametrize(
    ("coarse_s", "share"),
    [(0.0, 0.0), (math.nan, 0.0), (math.inf, 0.0), (1.0, -0.1), (1.0, math.nan), (1.0, 1.1)],
)
def test_nonsense_of_the_caller_is_refused(coarse_s: float, share: float) -> None:
    with pytest.raises(InvariantError, match="control_values"):
        control_values(default_settings(device()), device(), coarse_s, share)


def test_unchecked_settings_are_refused_when_they_are_no_numbers() -> None:
    settings = replace(default_settings(device()), var=ConstantVar(True, math.nan))
    with pytest.raises(InvariantError, match="var_var is nan"):
        control_values(settings, device(), 1.0, 0.0)


# Trips: what the protection stage makes of the limits.


LIMITS = [f"{side}_{letter}{level}" for side in ("over", "under") for letter in "vf" for level in (1, 2)]


class Watch:
    """Devices on the grid, one for each voltage and frequency, with nothing running but their protection."""

    def __init__(self, values: dict[str, float], v: Value, f: Value, nominal_hz: float) -> None:
        self.state = columns(dict.fromkeys(STATE, np.zeros(v.shape)))
        self.state.frequency_hz_before = f
        self.control = columns(values)
        self.inputs = columns(voltage_pu=v, frequency_hz=f, grid_good=1.0, grid_held=0.0)
        self.param = columns(
            hz_nominal=nominal_hz,
            rocof_hz_per_s_max=1e9,
            events_max=1e9,
            events_ticks=1000.0,
            restore_ticks=0.0,
            detect_ticks=0.0,
        )

    def tick(self) -> Flow:
        """Make one step of 20 ms."""
        k = Flow()
        ride(k, self.param, self.control, self.inputs, self.state, 1.0)
        return k

    def trips(self, ticks: int) -> Value:
        """Hold everything for some ticks; return when each device trips [ticks], -1 where it does not."""
        at = np.full(self.state.status.shape, -1.0)
        for tick in range(ticks):
            at = np.where(self.tick().tripped & (at < 0.0), float(tick), at)
        return at


@pytest.mark.parametrize(
    ("abnormal", "voltage_pu", "ticks"),
    [
        ("III", 0.45, 100),
        ("III", 0.60, 1050),
        ("III", 0.88, -1),
        ("III", 1.10, -1),
        ("III", 1.15, 650),
        ("III", 1.21, 8),
        ("II", 0.44, 8),
        ("II", 0.65, 500),
        ("I", 0.65, 100),
        ("I", 1.15, 100),
    ],
)
def test_default_voltage_trips(abnormal: str, voltage_pu: float, ticks: int) -> None:
    """Times of table 11 to 13; 0.45 pu for 2 s and 1.2 pu for 0.16 s were also seen in OpenDER."""
    profile = device(grid={"abnormal": abnormal})
    values = control_values(default_settings(profile), profile, 1.0, 0.0)
    v, f = np.array([voltage_pu]), np.array([60.0])
    assert Watch(values, v, f, 60.0).trips(1200).tolist() == [ticks]


@pytest.mark.parametrize("abnormal", CATEGORIES)
def test_device_that_takes_may_trip_still_rides_through(abnormal: str) -> None:
    """It trips no earlier than the ride-through tables ask, and no later than its must-trip limits."""
    profile = device(grid={"abnormal": abnormal, "takes_may_trip": True})
    strict = device(grid={"abnormal": abnormal})
    v = np.array([0.30, 0.46, 0.55, 0.66, 0.75, 0.879, 0.95, 1.12, 1.16, 1.19, 1.21])
    f = np.full(v.shape, 60.0)
    eager, patient = (
        Watch(control_values(default_settings(one), one, 1.0, 0.0), v, f, 60.0).trips(1100)
        for one in (profile, strict)
    )
    eager, patient = (np.where(at < 0.0, np.inf, at) / 50.0 for at in (eager, patient))
    stay_s = {
        "I": [0.0, 0.0, 0.16, 0.16, 0.9, 1.416, np.inf, 1.0, 0.5, 0.2, 0.0],
        "II": [0.16, 0.32, 0.32, 3.087, 3.87, 4.9923, np.inf, 1.0, 0.5, 0.2, 0.0],
        "III": [1.0, 1.0, 10.0, 10.0, 20.0, 20.0, np.inf, 12.0, 12.0, 12.0, 0.0],
    }[abnormal]
    assert np.all(eager >= np.array(stay_s) - 1e-9)
    assert np.all(eager <= patient)
    assert np.any(eager < patient)


@UNHURRIED
@given(cases(), st.data())
def test_calm_envelope_is_tight(case: tuple[DeviceProfile, GridSettings], data: st.DataObject) -> None:
    """Within it nothing trips, ceases or counts; just outside, something watches."""
    profile, settings = case
    values = control_values(settings, profile, 1.0, 0.0)
    nominal_hz = float(profile.face.frequency_hz)
    low, high = values["calm_low_pu"], values["calm_high_pu"]
    low_hz, high_hz = values["calm_low_hz"], values["calm_high_hz"]
    assert low < 1.0 < high
    assert low_hz < nominal_hz < high_hz
    wide = values | {"calm_low_pu": 10.0, "calm_high_pu": -10.0}  # the stage then looks at everything
    inner = np.array([low, data.draw(st.floats(low, high)), high, 1.0, 1.0, 1.0])
    inner_hz = np.array([nominal_hz] * 3 + [low_hz, data.draw(st.floats(low_hz, high_hz)), high_hz])
    beyond = np.array([low - 1e-9, high + 1e-9, 1.0, 1.0])
    beyond_hz = np.array([nominal_hz, nominal_hz, low_hz - 1e-9, high_hz + 1e-9])

    def begins(v: Value, f: Value) -> list[bool]:
        watch = Watch(wide, v, f, nominal_hz)
        k, s = watch.tick(), watch.state
        used = sum(getattr(s, f"{name}_ticks_used") for name in LIMITS)
        return [bool(x) for x in (used > 0.0) | k.ceased | k.tripped | (s.ride != 0.0)]

    assert not any(begins(inner, inner_hz))
    assert all(begins(beyond, beyond_hz))


@UNHURRIED
@given(cases(), st.sampled_from(SIDES))
def test_effective_levels(case: tuple[DeviceProfile, GridSettings], side: TripSide) -> None:
    profile, settings = case
    trip: Trip = getattr(settings, side)
    got = effective_levels(trip, profile, side.startswith("under"))
    if not profile.grid.takes_may_trip or not trip.may:
        assert got == trip.must
        return
    nominal = 1.0 if side.endswith("voltage") else float(profile.face.frequency_hz)
    for level, (limit, seconds) in enumerate(got):
        both = (trip.must[level], trip.may[level])
        assert abs(limit - nominal) == min(abs(other - nominal) for other, _ in both)
        assert seconds == min(other for _, other in both)


# Reversions the step makes by itself.


def test_shares_count_against_the_rating_of_their_direction() -> None:
    """5 kW out, 4 kW in, 6 kVA; 0.5 of it injected, 0.25 absorbed."""
    rated = ratings(device(var_frac_inject=0.5, var_frac_absorb=0.25))
    assert [rated.power_w(share) for share in (1.0, 0.5, -0.5, -1.0)] == [5000.0, 2500.0, -2000.0, -4000.0]
    assert [rated.reactive_var(0.5, base) for base in BASES] == [2500.0, 1500.0, 3000.0]
    assert [rated.reactive_var(-0.5, base) for base in BASES] == [-2500.0, -750.0, -3000.0]
    values = control_values(default_settings(device()), device(), 1.0, 0.0)
    assert (values["watt_var_p1_w"], values["watt_var_abs_p1_w"]) == (1000.0, 800.0)
    assert values["droop_low_w"] == -4000.0
    assert values["volt_var_q1_var"] == pytest.approx(2640.0)
