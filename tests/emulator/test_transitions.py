"""The transfer switch and the island, against numbers worked out by hand; see test_plant.py for the home.

Times are counted in ticks of 20 ms by stepping one tick at a time, so that "exact" means one tick.
"""

from __future__ import annotations

from typing import Any

import pytest
from ridethrough.emulator.fields import STATUS, TICKS_PER_S
from ridethrough.emulator.plant import Plant

from tests.emulator.test_plant import energy_wh, one, state, write

DELAY = 300 * TICKS_PER_S


def status(plant: Plant) -> str:
    return STATUS[int(state(plant, "status"))]


def grid(plant: Plant, good: bool) -> Plant:
    plant.set_input("grid_good", float(good))
    return plant


def run(plant: Plant, seconds: float) -> Plant:
    plant.advance(round(seconds * TICKS_PER_S))
    return plant


def ticks_while(plant: Plant, name: str, limit: int = 60_000) -> int:
    """Count the ticks the plant stays in a status, from the next tick on."""
    for k in range(limit):
        plant.advance(1)
        if status(plant) != name:
            return k
    raise AssertionError(f"still {name} after {limit} ticks")


def outage(
    soc_frac: float = 0.5, load_w: float = 900.0, pv_w: float = 0.0, **changes: dict[str, Any]
) -> Plant:
    """Return a home on the grid whose grid is lost from the next tick on."""
    return grid(run(one(soc_frac, load_w, pv_w, **changes), 2), good=False)


@pytest.mark.parametrize(("transfer", "ticks"), [("ups", 1), ("fast", 10), ("slow", 50), ("dark", 300)])
def test_an_outage_is_dark_for_the_transfer_class_to_one_tick(transfer: str, ticks: int) -> None:
    plant = outage(island={"transfer": transfer})
    short_wh = 900.0 * ticks / TICKS_PER_S / 3600.0
    assert ticks_while(plant, "transfer") == ticks
    assert status(plant) == "island"
    assert state(plant, "backup_w_served") == state(plant, "power_w") == 900.0
    assert state(plant, "backup_short_j") / 3600.0 == pytest.approx(short_wh)
    run(plant, 3600)
    assert state(plant, "backup_short_j") / 3600.0 == pytest.approx(short_wh)
    assert state(plant, "import_w") == 0.0


def test_an_island_drains_load_loss_and_standby() -> None:
    plant = outage(load_w=2000.0)
    run(plant, 1)
    before_wh = energy_wh(plant)
    run(plant, 3600)
    assert before_wh - energy_wh(plant) == pytest.approx(2000.0 + 87.72 + 15.0, abs=1e-6)


def test_only_the_backup_panel_is_served() -> None:
    plant = grid(Plant([*one().profiles], soc_frac=0.5, backup_frac=0.4), good=False)
    plant.set_input("load_w", 2000.0)
    run(plant, 5)
    assert (
        state(plant, "load_w_served") == state(plant, "backup_w_served") == state(plant, "power_w") == 800.0
    )


def test_an_overload_is_carried_for_the_surge_time_then_trips_and_restarts() -> None:
    plant = outage(0.9, load_w=6000.0)  # above 5 kW, below the surge rating of 7 kW
    ticks_while(plant, "transfer")
    for _ in range(2):
        assert status(plant) == "island"
        assert ticks_while(plant, "island") == 10 * TICKS_PER_S - 1  # one tick was seen before
        assert (status(plant), state(plant, "backup_w_served"), state(plant, "power_w")) == (
            "overload",
            0.0,
            0.0,
        )
        assert ticks_while(plant, "overload") == 60 * TICKS_PER_S - 1
    plant.set_input("load_w", 4900.0)
    run(plant, 60)
    assert status(plant) == "island"


def test_a_short_surge_is_forgotten() -> None:
    plant = outage(0.9, load_w=6000.0)
    run(plant, 9)
    plant.set_input("load_w", 4000.0)
    run(plant, 1)
    plant.set_input("load_w", 6000.0)
    run(plant, 10)
    assert status(plant) == "island"
    run(plant, 0.02)
    assert status(plant) == "overload"


