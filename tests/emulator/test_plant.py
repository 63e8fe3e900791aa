"""The plant on the grid, against numbers worked out by hand.

The home of these tests: 13.5 kWh, 5 kW, loss 97·p² + 113·p + 27 W with p = |P|/5000 W, standby 15 W, a ramp
that reaches any power within a second.  At 2 kW p = 0.4 and the loss is 15.52 + 45.2 + 27 = 87.72 W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ridethrough.emulator.errors import InvariantError
from ridethrough.emulator.fields import STATE, TICKS_PER_S
from ridethrough.emulator.grid_types import GridSettings, SettingError
from ridethrough.emulator.plant import VALIDITY_TICKS_MAX, Plant

from tests.strategies import home, randomize

LOSS_W_AT_2KW = 87.72
HOUR = 3600 * TICKS_PER_S


def one(soc_frac: float = 0.5, load_w: float = 0.0, pv_w: float = 0.0, **changes: dict[str, Any]) -> Plant:
    """Return a plant of one home, 10 % reserve, standing in its world."""
    sections: dict[str, dict[str, Any]] = {"control": {"reserve_soc_frac": 0.1}}
    for name, values in changes.items():
        sections[name] = sections.get(name, {}) | values
    plant = Plant([home(**sections)], soc_frac=soc_frac)
    plant.set_input("load_w", load_w)
    plant.set_input("pv_w_available", pv_w)
    return plant


def write(plant: Plant, **settings: float) -> Plant:
    for name, value in settings.items():
        plant.set_control(name, value)
    return plant


def state(plant: Plant, name: str) -> float:
    return float(plant.states(name)[0])


def energy_wh(plant: Plant) -> float:
    return state(plant, "energy_j") / 3600.0


@pytest.mark.parametrize("n", [1, 8, 9])
def test_columns_are_copies_whatever_the_number_of_devices(n: int) -> None:
    plant = Plant([home()] * n)
    before = plant.states("energy_j")
    plant.params("capacity_j")[:] = 0.0
    plant.advance(TICKS_PER_S)
    assert np.all(plant.states("energy_j") < before)
    assert np.all(plant.params("capacity_j") == 13_500.0 * 3600.0)


def test_an_hour_of_discharge_costs_what_the_loss_formula_says() -> None:
    plant = write(one(0.5, load_w=500.0), set_ena=1.0, set_w=2000.0)
    plant.advance(HOUR)
    assert energy_wh(plant) == pytest.approx(6750.0 - 2000.0 - LOSS_W_AT_2KW - 15.0, abs=1e-6)
    assert state(plant, "power_w") == 2000.0
    assert state(plant, "import_w") == -1500.0
    assert state(plant, "export_j") == pytest.approx(1500.0 * 3600.0)
    assert state(plant, "loss_j") == pytest.approx(LOSS_W_AT_2KW * 3600.0)


def test_an_hour_of_charge_stores_what_the_loss_formula_leaves() -> None:
    plant = write(one(0.5), set_ena=1.0, set_w=-2000.0)
    plant.advance(HOUR)
    assert energy_wh(plant) == pytest.approx(6750.0 + 2000.0 - LOSS_W_AT_2KW - 15.0, abs=1e-6)
    assert state(plant, "charge_j") == pytest.approx(2000.0 * 3600.0)


def test_an_idle_hour_costs_the_standby() -> None:
    plant = one(0.5)
    plant.advance(HOUR)
    assert energy_wh(plant) == pytest.approx(6735.0, abs=1e-6)
    assert state(plant, "power_w") == 0.0


def test_an_empty_battery_buys_its_standby_from_the_grid() -> None:
    plant = write(one(0.05, load_w=400.0), set_ena=1.0, set_w=2000.0)
    plant.advance(HOUR)
    assert energy_wh(plant) == pytest.approx(675.0, abs=1e-9)
    assert (state(plant, "power_w"), state(plant, "import_w")) == (-15.0, 415.0)


def test_a_full_battery_takes_no_more() -> None:
    plant = write(one(1.0), set_ena=1.0, set_w=-2000.0)
    plant.advance(HOUR)
    assert 13_499.9 < energy_wh(plant) <= 13_500.0
    assert -60.0 < state(plant, "power_w") <= 0.0  # what standby and the idle converter need


def test_a_faded_battery_is_smaller() -> None:
    plant = Plant([home()], soc_frac=0.5, soh_frac=0.8)
    assert energy_wh(plant) == 5400.0
    assert plant.params("energy_j_min")[0] == pytest.approx(540.0 * 3600.0)


@pytest.mark.parametrize(
    ("load_w", "pv_w", "power_w", "import_w"),
    [
        (3000.0, 1000.0, 2000.0, 0.0),
        (500.0, 2500.0, -2000.0, 0.0),
        (7000.0, 500.0, 5000.0, 1500.0),  # the rating is not enough
        (0.0, 8000.0, -5000.0, -3000.0),
        (0.0, 20.0, 0.0, -20.0),  # would not reach the cells
    ],
)
def test_self_consumption_nets_the_load(load_w: float, pv_w: float, power_w: float, import_w: float) -> None:
    plant = one(0.5, load_w, pv_w, control={"revert_state": "self_consumption"})
    plant.advance(10 * TICKS_PER_S)
    assert (state(plant, "power_w"), state(plant, "import_w")) == (power_w, import_w)


@pytest.mark.parametrize(
    ("settings", "power_w"),
    [
        ({"limit_ena": 1.0, "limit_frac": 0.4, "set_w": 5000.0}, 2000.0),
        ({"limit_ena": 0.0, "limit_frac": 0.4, "set_w": 5000.0}, 5000.0),
        ({"limit_ena": 1.0, "limit_frac": 0.0, "set_w": -3000.0}, -3000.0),  # limits output only
        ({"window_out_ena": 1.0, "window_out_frac": 0.3, "set_w": 5000.0}, 1200.0),
        ({"window_in_ena": 1.0, "window_in_frac": 0.3, "set_w": -4000.0}, -1200.0),
        ({"window_out_ena": 1.0, "window_out_frac": -0.5, "set_ena": 0.0}, -2000.0),
        ({"window_in_ena": 1.0, "window_in_frac": -0.5, "set_ena": 0.0}, 2000.0),
        ({"window_in_ena": 0.0, "window_in_frac": -0.5, "set_ena": 0.0}, 0.0),
        ({"set_w": 9000.0}, 5000.0),
        ({"set_w": -9000.0}, -4000.0),
    ],
)
def test_limits_and_windows_shape_the_command(settings: dict[str, float], power_w: float) -> None:
    plant = one(0.5, inverter={"power_w_charge_max": 4000.0})
    write(plant, **({"set_ena": 1.0} | settings))
    plant.advance(5 * TICKS_PER_S)
    assert state(plant, "power_w") == power_w


SET = {"set_ena": 1.0, "set_w": 2000.0}


@pytest.mark.parametrize(
    ("settings", "timer", "during_w", "after_w"),
    [
        (SET, "set_rvrt_ticks", 2000.0, 0.0),
        (SET | {"set_rvrt_ena": 1.0, "set_rvrt_w": -700.0}, "set_rvrt_ticks", 2000.0, -700.0),
        (SET | {"limit_ena": 1.0, "limit_frac": 0.1}, "limit_rvrt_ticks", 500.0, 2000.0),
        (
            SET | {"limit_ena": 1.0, "limit_frac": 0.1, "limit_rvrt_ena": 1.0, "limit_rvrt_frac": 0.2},
            "limit_rvrt_ticks",
            500.0,
            1000.0,
        ),
        (SET | {"window_out_ena": 1.0, "window_out_frac": 0.1}, "window_rvrt_ticks", 500.0, 2000.0),
        (SET | {"window_in_ena": 1.0, "window_in_frac": -0.6}, "window_rvrt_ticks", 3000.0, 2000.0),
        (SET | {"permit": 0.0}, "permit_rvrt_ticks", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("ticks", [1, 49, 50, 51, 3007])
def test_each_timer_reverts_its_own_settings(
    settings: dict[str, float], timer: str, during_w: float, after_w: float, ticks: int
) -> None:
    plant = write(one(0.5, inverter={"ramp_w_per_s": 1e7}), **settings, **{timer: float(ticks)})
    plant.advance(ticks)
    assert state(plant, "power_w_low") == state(plant, "power_w_high") == during_w
    assert plant.controls(timer)[0] == 0.0
    plant.advance(1)
    assert state(plant, "power_w") == after_w
    assert plant.controls("permit")[0] == 1.0


def test_a_timer_of_zero_never_runs_out() -> None:
    plant = write(one(0.9), set_ena=1.0, set_w=1000.0)
    plant.advance(3 * HOUR)
    assert state(plant, "power_w") == 1000.0


def test_the_reserve_stops_discharge_on_the_grid() -> None:
    plant = write(one(0.5, control={"reserve_soc_frac": 0.4}), set_ena=1.0, set_w=5000.0)
    plant.advance(HOUR)
    assert state(plant, "power_w") == 0.0
    # Stops at the reserve of 5400 Wh; afterwards only the standby drains, less than 15 Wh of it.
    assert 5400.0 - 15.0 < energy_wh(plant) < 5400.0
    assert state(plant, "discharge_j") / 3600.0 == pytest.approx(
        1350.0 * 5000.0 / (5000.0 + 237.0 + 15.0), abs=2.0
    )


def test_without_a_reserve_the_floor_stops_discharge() -> None:
    plant = one(0.1, control={"has_reserve": False, "reserve_soc_frac": 0.4})
    write(plant, set_ena=1.0, set_w=5000.0, reserve_frac=0.4)
    plant.advance(HOUR)
    assert energy_wh(plant) == pytest.approx(675.0, abs=0.5)


def test_recharge_fills_to_the_reserve_and_stops_above_it() -> None:
    control = {"revert_state": "recharge", "reserve_soc_frac": 0.4, "recharge_band_frac": 0.01}
    plant = one(0.35, control=control)
    plant.advance(60 * TICKS_PER_S)
    assert state(plant, "power_w") == -2500.0
    plant.advance(HOUR)
    assert state(plant, "power_w") == 0.0
    assert 0.41 * 13_500.0 - 15.0 < energy_wh(plant) < 0.41 * 13_500.0 + 1.0
    plant.advance(5 * HOUR)  # within the band: it does not start again
    assert state(plant, "charge_j") / 2500.0 < 3600.0
    assert state(plant, "power_w") == 0.0


def test_commands_reach_their_rows_clipped_and_nothing_else() -> None:
    bare = home(control={"has_reserve": False})
    plant = Plant([home(), home(), bare, home()])
    nan = np.nan
    rows = np.array([True, True, True, False])
    plant.command(
        rows,
        np.array([9000.0, nan, -9000.0, 1.0]),
        np.array([100, 100, 2**40, 100]),
        np.array([nan, 0.3, 0.3, 0.3]),
    )
    assert plant.controls("set_ena").tolist() == [1.0, 0.0, 1.0, 0.0]
    assert plant.controls("set_w").tolist() == [5000.0, 0.0, -5000.0, 0.0]
    assert plant.controls("set_rvrt_ticks").tolist() == [100.0, 0.0, float(VALIDITY_TICKS_MAX), 0.0]
    assert plant.controls("reserve_frac").tolist() == [0.2, 0.3, 0.0, 0.2]


def test_extremes_begin_anew_at_each_mark() -> None:
    plant = write(one(0.5), set_ena=1.0, set_w=3000.0)
    plant.advance(10 * TICKS_PER_S)
    write(plant, set_w=-1000.0)
    plant.advance(10 * TICKS_PER_S)
    assert (state(plant, "power_w_low"), state(plant, "power_w_high")) == (-1000.0, 3000.0)
    assert state(plant, "slew_w_per_s_high") <= 5000.0
    plant.mark()
    plant.advance(10 * TICKS_PER_S)
    assert (state(plant, "power_w_low"), state(plant, "power_w_high")) == (-1000.0, -1000.0)
    assert state(plant, "energy_j_low") < state(plant, "energy_j_high") == state(plant, "energy_j")


def test_a_change_of_anything_readable_changes_the_version() -> None:
    plant = one()
    versions = [plant.version]
    changes: tuple[Callable[[], None], ...] = (
        lambda: plant.advance(1),
        lambda: plant.set_control("set_w", 1.0),
        lambda: plant.set_input("load_w", 1.0),
        plant.touch,
    )
    for change in changes:
        change()
        versions.append(plant.version)
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"soc_frac": 1.2}, r"soc_frac must lie in \[0.0, 1.0\], found 1.2"),
        ({"soc_frac": [0.5, 0.01]}, "device 1: initial soc_frac 0.01 is outside its window 0.05 to 1.0"),
        ({"soh_frac": 0.0}, "soh_frac must lie in"),
        ({"backup_frac": -0.1}, "backup_frac must lie in"),
        ({"soc_frac": float("nan")}, "soc_frac must lie in"),
        ({"random_share": 1.1}, "random_share must lie in"),
        ({"load_var_per_w": 2.1}, "load_var_per_w must lie in"),
        ({"step_s": 0.03}, "step_s must be a whole number of ticks of 20 ms, found 0.03"),
        ({"step_s": 0.0}, "step_s must be a whole number of ticks"),
    ],
)
def test_a_start_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plant([home()] * 2, **arguments)


def test_energy_that_is_not_a_number_stops_the_run() -> None:
    plant = one()
    plant.state[0, STATE.index("energy_j"), 0] = np.nan
    with pytest.raises(InvariantError, match="battery energy is not a number after 50 ticks"):
        plant.advance(50)


def test_a_device_that_recharges_to_its_reserve_must_have_one() -> None:
    with pytest.raises(ValidationError, match="recharge needs has_reserve: true"):
        home(control={"revert_state": "recharge", "has_reserve": False})


def with_ramp(plant: Plant, ramp_s: float) -> GridSettings:
    return replace(plant.settings(0), enter=replace(plant.settings(0).enter, ramp_s=ramp_s))


def test_settings_that_are_refused_leave_the_old_ones_in_force() -> None:
    plant = one()
    before, version = plant.settings(0), plant.version
    columns = plant.control.copy()
    with pytest.raises(SettingError, match="ESRmpTms: found 2000 s; allowed is 1 to 1000 s"):
        plant.set_settings(0, with_ramp(plant, 2000.0))
    assert plant.settings(0) == before
    assert np.array_equal(plant.control, columns)
    plant.set_settings(0, with_ramp(plant, 100.0))
    assert plant.settings(0) == replace(before, enter=replace(before.enter, ramp_s=100.0))
    assert plant.controls("enter_ramp_ticks")[0] == 100 * TICKS_PER_S
    assert plant.version > version


def test_settings_of_one_device_are_its_own() -> None:
    plant = Plant([home()] * 10)
    plant.set_settings(9, with_ramp(plant, 60.0))
    assert plant.controls("enter_ramp_ticks").tolist() == [15_000.0] * 9 + [3000.0]


def test_a_longer_ramp_is_for_the_next_time() -> None:
    """A device in service for long once fell back to the share of a ramp that was then made longer."""
    plant = write(one(0.5), set_ena=1.0, set_w=3000.0)
    plant.advance(5 * TICKS_PER_S)
    plant.set_settings(0, with_ramp(plant, 1000.0))
    plant.advance(5 * TICKS_PER_S)
    assert state(plant, "power_w") == 3000.0
    write(plant, permit=0.0)
    plant.advance(1)
    write(plant, permit=1.0)
    plant.advance(400 * TICKS_PER_S)
    assert state(plant, "power_w") == pytest.approx(5000.0 * 0.1, abs=10.0)


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, found 0"):
        Plant([home()], threads=0)


def test_threads_do_not_change_a_bit() -> None:
    one_by_one, together = (Plant([home() for _ in range(40)], soc_frac=0.5, threads=k) for k in (1, 2))
    for plant in (one_by_one, together):
        randomize(plant, np.random.default_rng(1))
        plant.advance(3 * TICKS_PER_S + 7)
    assert np.array_equal(one_by_one.state, together.state)
    assert np.array_equal(one_by_one.control, together.control)
    assert np.any(one_by_one.states("power_w") != 0.0)


def test_scheduled_changes_of_settings_happen_at_their_tick() -> None:
    plant = one()
    plant.schedule(
        0, "ramp", 75, lambda settings: replace(settings, enter=replace(settings.enter, ramp_s=9.0))
    )
    plant.schedule(
        0, "delay", 30, lambda settings: replace(settings, enter=replace(settings.enter, delay_s=7.0))
    )
    plant.schedule(0, "never", 40, lambda settings: pytest.fail("was taken off the schedule"))
    plant.unschedule(0, "never")
    assert plant.scheduled_ticks(0, "never") == 0
    plant.advance(29)
    assert (plant.scheduled_ticks(0, "ramp"), plant.scheduled_ticks(0, "delay")) == (46, 1)
    assert plant.settings(0).enter.delay_s == 300.0
    plant.advance(1)
    assert (plant.settings(0).enter.delay_s, plant.settings(0).enter.ramp_s) == (7.0, 300.0)
    plant.advance(45)
    assert (plant.settings(0).enter.delay_s, plant.settings(0).enter.ramp_s) == (7.0, 9.0)
    assert plant.scheduled_ticks(0, "ramp") == 0
    plant.schedule(0, "ramp", 10, lambda settings: settings)
    plant.schedule(0, "ramp", 20, lambda settings: settings)  # in place of the first
    assert plant.scheduled_ticks(0, "ramp") == 20


@pytest.mark.parametrize("step_s", [0.02, 1.0, 60.0, 900.0])
def test_an_idle_day_costs_the_same_at_any_length_of_step(step_s: float) -> None:
    plant = Plant([home()], soc_frac=0.5, step_s=step_s)
    plant.advance(HOUR if step_s == 0.02 else 24 * HOUR)
    assert energy_wh(plant) == pytest.approx(6750.0 - 15.0 * (1.0 if step_s == 0.02 else 24.0), abs=1e-6)
