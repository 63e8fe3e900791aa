"""Commands and cells: what a command comes to, and what cells do with power, time and warmth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import PARAM, STATE, TICKS_PER_S
from ridethrough.emulator.plant import Floats, Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.strategies import home, profiles

HOUR = 3600 * TICKS_PER_S
MINUTE = 60 * TICKS_PER_S


@given(
    validity=st.integers(1, 400),
    set_w=st.floats(-4000.0, 4000.0, allow_nan=False, allow_subnormal=False),
    revert=st.sampled_from(["idle", "self_consumption", "recharge"]),
    by_seconds=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_command_holds_for_its_validity_and_then_reverts(
    validity: int, set_w: float, revert: str, by_seconds: bool
) -> None:
    inverter = {"ramp_w_per_s": 1e7, "loss_a_w": 0.0, "loss_b_w": 0.0, "loss_c_w": 0.0, "standby_w": 0.0}
    control = {"revert_state": revert, "reserve_soc_frac": 0.9}
    plant = Plant([home(inverter=inverter, control=control)], soc_frac=0.5)
    plant.param[:, PARAM.index("has_reserve"), :] = 0.0  # or the reserve would stop the discharge
    plant.set_control("reserve_frac", 0.9)
    plant.set_input("load_w", 1800.0)
    plant.set_input("pv_w_available", 500.0)
    every = np.array([True])
    plant.command(every, np.array([set_w]), np.array([validity]), np.array([np.nan]))
    after_w = {"idle": 0.0, "self_consumption": 1300.0, "recharge": -2500.0}[revert]
    if by_seconds:
        plant.advance(validity)
        assert plant.states("power_w_low") == plant.states("power_w_high") == set_w
    else:
        for _ in range(validity):
            plant.advance(1)
            assert plant.states("power_w") == set_w
    for _ in range(3):
        plant.advance(1)
        assert plant.states("power_w") == after_w


@given(
    profile=profiles(hours_max=4.0, plain=True),
    share=st.one_of(st.floats(-0.9, -0.05), st.floats(0.0, 0.9)),
    step_ticks=st.sampled_from([1, 50]),
)
@settings(max_examples=60, deadline=None)
def test_a_command_is_reached_whatever_the_ramp_and_the_step(
    profile: DeviceProfile, share: float, step_ticks: int
) -> None:
    battery = profile.battery.model_copy(update={"energy_wh": 10.0 * profile.inverter.power_w_discharge_max})
    control = profile.control.model_copy(update={"has_reserve": False})
    soc = (battery.soc_frac_min + battery.soc_frac_max) / 2.0
    plant = Plant([profile.model_copy(update={"battery": battery, "control": control})], soc_frac=soc)
    size_w = profile.inverter.power_w_charge_max if share < 0.0 else profile.inverter.power_w_discharge_max
    set_w = share * size_w
    assume(share >= 0.0 or -set_w > 0.1 * profile.inverter.power_w_discharge_max)  # beyond its own loss
    plant.set_input("grid_good", 0.0)
    plant.advance(step_ticks)
    plant.set_input("grid_good", 1.0)
    plant.advance(int(profile.inverter.enter_delay_s * TICKS_PER_S) + 60)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", set_w)
    seconds = profile.inverter.enter_ramp_s + abs(set_w) / profile.inverter.ramp_w_per_s + 3.0
    for _ in range(int(seconds * TICKS_PER_S / step_ticks)):
        plant.advance(step_ticks)
    assert plant.states("power_w") == set_w


@given(
    charge_w=st.floats(300.0, 5000.0, allow_nan=False),
    discharge_w=st.floats(300.0, 5000.0, allow_nan=False),
)
@settings(max_examples=30, deadline=None)
def test_a_closed_cycle_returns_what_the_formula_says(charge_w: float, discharge_w: float) -> None:
    def loss_w(power_w: float) -> float:
        return 97.0 * (power_w / 5000.0) ** 2 + 113.0 * power_w / 5000.0 + 27.0

    stored_w = charge_w - loss_w(charge_w) - 15.0
    drawn_w = discharge_w + loss_w(discharge_w) + 15.0
    efficiency = (stored_w / charge_w) / (drawn_w / discharge_w)
    control = {"revert_state": "idle", "has_reserve": False}
    plant = Plant([home(inverter={"ramp_w_per_s": 1e7}, control=control)], soc_frac=0.5)
    start_j = float(plant.states("energy_j")[0])
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", -charge_w)
    plant.advance(3600 * TICKS_PER_S)
    plant.set_control("set_w", discharge_w)
    plant.advance(int(3600 * stored_w / drawn_w) * TICKS_PER_S)
    left_j = float(plant.states("energy_j")[0]) - start_j
    given_j = float(plant.states("discharge_j")[0]) + left_j * discharge_w / drawn_w
    assert 0.0 <= left_j < drawn_w
    assert given_j / float(plant.states("charge_j")[0]) == pytest.approx(efficiency, rel=1e-9)
    assert efficiency < 1.0


def warm_home(**cells: object) -> DeviceProfile:
    """Return a home whose cells have resistance, warmth and a chemistry of their own."""
    battery = {"chemistry": "nmc", "ohmic_frac_per_c": 0.04, "cooling_w_per_k": 4.0} | cells
    return home(battery=battery, inverter={"ramp_w_per_s": 1e7}, control={"has_reserve": False})


def within_warmth(temp_c: Floats, ambient_c: Floats, heat_w: Floats, k_per_w: float) -> bool:
    """Say whether cells stayed between the coldest air and the warmest air plus the rise of the most heat."""
    low_c, high_c = ambient_c.min(), ambient_c.max() + heat_w.max() * k_per_w
    return bool(np.all((temp_c >= low_c - 1e-9) & (temp_c <= high_c + 1e-9)))


@given(
    ambients=st.lists(st.floats(-20.0, 50.0), min_size=2, max_size=6),
    powers=st.lists(st.floats(-5000.0, 5000.0), min_size=6, max_size=6),
    heat_capacity=st.floats(1e3, 1e6),
)
@settings(max_examples=40, deadline=None)
def test_cells_stay_between_the_air_and_its_rise(
    ambients: list[float], powers: list[float], heat_capacity: float
) -> None:
    plant = Plant([warm_home(heat_capacity_j_per_k=heat_capacity)], soc_frac=0.5)
    plant.set_control("set_ena", 1.0)
    temps, heats = [plant.states("temp_c")[0]], [0.0]
    for k, ambient_c in enumerate(ambients):
        plant.set_input("ambient_c", ambient_c)
        plant.set_control("set_w", powers[k])
        for _ in range(20):
            plant.advance(MINUTE)
            temps.append(plant.states("temp_c")[0])
            heats.append(plant.states("ohm_w")[0])
    air = np.array([25.0, *ambients])
    # What heats is the mean of a minute; power changes between minutes only, but cells may fill in one.
    heat_w = np.array(heats) * 1.2
    assert within_warmth(np.array(temps), air, heat_w, 0.25)
    beyond = np.array([*temps, air.max() + heat_w.max() * 0.25 + 0.1])
    assert not within_warmth(beyond, air, heat_w, 0.25)


def test_cells_come_to_rest_at_the_rise_of_their_heat() -> None:
    plant = Plant([warm_home(heat_capacity_j_per_k=2e3)], soc_frac=0.9)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 1000.0)
    plant.advance(5 * HOUR)
    rise_k = plant.states("temp_c")[0] - 25.0
    assert rise_k == pytest.approx(plant.states("ohm_w")[0] / 4.0, rel=0.02)
    assert 0.5 < rise_k < 2.0


@pytest.mark.parametrize("chemistry", ["lfp", "nmc"])
@pytest.mark.parametrize("set_w", [4000.0, -4000.0])
def test_heat_in_the_cells_follows_the_square_of_power_and_the_voltage(chemistry: str, set_w: float) -> None:
    plant = Plant([warm_home(chemistry=chemistry)], soc_frac=0.5)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", set_w)
    plant.advance(2 * TICKS_PER_S)
    battery_w, ocv = plant.states("battery_w")[0], plant.states("ocv_frac")[0]
    assert plant.states("ohm_w")[0] == pytest.approx(0.04 / 13_500.0 * battery_w**2 / ocv**2, rel=1e-12)
    assert ocv == pytest.approx({"lfp": 3.266 / 3.195, "nmc": 3.751 / 3.722}[chemistry], abs=0.005)


@pytest.mark.parametrize(
    ("temp_c", "charge_c", "discharge_c"),
    [
        (-25.0, 0.0, 0.0),
        (-5.0, 0.0, 0.2),
        (5.0, 0.1, 1.0),
        (30.0, 0.5, 1.0),
        (57.0, 0.12, 0.6),
        (61.0, 0.0, 0.0),
    ],
)
def test_cold_and_heat_limit_what_the_cells_take_and_give(
    temp_c: float, charge_c: float, discharge_c: float
) -> None:
    """Rates by the table of `cells`; 0.25 of it here, so that the limits lie below the ratings."""
    cells = {"temperature_limits": True, "c_rate_share": 0.25, "heat_capacity_j_per_k": 1e9}
    plant = Plant([warm_home(**cells)] * 2, soc_frac=0.5)
    plant.state[0, STATE.index("temp_c"), :2] = temp_c
    plant.set_input("ambient_c", temp_c)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", [5000.0, -5000.0])
    plant.advance(2 * TICKS_PER_S)
    limits_w = [13_500.0 * 0.25 * discharge_c, -13_500.0 * 0.25 * charge_c]
    assert plant.states("power_w") == pytest.approx(limits_w, abs=1e-3)


def test_charging_is_held_back_towards_full_in_a_line() -> None:
    plant = Plant([warm_home(taper_soc_frac=0.8, taper_frac_min=0.1, ohmic_frac_per_c=0.0)], soc_frac=0.7)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", -5000.0)
    seen = []
    for _ in range(120):
        soc_frac = plant.states("energy_j")[0] / plant.params("capacity_j")[0]
        plant.advance(1)
        seen.append((soc_frac, -plant.states("power_w")[0] / 5000.0))
        plant.advance(MINUTE - 1)
    for soc_frac, share in seen:
        if soc_frac < 0.999:  # there the window closes
            assert share == pytest.approx(np.interp(soc_frac, [0.8, 1.0], [1.0, 0.1]), rel=1e-9)
    assert min(soc for soc, _ in seen) < 0.75
    assert max(soc for soc, _ in seen) > 0.99


@given(
    leak=st.floats(0.001, 0.5),
    soc_frac=st.floats(0.1, 1.0),
    days=st.integers(1, 5),
    step_s=st.sampled_from([1.0, 60.0, 900.0]),
)
@settings(max_examples=30, deadline=None)
def test_a_battery_at_rest_leaks_its_share_and_no_more(
    leak: float, soc_frac: float, days: int, step_s: float
) -> None:
    still = {"standby_w": 0.0}
    profile = home(battery={"self_discharge_frac_per_month": leak}, inverter=still)
    plant = Plant([profile], soc_frac=soc_frac, step_s=step_s)
    plant.set_control("permit", 0.0)
    start_j = plant.states("energy_j")[0]
    plant.advance(days * 24 * HOUR)
    left = plant.states("energy_j")[0] / start_j
    assert left == pytest.approx(np.exp(-leak * days / 30.0), rel=1e-3)
    assert plant.states("self_j")[0] == pytest.approx(start_j * (1.0 - left), rel=1e-9)


@given(
    error=st.floats(-0.2, 0.2),
    drift=st.floats(-1.0, 1.0),
    bound=st.floats(0.0, 0.2),
    hours=st.integers(1, 30),
)
@settings(max_examples=40, deadline=None)
def test_the_estimate_errs_within_its_bound_and_is_right_again_when_full(
    error: float, drift: float, bound: float, hours: int
) -> None:
    battery = {"soc_error_frac": error, "soc_drift_frac_per_day": drift, "soc_error_frac_max": bound}
    plant = Plant([home(battery=battery, control={"has_reserve": False})], soc_frac=0.5, step_s=60.0)
    for hour in range(1, hours + 1):
        plant.advance(HOUR)
        wanted = np.clip(error + drift * hour / 24.0, -max(bound, abs(error)), max(bound, abs(error)))
        assert plant.states("soc_error_frac")[0] == pytest.approx(wanted, abs=1e-9)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", -5000.0)
    plant.advance(8 * HOUR)
    assert plant.states("soc_error_frac")[0] == 0.0


@pytest.mark.parametrize("error", [-0.1, 0.1])
def test_the_reserve_is_kept_by_the_estimate_and_not_by_the_truth(error: float) -> None:
    control = {"revert_state": "recharge", "has_reserve": True, "reserve_soc_frac": 0.4}
    plant = Plant([home(battery={"soc_error_frac": error, "soc_error_frac_max": 0.1}, control=control)])
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 5000.0)
    plant.advance(4 * HOUR)
    soc_frac = plant.states("energy_j")[0] / plant.params("capacity_j")[0]
    assert soc_frac == pytest.approx(0.4 - error, abs=0.005)
    plant.set_control("set_ena", 0.0)
    plant.set_control("reserve_frac", 0.6)
    plant.advance(4 * HOUR)
    soc_frac = plant.states("energy_j")[0] / plant.params("capacity_j")[0]
    assert soc_frac == pytest.approx(0.6 - error, abs=0.01)


def test_the_weakest_cell_ends_discharge_early() -> None:
    profile = home(battery={"imbalance_frac": 0.1}, control={"has_reserve": False})
    plant = Plant([profile], soc_frac=0.5)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 5000.0)
    plant.advance(HOUR + HOUR // 2)
    soc_frac = plant.states("energy_j")[0] / plant.params("capacity_j")[0]
    assert soc_frac == pytest.approx(0.15, abs=0.002)
    plant.set_input("grid_good", 0.0)
    plant.set_input("load_w", 500.0)
    plant.advance(HOUR)
    assert plant.states("backup_w_served")[0] == 0.0
    plant.set_input("pv_w_available", 4000.0)
    plant.advance(HOUR // 2)  # PV's own delay, then up to the restart: 5 % above the weakest cell's floor
    assert plant.states("backup_w_served")[0] == 500.0


def test_open_contactors_leave_the_cells_alone() -> None:
    plant = Plant([home()] * 2, soc_frac=0.5)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 2000.0)
    plant.set_input("load_w", 800.0)
    plant.advance(TICKS_PER_S)
    plant.set_input("grid_good", [1.0, 0.0])
    plant.advance(10 * TICKS_PER_S)
    assert plant.states("backup_w_served").tolist() == [800.0, 800.0]
    plant.set_control("bms_open", 1.0)
    before_j = plant.states("energy_j")
    plant.advance(HOUR)
    assert plant.states("energy_j").tolist() == before_j.tolist()
    assert plant.states("power_w").tolist() == [-15.0, 0.0]  # the grid feeds the electronics
    assert plant.states("backup_w_served").tolist() == [800.0, 0.0]
    plant.set_control("bms_open", 0.0)
    plant.advance(TICKS_PER_S)
    assert plant.states("backup_w_served").tolist() == [800.0, 800.0]