def test_above_the_surge_rating_it_trips_at_once() -> None:
    plant = outage(0.9, load_w=7001.0)
    run(plant, 600)
    assert state(plant, "backup_served_j") == 2 * 7001.0  # two seconds on the grid, none since
    assert state(plant, "power_w_high") == 0.0


def test_an_island_ends_when_the_battery_is_empty() -> None:
    plant = outage(0.10, load_w=2000.0)
    ticks_while(plant, "transfer")
    above_j = (energy_wh(plant) - 675.0) * 3600.0
    ticks = ticks_while(plant, "island")
    assert ticks == pytest.approx(above_j / (2000.0 + 87.72 + 15.0) * TICKS_PER_S, abs=1.0)
    assert status(plant) == "empty"
    left_wh = energy_wh(plant)
    assert 675.0 <= left_wh < 675.02
    run(plant, 7200)  # asleep: not even standby
    assert (status(plant), energy_wh(plant), state(plant, "backup_w_served")) == ("empty", left_wh, 0.0)


def test_pv_wakes_an_empty_home_and_it_restarts_at_its_threshold() -> None:
    plant = outage(0.05, load_w=2000.0)
    run(plant, 600)
    assert status(plant) == "empty"
    plant.set_input("pv_w_available", 3000.0)
    run(plant, 300)
    assert state(plant, "pv_j") == 0.0  # the PV inverter waits its own delay
    run(plant, 1)
    assert (state(plant, "power_w"), state(plant, "pv_w"), state(plant, "backup_w_served")) == (
        -3000.0,
        3000.0,
        0.0,
    )
    # p = 0.6: loss 34.92 + 67.8 + 27 = 129.72 W, so 2855.28 W reach the cells; 5 % of 13.5 kWh are 675 Wh.
    wait = ticks_while(plant, "empty") / TICKS_PER_S
    assert wait + 1.0 == pytest.approx(675.0 * 3600.0 / 2855.28, abs=1.0)
    assert status(plant) == "island"
    assert state(plant, "power_w") == -1000.0  # PV serves the panel and charges with the rest


def test_pv_that_ran_when_the_island_collapsed_waits_its_delay_again() -> None:
    plant = one(0.06, load_w=3000.0, pv_w=1000.0, island={"pv_return_s": 2.0})
    run(grid(plant, good=False), 10)
    assert (status(plant), state(plant, "pv_w")) == ("island", 1000.0)
    ticks_while(plant, "island")
    dark = 0
    while state(plant, "pv_w") == 0.0:
        plant.advance(1)
        dark += 1
    assert (status(plant), dark) == ("empty", 2 * TICKS_PER_S + 1)


def test_an_island_follows_the_grid_after_300_s_and_then_ramps_for_300_s() -> None:
    plant = run(outage(0.8), 600)
    run(grid(plant, good=True), 299.98)
    assert (status(plant), state(plant, "import_w")) == ("island", 0.0)
    write(plant, set_ena=1.0, set_w=5000.0)
    run(plant, 0.02)
    assert status(plant) == "island"
    run(plant, 0.02)
    assert (status(plant), state(plant, "power_w")) == ("on_grid", 0.0)
    assert state(plant, "backup_short_j") == pytest.approx(900.0 * 0.2)  # only the transfer was dark
    for seconds, share in ((75, 0.25), (75, 0.5), (150, 1.0), (60, 1.0)):
        run(plant, seconds)
        assert state(plant, "power_w") == pytest.approx(5000.0 * share, abs=5000.0 / 300.0)


def test_a_grid_that_flickers_restarts_the_delay_of_an_island() -> None:
    plant = run(outage(), 10)
    run(grid(plant, good=True), 299)
    run(grid(plant, good=False), 0.02)
    run(grid(plant, good=True), 300)
    assert status(plant) == "island"
    run(plant, 0.02)
    assert status(plant) == "on_grid"


