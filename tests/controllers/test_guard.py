"""The guard rule against the judge's formula and against the physics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.controllers.contract import Commands, Pool, Prices, Telemetry
from ridethrough.controllers.guard import ACTUATION_S, Guard, reserve_wh
from ridethrough.controllers.reserve import Reserve
from ridethrough.emulator.fields import STATE
from ridethrough.emulator.params import J_PER_WH
from ridethrough.emulator.plant import Plant
from ridethrough.hil.assembly import make_header, make_plant, make_pool
from ridethrough.hil.files import profile_names, scenario_from_dict
from ridethrough.hil.promise import home_of
from ridethrough.hil.world import World, build_world

NO_PRICES = Prices(float("nan"), np.empty(0), 900.0)


def world_of(device: str, **group: Any) -> World:
    promise = {"hours": 4, "load_w": 800 if device != "municipal-500kwh-250kw" else 20_000}
    document = {
        "name": "guard",
        "duration": "1h",
        "pool": [{"device": device, "commitment": promise, "load": "synthetic-home", **group}],
        "prices": {"constant": 50},
    }
    return build_world(scenario_from_dict(document))


def telemetry(soc_frac: float, measured_ns: int, grid_good: float = 1.0) -> Telemetry:
    one = np.array([measured_ns])
    return Telemetry(
        one, one, np.array([soc_frac]), np.zeros(1), np.zeros(1), np.array([grid_good]), NO_PRICES
    )


@pytest.mark.parametrize("device", profile_names())
def test_the_reserve_is_what_the_judge_asks_for(device: str) -> None:
    world = world_of(device, soh=0.87)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    header = make_header(world, pool, plant, level="mil", controller="reserve", speed=None)
    home = home_of({**header["devices"][0], "reserve_writes_per_day_max": 50})
    assert reserve_wh(pool.capabilities, pool.commitments)[0] == pytest.approx(home.reserve_wh, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(device=st.sampled_from(profile_names()), soc=st.floats(0.3, 1.0), validity_s=st.floats(30, 1800))
def test_a_grant_that_nobody_takes_back_ends_above_the_floor(
    device: str, soc: float, validity_s: float
) -> None:
    """Rule G against the physics: grant, deliver as late as can be, then silence."""
    world = world_of(device, soc=soc)
    plant = make_plant(world)
    pool = make_pool(world, plant)
    guard = Guard(pool, validity_s)
    step = pool.capabilities.soc_frac_step[0]
    guard.observe(0, telemetry(float(np.floor(soc / step) * step), 0))
    commands = guard.commands(pool.capabilities.power_w_discharge_max.copy())
    if not commands.power_w[0] > 0.0:
        return
    assert commands.validity_s[0] == validity_s
    plant.set_input("load_w", 0.0)
    plant.advance(round(pool.delay_s_max * 50))
    everyone = np.ones(1, dtype=np.bool_)
    plant.command(everyone, commands.power_w, np.array([int(np.ceil(validity_s * 50))]), np.full(1, np.nan))
    plant.advance(int(np.ceil((validity_s + ACTUATION_S) * 50)))
    keeps_soc = plant.controls("reserve_frac")[0] if plant.params("has_reserve")[0] else 0.0
    assert plant.states("discharge_j")[0] > 0.0 or soc <= keeps_soc
    assert plant.states("energy_j")[0] / J_PER_WH >= guard.floor_wh[0]


def _pool() -> tuple[Pool, Plant]:
    world = world_of("home-13kwh-5kw")
    plant = make_plant(world)
    return make_pool(world, plant), plant


def test_an_old_reading_lowers_the_edge_by_what_a_standing_grant_may_have_spent() -> None:
    pool, _ = _pool()
    guard = Guard(pool, 180.0)
    guard.observe(0, telemetry(0.9, 0))
    full = guard.energy_wh_low[0]
    assert guard.commands(np.array([5000.0])).power_w[0] == 5000.0
    guard.observe(60_000_000_000, telemetry(0.9, 0))
    assert full - guard.energy_wh_low[0] >= 5000.0 * 60.0 / 3600.0


@pytest.mark.parametrize(
    ("soc", "measured_s", "now_s", "grid_good"),
    [
        (float("nan"), -1, 0, float("nan")),  # nothing received yet
        (0.9, 0, 3600, 1.0),  # stale
        (0.9, 0, 0, 0.0),  # islanded
        (0.5, 0, 0, 1.0),  # below the floor
    ],
)
def test_no_discharge_without_a_fresh_reading_of_spare_energy(
    soc: float, measured_s: int, now_s: int, grid_good: float
) -> None:
    pool, _ = _pool()
    guard = Guard(pool, 180.0)
    guard.floor_wh[:] = 0.6 * pool.capabilities.energy_wh
    guard.observe(now_s * 10**9, telemetry(soc, measured_s * 10**9 if measured_s >= 0 else -1, grid_good))
    assert guard.discharge_w_max()[0] == 0.0
    assert not guard.commands(np.array([5000.0])).power_w[0] > 0.0


def test_a_reading_that_stops_moving_is_not_believed_however_fresh_its_stamp() -> None:
    pool, _ = _pool()
    guard = Guard(pool, 180.0)
    for minute in range(120):
        now_ns = minute * 60 * 10**9
        guard.observe(now_ns, telemetry(0.9, now_ns))
    assert not guard.trusted[0]
    assert guard.commands(np.array([5000.0])).power_w[0] == -5000.0  # not knowing: recharge


def test_the_reserve_setting_is_written_seldom() -> None:
    pool, _ = _pool()
    controller = Reserve()
    controller.enroll(pool)
    written = 0
    for minute in range(24 * 60):
        now_ns = minute * 60 * 10**9
        commands: Commands = controller.decide(now_ns, telemetry(0.9 - 1e-4 * (minute % 7), now_ns))
        written += int(np.isfinite(commands.reserve_soc_frac[0]))
    assert 24 <= written <= 30


def test_an_estimate_proves_no_more_than_its_error_allows() -> None:
    world = world_of("home-10kwh-4kw-ups")
    pool = make_pool(world, make_plant(world))
    device = pool.capabilities
    assert device.soc_frac_error_max[0] == 0.05
    guard = Guard(pool, 180.0)
    guard.observe(0, telemetry(0.9, 0))
    assert guard.energy_wh_low[0] == pytest.approx(0.85 * device.energy_wh[0])
    # The device holds its estimate at the register, so the truth stays above the reserve.
    assert (guard.register_frac[0] - 0.05) * device.energy_wh[0] >= guard.reserve_wh[0]


@pytest.mark.parametrize("error", [-0.05, 0.0, 0.05])
def test_no_grant_reaches_below_the_reserve_however_wrong_the_estimate(error: float) -> None:
    """The plant's own battery, its estimate off by as much as the contract admits."""
    world = world_of("home-10kwh-4kw-retry", soc=0.6)
    plant = make_plant(world)
    plant.state[:, STATE.index("soc_error_frac"), :] = error
    pool = make_pool(world, plant)
    guard = Guard(pool, 180.0)
    nothing = np.full(1, np.nan)
    for minute in range(90):
        now_ns = minute * 60 * 10**9
        shown = float(plant.states("energy_j")[0] / plant.params("capacity_j")[0])
        shown += float(plant.states("soc_error_frac")[0])
        guard.observe(now_ns, telemetry(float(np.floor(shown * 1e3) / 1e3), now_ns))
        commands = guard.commands(pool.capabilities.power_w_discharge_max.copy())
        given = ~np.isnan(commands.power_w)
        ticks = np.where(given, 9000, 0).astype(np.int64)
        plant.command(np.ones(1, dtype=np.bool_), commands.power_w, ticks, nothing)
        plant.advance(60 * 50)
        assert plant.states("energy_j")[0] / J_PER_WH >= guard.reserve_wh[0]
    assert plant.states("discharge_j")[0] / J_PER_WH > 500.0
