"""What the judge asks of a battery against what the plant's cells really lose and gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import STATE, STATUS
from ridethrough.emulator.plant import Plant
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.files import profile_names, scenario_from_dict
from ridethrough.hil.promise import Home, home_of, restore_s
from ridethrough.hil.world import build_world

from tests.properties.scenarios import CANNOT_ISLAND

ISLAND = float(STATUS.index("island"))
DEVICES = tuple(name for name in profile_names() if name not in CANNOT_ISLAND)

few = settings(deadline=None, max_examples=40)


def bench(device: str, hours_h: float, load_w: float, **group: Any) -> tuple[Plant, Home]:
    """A plant of one device, and the judge's view of it."""
    promise = {"hours": hours_h, "load_w": load_w}
    document = {
        "name": "bound",
        "duration": "1h",
        "pool": [{"device": device, "commitment": promise, "load": "synthetic-home", **group}],
    }
    world = build_world(scenario_from_dict(document))
    plant = make_plant(world)
    header = make_header(world, make_pool(world, plant), plant, level="mil", controller="none", speed=None)
    return plant, home_of({**header["devices"][0], "reserve_writes_per_day_max": 50})


def energy_wh(plant: Plant) -> float:
    return float(plant.states("energy_j")[0]) / 3600.0


@few
@given(
    device=st.sampled_from(DEVICES),
    hours_h=st.sampled_from([0.5, 1.0, 3.0]),
    share=st.floats(0.02, 0.5),
    shape=st.lists(st.floats(0, 1), min_size=1, max_size=12),
)
@example(device="home-10kwh-4kw-ups", hours_h=3.0, share=0.2, shape=[1.0] * 12)
@example(device="home-10kwh-4kw-retry", hours_h=1.0, share=0.5, shape=[1.0])
def test_a_reserve_serves_any_load_within_the_promise(
    device: str, hours_h: float, share: float, shape: list[float]
) -> None:
    """Reserve to the joule, an outage, and any load that uses no more than promised up to each time."""
    rating_w = bench(device, 1.0, 100.0)[1].power_w_discharge_max
    load_w = share * rating_w
    home = bench(device, hours_h, load_w)[1]
    if home.reserve_wh > home.energy_wh_max:
        return
    plant, home = bench(device, hours_h, load_w, soc=home.reserve_wh / home.energy_wh)
    plant.set_input("grid_good", 0.0)
    plant.set_input("voltage_pu", 0.0)
    before_wh, saved_wh = energy_wh(plant), 0.0
    step_h = hours_h / len(shape)
    for part in shape:  # saves up what the promise allows, and spends it in a burst
        saved_wh += load_w * step_h
        power_w = min(part * rating_w, saved_wh / step_h)
        saved_wh -= power_w * step_h
        plant.set_input("load_w", power_w)
        plant.advance(round(step_h * 3600.0) * 50)
    assert plant.states("status")[0] == ISLAND
    assert plant.states("shed_tiers")[0] == 0.0
    spent_wh = before_wh - energy_wh(plant)
    assert energy_wh(plant) >= home.energy_wh_floor
    assert spent_wh <= home.reserve_wh - home.energy_wh_floor - home.energy_wh_step


@pytest.mark.parametrize("device", DEVICES)
def test_the_reserve_is_not_much_larger_than_bursts_at_full_power_need(device: str) -> None:
    """The bound is met by a burst at full power, but for idling converters and the voltage of empty cells."""
    plant, home = bench(device, 1.0, 100.0)
    rating_w = home.power_w_discharge_max
    plant, home = bench(device, 0.5, 0.4 * rating_w, soc=0.8)
    plant.set_input("grid_good", 0.0)
    plant.set_input("voltage_pu", 0.0)
    before_wh = energy_wh(plant)
    for power_w, length_s in ((rating_w, 720), (0.0, 1080)):
        plant.set_input("load_w", power_w)
        plant.advance(length_s * 50)
    spent_wh = before_wh - energy_wh(plant)
    bound_wh = home.reserve_wh - home.energy_wh_floor - home.energy_wh_step
    assert spent_wh <= bound_wh <= 1.04 * spent_wh


def charging(device: str, soc: float, wanted: float) -> tuple[Plant, Home]:
    """A plant at the first step of its enter-service ramp, and a home whose reserve is `wanted`."""
    promise = {"hours": 1, "load_w": 100, "recovery": "0s"}
    plant, home = bench(device, 1.0, 100.0, soc=soc, commitment=promise)
    floor_wh = (wanted * home.energy_wh - home.energy_wh_step) * home.kept_frac(0.0)
    plant.state[:, STATE.index("ramp_ticks"), :] = 0.0
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", -home.power_w_charge_max)
    return plant, replace(home, promised_ns=0, energy_wh_floor=floor_wh)


@few
@given(device=st.sampled_from(profile_names()), soc=st.floats(0.15, 0.9), missing=st.floats(0.005, 0.3))
@example(device="home-10kwh-4kw-ups", soc=0.9, missing=0.08)
@example(device="home-10kwh-4kw-retry", soc=0.86, missing=0.12)
@example(device="home-10kwh-10kw-three-phase", soc=0.5, missing=0.25)
def test_charging_at_full_power_is_in_time_and_not_by_much(device: str, soc: float, missing: float) -> None:
    """Along the enter-service ramp, without patience; taper, heat and leaks included.

    Where warmth may hold the charge back, the bound takes the warmest the cells can ever get: it is not near.
    """
    plant, home = charging(device, soc, min(soc + missing, 0.99))
    near = home.power_w_charge_sure == home.power_w_charge_max
    before_wh = energy_wh(plant)
    due_s = restore_s(home, home.reserve_wh - before_wh, home.enter_ramp_s)
    early_s = max(0.9 * due_s - 60.0 - (1.0 - home.taper_frac_min) * home.enter_ramp_s, 0.0)
    plant.advance(int(early_s) * 50)
    assert energy_wh(plant) < home.reserve_wh or not near
    # A device ramps in steps of a second, and each one at the power of its beginning.
    plant.advance((int(np.ceil(due_s)) + 2 - int(early_s)) * 50)
    assert energy_wh(plant) >= home.reserve_wh - home.tolerance_wh


@pytest.mark.parametrize("device", profile_names())
@pytest.mark.parametrize("ambient_c", [5, 25, 40])
def test_what_is_sure_can_be_had(device: str, ambient_c: float) -> None:
    """An hour of charging and of discharging at what the surroundings leave of the ratings."""
    for sign in (1.0, -1.0):
        plant, home = bench(device, 1.0, 100.0, soc=0.5 + 0.3 * sign, ambient_c=ambient_c)
        # Charging stands beside the most reactive power; in an island there is none but the load's own.
        plant.set_input("voltage_pu", 0.93 if sign < 0.0 else 1.0)
        sure_w = home.power_w_discharge_sure if sign > 0.0 else home.power_w_charge_sure
        plant.set_control("set_ena", 1.0)
        plant.set_control("set_w", sign * sure_w)
        plant.advance(60 * 50)
        for _ in range(10):
            plant.advance(60 * 50)
            assert sign * plant.states("power_w")[0] >= sure_w * (1.0 - 1e-9)