def test_a_flicker_shorter_than_the_transfer_reconnects_without_an_island() -> None:
    plant = run(outage(island={"transfer": "dark"}), 2)
    assert (status(plant), state(plant, "import_w")) == ("transfer", 0.0)
    run(grid(plant, good=True), 0.02)
    assert (status(plant), state(plant, "import_w"), state(plant, "load_w_served")) == ("enter", 900.0, 900.0)
    write(plant, set_ena=1.0, set_w=1000.0)
    assert ticks_while(plant, "enter") == DELAY - 1
    assert (status(plant), state(plant, "power_w")) == ("on_grid", 0.0)
    run(grid(plant, good=False), 0.02)
    assert ticks_while(plant, "transfer") == 300 - 1  # the whole dark time again


def test_a_home_that_went_dark_waits_300_s_of_good_grid() -> None:
    plant = outage(0.9, load_w=8000.0)
    run(plant, 30)
    assert status(plant) == "overload"
    write(grid(plant, good=True), set_ena=1.0, set_w=2000.0)
    assert ticks_while(plant, "overload") == 0
    assert state(plant, "import_w") == 8000.0  # the grid serves the home at once
    assert ticks_while(plant, "enter") == DELAY - 1


def test_pv_returns_300_s_after_a_dark_bus() -> None:
    plant = one(0.5, load_w=900.0, pv_w=2000.0)
    run(plant, 5)
    assert state(plant, "pv_w") == 2000.0
    grid(plant, good=False)
    assert ticks_while(plant, "transfer") == 10
    ticks = 1
    while state(plant, "pv_w") == 0.0:
        plant.advance(1)
        ticks += 1
    assert ticks == DELAY + 1
    assert (state(plant, "power_w"), state(plant, "import_w")) == (-1100.0, 0.0)


def test_a_full_island_curtails_pv() -> None:
    plant = run(outage(1.0, load_w=900.0, pv_w=5000.0, island={"pv_return_s": 1.0}), 7200)
    assert status(plant) == "island"
    assert energy_wh(plant) <= 13_500.0
    assert state(plant, "pv_w") < 960.0


def test_without_permit_it_ceases_and_waits_300_s_after() -> None:
    plant = write(run(one(0.5, load_w=700.0), 2), set_ena=1.0, set_w=3000.0)
    run(plant, 5)
    write(plant, permit=0.0)
    run(plant, 0.02)
    assert (status(plant), state(plant, "power_w"), state(plant, "import_w")) == ("enter", 0.0, 700.0)
    run(plant, 900)
    assert state(plant, "power_w") == 0.0
    write(plant, permit=1.0)
    assert ticks_while(plant, "enter") == DELAY
    run(plant, 301)
    assert state(plant, "power_w") == 3000.0


def test_without_permit_an_island_goes_on() -> None:
    plant = write(run(outage(), 5), permit=0.0)
    run(plant, 60)
    assert (status(plant), state(plant, "power_w")) == ("island", 900.0)
    write(grid(plant, good=True), set_ena=1.0, set_w=2000.0)
    run(plant, 300.02)
    assert (status(plant), state(plant, "power_w"), state(plant, "import_w")) == ("enter", 0.0, 900.0)
    run(plant, 900)
    assert state(plant, "power_w_high") <= 900.0
    write(plant, permit=1.0)
    assert ticks_while(plant, "enter") == DELAY


@pytest.mark.parametrize("ramp_s", [0.0, 0.02, 300.0])
def test_the_enter_ramp_may_be_absent(ramp_s: float) -> None:
    plant = write(one(0.5, inverter={"enter_ramp_s": ramp_s}), set_ena=1.0, set_w=2000.0)
    run(plant, 2)
    assert state(plant, "power_w") == 2000.0  # a device starts ramped up
    write(plant, permit=0.0)
    run(plant, 1)
    write(plant, permit=1.0)
    run(plant, 301 + ramp_s + 1)
    assert (status(plant), state(plant, "power_w")) == ("on_grid", 2000.0)


