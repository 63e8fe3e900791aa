"""Functions of the grid through the running device: curves, trips, ride-through, cessation.

Times, limits and regions are those of the standard's tables (inverter.md, 1.3 and 1.4), written out here and
not read from the settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.grid_settings import default_settings
from ridethrough.emulator.grid_types import GridSettings
from ridethrough.emulator.plant import Floats, Plant

from tests.strategies import grid_settings, home

FAST = {"ramp_w_per_s": 1e7}
"""A ramp that is over within a tick, so that the functions are seen and not the ramp."""
CURVE = home(inverter=FAST | {"apparent_va_max": 6000.0})
CURVE_DEFAULTS = default_settings(CURVE)
MANY = 41
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def following(set_w: float = 0.0, n: int = 1, soc_frac: float = 0.5, **changes: dict[str, Any]) -> Plant:
    """Return homes on the grid at a set-point."""
    sections: dict[str, dict[str, Any]] = {"inverter": FAST, "control": {"has_reserve": False}}
    for name, values in changes.items():
        sections[name] = sections.get(name, {}) | values
    plant = Plant([home(**sections)] * n, soc_frac=soc_frac)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", set_w)
    plant.advance(TICKS_PER_S)
    return plant


def status(plant: Plant) -> str:
    return STATUS[int(plant.states("status")[0])]


def falls(values: Floats, slack: float) -> bool:
    """Say whether a curve never rises."""
    return bool(np.all(np.diff(values) <= slack))


def test_the_check_of_a_curve_sees_a_rise() -> None:
    assert falls(np.array([3.0, 3.0, 1.0]), 1e-9)
    assert not falls(np.array([3.0, 1.0, 1.1]), 1e-9)


def settled(chosen: GridSettings, set_w: float, **world: Floats) -> Plant:
    """Return many homes in worlds of their own, after all lags."""
    plant = Plant([CURVE] * MANY, soc_frac=0.5)
    for d in range(MANY):
        plant.set_settings(d, chosen)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", set_w)
    plant.advance(2 * TICKS_PER_S)
    for name, values in world.items():
        plant.set_input(name, values)
    plant.advance(1200 * TICKS_PER_S)
    return plant


CALM_PU, CALM_HZ = np.linspace(0.881, 1.099, MANY), np.linspace(58.81, 61.19, MANY)


@given(chosen=grid_settings(CURVE), set_w=st.floats(-5000.0, 5000.0))
@few
def test_reactive_power_falls_with_voltage_along_its_curve(chosen: GridSettings, set_w: float) -> None:
    volt_var = replace(chosen.volt_var, enabled=True, auto=False)
    chosen = replace(CURVE_DEFAULTS, volt_var=volt_var)
    plant = settled(chosen, set_w, voltage_pu=CALM_PU)
    var_now = plant.states("reactive_var")
    assert falls(var_now, 1e-6)
    # The independent witness: straight lines between the points, which may be shifted by the reference.
    points = np.array(volt_var.points)
    wanted = 6000.0 * np.interp(CALM_PU - volt_var.ref_pu + 1.0, points[:, 0], points[:, 1])
    assert var_now == pytest.approx(wanted, abs=1e-3)


@given(chosen=grid_settings(CURVE), share=st.floats(0.0, 1.0))
@few
def test_active_power_falls_with_voltage_under_volt_watt(chosen: GridSettings, share: float) -> None:
    volt_watt = replace(chosen.volt_watt, enabled=True)
    chosen = replace(CURVE_DEFAULTS, volt_watt=volt_watt)
    plant = settled(chosen, 5000.0 * share, voltage_pu=CALM_PU)
    power_w = plant.states("power_w")
    assert falls(power_w, 1e-6)
    points = np.array(volt_watt.points)
    limit_w = 5000.0 * np.interp(CALM_PU, points[:, 0], points[:, 1])
    reached = np.minimum(5000.0 * share, limit_w)
    # A limit below nothing charges, and charging below the converter's own loss is not made.
    fits = (np.abs(power_w - reached) < 1e-3) | ((reached < 0.0) & (reached > -200.0) & (power_w == 0.0))
    assert np.all(fits)


@given(chosen=grid_settings(CURVE), share=st.floats(-0.9, 1.0))
@few
def test_active_power_falls_with_frequency(chosen: GridSettings, share: float) -> None:
    droop = replace(chosen.droop, enabled=True, power_frac_min=-1.0)
    chosen = replace(CURVE_DEFAULTS, droop=droop)
    plant = settled(chosen, 5000.0 * share, frequency_hz=CALM_HZ)
    power_w = plant.states("power_w")
    assert falls(power_w, 1e-6)
    over_hz = np.maximum(CALM_HZ - 60.0 - droop.dead_hz_over, 0.0)
    under_hz = np.maximum(60.0 - droop.dead_hz_under - CALM_HZ, 0.0)
    moved = under_hz / (60.0 * droop.droop_frac_under) - over_hz / (60.0 * droop.droop_frac_over)
    start_w = float(plant.states("power_w")[MANY // 2])  # at 60 Hz: what the set-point comes to
    wanted = np.clip(start_w + 5000.0 * moved, -5000.0, 5000.0)
    fits = (np.abs(power_w - wanted) < 0.01) | ((wanted < 0.0) & (wanted > -200.0) & (power_w == 0.0))
    assert np.all(fits)


@pytest.mark.parametrize("by_second", [True, False])
@pytest.mark.parametrize("response_s", [1.0, 5.0, 10.0])
def test_a_lag_has_made_nine_tenths_after_its_response_time(response_s: float, by_second: bool) -> None:
    plant = Plant([CURVE], soc_frac=0.5)
    volt_var = replace(CURVE_DEFAULTS.volt_var, enabled=True, response_s=response_s)
    plant.set_settings(0, replace(CURVE_DEFAULTS, volt_var=volt_var))
    plant.set_input("voltage_pu", 1.05)  # half way down the last slope of category B
    ticks = round(response_s * TICKS_PER_S)
    for _ in range(1 if by_second else ticks):
        plant.advance(ticks if by_second else 1)
    assert float(plant.states("reactive_var")[0]) == pytest.approx(-0.22 * 6000.0 * 0.9, rel=1e-9)


# What trips, and when: category, input, value, seconds (table 11 to 13 and 18).
MUST_TRIP = [
    ("I", "voltage_pu", 0.69, 2.0),
    ("I", "voltage_pu", 0.44, 0.16),
    ("II", "voltage_pu", 0.69, 10.0),
    ("II", "voltage_pu", 0.44, 0.16),
    ("III", "voltage_pu", 0.87, 21.0),
    ("III", "voltage_pu", 0.49, 2.0),
    ("I", "voltage_pu", 1.11, 2.0),
    ("II", "voltage_pu", 1.11, 2.0),
    ("III", "voltage_pu", 1.11, 13.0),
    ("III", "voltage_pu", 1.21, 0.16),
    ("III", "frequency_hz", 61.3, 300.0),
    ("II", "frequency_hz", 62.1, 0.16),
    ("III", "frequency_hz", 58.4, 300.0),
    ("I", "frequency_hz", 56.4, 0.16),
]


@pytest.mark.parametrize("capable", [True, False])
@pytest.mark.parametrize(("category", "name", "value", "seconds"), MUST_TRIP)
def test_it_trips_after_its_time_to_one_tick(
    category: str, name: str, value: float, seconds: float, capable: bool
) -> None:
    plant = following(1000.0, grid={"abnormal": category}, island={"capable": capable})
    plant.set_input(name, value)
    plant.advance(round(seconds * TICKS_PER_S))
    assert status(plant) == "on_grid"
    plant.advance(1)
    assert status(plant) == ("transfer" if capable else "enter")
    assert plant.states("power_w")[0] == 0.0


@pytest.mark.parametrize(("category", "name", "value", "seconds"), MUST_TRIP)
def test_a_disturbance_one_tick_shorter_is_forgotten(
    category: str, name: str, value: float, seconds: float
) -> None:
    plant = following(1000.0, grid={"abnormal": category})
    calm = float(plant.inputs(name)[0])
    for _ in range(2):
        plant.set_input(name, value)
        plant.advance(round(seconds * TICKS_PER_S))
        plant.set_input(name, calm)
        plant.advance(1)
    assert status(plant) == "on_grid"


# What must be ridden through: category, then (voltage or frequency, seconds) in a row (tables 14 to 19, and
# the sequences of 1547.1 in inverter.md, 1.7).
RIDE = [
    ("I", [(0.75, 0.9), (0.6, 0.16)]),
    ("II", [(0.94, 10.0), (0.46, 0.16), (0.65, 2.68), (0.88, 2.0), (0.94, 120.0)]),
    ("II", [(1.18, 0.2), (1.0, 20.0), (1.175, 0.3), (1.0, 20.0), (1.15, 0.5)]),
    ("III", [(0.94, 5.0), (0.05, 1.0), (0.52, 9.0), (0.70, 10.0), (0.94, 120.0)] * 3),
    ("III", [(1.18, 12.0), (1.0, 5.0)] * 3),
    ("III", [(57.0, 299.0), (60.0, 1.0)]),
    ("II", [(61.8, 299.0), (60.0, 1.0)]),
    ("I", [(58.9, 1000.0), (61.1, 1000.0)]),
]


@pytest.mark.parametrize(("category", "course"), RIDE)
def test_it_rides_through_what_it_must(category: str, course: list[tuple[float, float]]) -> None:
    plant = following(1000.0, grid={"abnormal": category, "droop": False})
    for value, seconds in course:
        plant.set_input("frequency_hz" if value > 2.0 else "voltage_pu", value)
        plant.advance(round(seconds * TICKS_PER_S))
        assert status(plant) == "on_grid"
    plant.set_input("voltage_pu", 1.0)
    plant.advance(20)  # 0.4 s
    assert plant.states("power_w")[0] >= 800.0


@pytest.mark.parametrize("set_w", [3000.0, -3000.0])
@pytest.mark.parametrize(("voltage_pu", "restore_s"), [(0.45, 0.0), (0.45, 0.2), (1.15, 0.4)])
def test_cessation_is_at_once_and_power_is_back_after_the_restore_time(
    set_w: float, voltage_pu: float, restore_s: float
) -> None:
    plant = following(set_w, grid={"restore_s": restore_s}, inverter={"ramp_w_per_s": 100.0})
    plant.advance(60 * TICKS_PER_S)
    assert plant.states("power_w")[0] == set_w
    plant.set_control("var_ena", 1.0)
    plant.set_control("var_var", 1000.0)
    plant.advance(1)
    plant.set_input("voltage_pu", voltage_pu)
    plant.mark()
    for _ in range(40):
        plant.advance(1)
        assert (plant.states("power_w")[0], plant.states("reactive_var")[0]) == (0.0, 0.0)
    plant.set_input("voltage_pu", 1.0)
    dark = 0
    while plant.states("power_w")[0] == 0.0:
        plant.advance(1)
        dark += 1
    assert dark == round(restore_s * TICKS_PER_S) + 1
    assert plant.states("power_w")[0] == set_w  # not by its slow ramp
    assert plant.states("reactive_var")[0] == 1000.0


def test_one_disturbance_more_than_it_stands_trips() -> None:
    plant = following(1000.0, grid={"events_max": 2, "events_s": 5.0})

    def dip(calm_s: float) -> str:
        plant.set_input("voltage_pu", 0.8)
        plant.advance(10)
        plant.set_input("voltage_pu", 1.0)
        plant.advance(round(calm_s * TICKS_PER_S))
        return status(plant)

    assert [dip(4.98), dip(5.0), dip(1.0), dip(4.98)] == ["on_grid"] * 4
    assert dip(0.02) != "on_grid"


@pytest.mark.parametrize(("hz_per_s", "ends"), [(2.95, "on_grid"), (3.1, "enter")])
def test_a_fast_change_of_frequency_trips_a_device_that_does_not_stand_it(hz_per_s: float, ends: str) -> None:
    grid = {"rocof_hz_per_s_max": 3.0}
    plant = following(1000.0, grid=grid, island={"capable": False})
    plant.state[0, STATE.index("frequency_hz_before"), 0] = 61.5
    for tick in range(2 * TICKS_PER_S):
        plant.set_input("frequency_hz", 61.5 - hz_per_s * tick / TICKS_PER_S)
        plant.advance(1)
        if plant.inputs("frequency_hz")[0] < 57.2:
            break
    assert status(plant) == ends


def test_a_device_that_takes_the_permission_trips_earlier() -> None:
    plant = following(1000.0, grid={"takes_may_trip": True})
    plant.set_input("voltage_pu", 1.11)
    plant.advance(12 * TICKS_PER_S)
    assert status(plant) == "on_grid"
    plant.advance(1)
    assert status(plant) == "transfer"


def test_droop_outranks_a_command_given_meanwhile() -> None:
    plant = following(-5000.0)
    plant.set_input("frequency_hz", 60.5)
    plant.advance(5 * TICKS_PER_S)
    plant.set_control("set_w", 5000.0)
    plant.advance(60 * TICKS_PER_S)
    assert plant.states("power_w")[0] == -5000.0
    plant.set_input("frequency_hz", 60.0)
    plant.advance(60 * TICKS_PER_S)
    assert plant.states("power_w")[0] == 5000.0


@pytest.mark.parametrize("function", ["watt_var", "power_factor"])
def test_power_beside_reactive_power_does_not_hang_on_the_step(function: str) -> None:
    """Reactive power follows active power, which has to make room for it: the two once chased each other."""
    ends = []
    for chunk in (TICKS_PER_S, 1):
        plant = following(0.0, inverter={"ramp_w_per_s": 3000.0}, grid={"function": function})
        if function == "power_factor":
            plant.set_control("pf_var_per_w", 0.4)
        plant.set_control("set_w", 5000.0)
        for _ in range(10 * TICKS_PER_S // chunk):
            plant.advance(chunk)
        ends.append(float(plant.states("power_w")[0]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    assert ends[0] < 4700.0