def test_the_reserve_is_released_in_an_island() -> None:
    plant = outage(0.4, load_w=2000.0, control={"reserve_soc_frac": 0.5})
    run(plant, 3600)
    assert (status(plant), state(plant, "power_w")) == ("island", 2000.0)
    assert energy_wh(plant) < 0.3 * 13_500.0


@pytest.mark.parametrize("cancels", [True, False])
def test_an_outage_ends_remote_commands_where_the_device_says_so(cancels: bool) -> None:
    plant = one(0.5, island={"cancels_grants": cancels})
    write(plant, set_ena=1.0, set_w=1000.0, set_rvrt_ticks=1e6, window_out_ena=1.0, window_rvrt_ticks=1e6)
    run(grid(plant, good=False), 1)
    left = {k: float(plant.controls(k)[0]) for k in ("set_ena", "set_rvrt_ticks", "window_out_ena")}
    kept = {"set_ena": 1.0, "set_rvrt_ticks": 1e6 - TICKS_PER_S, "window_out_ena": 1.0}
    assert left == (dict.fromkeys(kept, 0.0) if cancels else kept)


def test_a_slow_ramp_gets_through_the_band_of_its_own_loss_in_20_ms_steps() -> None:
    # 500 W/s are 10 W in 20 ms, less than the 27 W a converter loses at any power.
    plant = write(one(0.5, inverter={"ramp_w_per_s": 500.0}), set_ena=1.0, set_w=-2000.0)
    for _ in range(5 * TICKS_PER_S):
        plant.advance(1)
    assert state(plant, "power_w") == -2000.0
    assert state(plant, "slew_w_per_s_high") == pytest.approx(500.0)


@pytest.mark.parametrize("break_s", [0.1, 5.0])
def test_break_before_make_is_dark_for_its_time_to_one_tick(break_s: float) -> None:
    plant = run(outage(island={"break_s": break_s, "sync_s": 3.0}), 10)
    grid(plant, good=True)
    assert ticks_while(plant, "island") == DELAY + 3 * TICKS_PER_S
    assert (status(plant), state(plant, "backup_w_served"), state(plant, "import_w")) == ("rejoin", 0.0, 0.0)
    assert state(plant, "bus_hz") == 0.0
    assert ticks_while(plant, "rejoin") == round(break_s * TICKS_PER_S) - 1
    assert (status(plant), state(plant, "import_w")) == ("on_grid", 900.0)
    assert state(plant, "backup_short_j") == pytest.approx(900.0 * (0.2 + break_s))


def test_a_grid_that_goes_during_the_break_is_waited_for_again() -> None:
    plant = run(outage(island={"break_s": 5.0}), 10)
    run(grid(plant, good=True), 302)
    assert status(plant) == "rejoin"
    run(grid(plant, good=False), 0.02)
    assert status(plant) == "transfer"
    run(plant, 1)
    assert status(plant) == "island"
    grid(plant, good=True)
    assert ticks_while(plant, "island") == DELAY


@pytest.mark.parametrize("detect_s", [0.0, 0.1, 2.0])
def test_a_held_up_section_is_noticed_at_its_time_to_one_tick(detect_s: float) -> None:
    plant = one(load_w=900.0, island={"detect_s": detect_s})
    run(plant, 2)
    plant.set_input("grid_held", 1.0)
    grid(plant, good=False)
    assert ticks_while(plant, "on_grid") == round(detect_s * TICKS_PER_S)
    assert status(plant) == "transfer"
    assert state(plant, "backup_short_j") == pytest.approx(900.0 * 0.02)
    run(plant, 1)
    assert (status(plant), state(plant, "import_w")) == ("island", 0.0)


def test_a_section_that_is_reconnected_in_time_is_not_noticed() -> None:
    plant = run(one(load_w=900.0), 2)
    for _ in range(3):
        plant.set_input("grid_held", 1.0)
        run(grid(plant, good=False), 2.0)
        plant.set_input("grid_held", 0.0)
        run(grid(plant, good=True), 0.02)
    assert (status(plant), state(plant, "backup_short_j")) == ("on_grid", 0.0)


def test_a_home_joins_a_community_island_and_stays_by_its_contract() -> None:
    plant = run(outage(load_w=900.0), 10)
    plant.set_input("community", 1.0)
    plant.set_input("share_w", 1500.0)
    plant.set_input("share_load_w", 900.0)
    plant.set_input("share_hz", 59.8)
    run(plant, 1)
    assert status(plant) == "member"
    assert (state(plant, "power_w"), state(plant, "import_w")) == (1500.0, -600.0)
    assert (state(plant, "backup_w_served"), state(plant, "bus_hz")) == (900.0, 59.8)
    plant.set_input("share_w", -400.0)
    run(plant, 1)
    assert (state(plant, "power_w"), state(plant, "import_w")) == (-400.0, 1300.0)


@pytest.mark.parametrize("transfer", ["ups", "slow"])
def test_a_community_island_that_collapses_leaves_the_home_dark_and_then_alone(transfer: str) -> None:
    plant = run(outage(load_w=900.0, island={"transfer": transfer}), 10)
    plant.set_input("community", 1.0)
    run(plant, 5)
    short_j = state(plant, "backup_short_j")
    plant.set_input("community", -1.0)
    dark = {"ups": 1, "slow": 50}[transfer]
    plant.advance(1)
    assert (status(plant), state(plant, "import_w"), state(plant, "backup_w_served")) == (
        "transfer",
        0.0,
        0.0,
    )
    assert ticks_while(plant, "transfer") == dark - 1
    assert (status(plant), state(plant, "power_w")) == ("island", 900.0)
    assert state(plant, "backup_short_j") - short_j == pytest.approx(900.0 * dark / TICKS_PER_S)


@pytest.mark.parametrize(("community", "then"), [(0.0, "island"), (2.0, "on_grid")])
def test_leaving_a_community_island_in_order_is_bumpless(community: float, then: str) -> None:
    plant = run(outage(load_w=900.0), 10)
    plant.set_input("community", 1.0)
    run(plant, 5)
    short_j = state(plant, "backup_short_j")
    grid(plant, good=community == 2.0)
    plant.set_input("community", community)
    run(plant, 1)
    assert (status(plant), state(plant, "backup_short_j")) == (then, short_j)
    assert state(plant, "backup_w_served") == 900.0


def test_a_device_that_cannot_island_is_dark_until_the_grid_is_back() -> None:
    plant = outage(load_w=900.0, island={"capable": False})
    run(plant, 3600)
    assert (status(plant), state(plant, "backup_w_served"), state(plant, "power_w")) == ("transfer", 0.0, 0.0)
    write(grid(plant, good=True), set_ena=1.0, set_w=1000.0)
    run(plant, 0.02)
    assert (status(plant), state(plant, "import_w")) == ("enter", 900.0)
    assert ticks_while(plant, "enter") == DELAY - 1


@pytest.mark.parametrize("name", ["voltage_pu", "frequency_hz"])
def test_a_grid_just_out_of_range_is_not_good_enough_to_return(name: str) -> None:
    plant = run(outage(), 10)
    plant.set_input(name, {"voltage_pu": 1.06, "frequency_hz": 60.2}[name])
    run(grid(plant, good=True), 1000)
    assert status(plant) == "island"
    plant.set_input(name, {"voltage_pu": 1.0, "frequency_hz": 60.0}[name])
    run(plant, 299)
    plant.set_input(name, {"voltage_pu": 0.91, "frequency_hz": 59.4}[name])
    run(plant, 0.02)
    plant.set_input(name, {"voltage_pu": 1.0, "frequency_hz": 60.0}[name])
    assert ticks_while(plant, "island") == DELAY


def test_the_random_part_of_the_delay_is_waited_too() -> None:
    plant = Plant([*one(grid={"enter_random_s": 100.0}).profiles] * 2, random_share=[0.0, 0.25])
    plant.set_control("permit", 0.0)
    run(plant, 1)
    plant.set_control("permit", 1.0)
    run(plant, 300.02)
    assert plant.states("status").tolist() == [0.0, 1.0]
    run(plant, 25)
    assert plant.states("status").tolist() == [0.0, 0.0]
