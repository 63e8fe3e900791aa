"""Devices that act on each other: through the feeder on the grid, in a community island without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ridethrough.emulator import reference
from ridethrough.emulator.community import Rules
from ridethrough.emulator.feeder import FeederSolver, single_bus
from ridethrough.emulator.fields import STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.plant import Floats, Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.strategies import home

SUPPORT, SERVED, OWN = "support", "served", "own"
MASTER = home(
    battery={"energy_wh": 200e3},
    inverter={
        "power_w_discharge_max": 60e3,
        "power_w_charge_max": 60e3,
        "power_w_surge": 80e3,
        "ramp_w_per_s": 60e3,
    },
)


def village(
    *contracts: str,
    soc: float = 0.8,
    isochronous: bool = False,
    droop_frac: float = 0.01,
    master: DeviceProfile = MASTER,
    homes: DeviceProfile | None = None,
) -> Plant:
    """A municipal node and one home for each contract, quick to join."""
    profiles = [master, *(homes or home() for _ in contracts)]
    rules = Rules(
        master=0,
        contract=("support", *contracts),  # type: ignore[arg-type]
        power_w_rated=tuple(profile.inverter.power_w_discharge_max for profile in profiles),
        isochronous=isochronous,
        droop_frac=droop_frac,
        join_s=2.0,
        stagger_s=1.0,
    )
    return Plant(profiles, soc_frac=soc, community=rules, advance=reference.advance)


def statuses(plant: Plant) -> list[str]:
    return [STATUS[int(number)] for number in plant.states("status")]


def balance_w(plant: Plant) -> float:
    """What is missing between the members, who have nobody but each other [W]."""
    members = plant.states("status") == STATUS.index("member")
    return float(np.sum(plant.states("import_w")[members]))


def out(plant: Plant, seconds: int) -> None:
    plant.set_input("grid_good", 0.0)
    plant.advance(seconds * TICKS_PER_S)


def test_supporting_homes_join_one_by_one_and_share_by_rating() -> None:
    plant = village(SUPPORT, SUPPORT, SERVED, OWN)
    plant.set_input("load_w", [20e3, 1000.0, 3000.0, 2000.0, 500.0])
    out(plant, 20)
    assert statuses(plant) == ["member"] * 4 + ["island"]
    power_w = plant.states("power_w")
    assert power_w[1] == power_w[2] == pytest.approx(power_w[0] * 5.0 / 60.0)
    assert power_w[3] == 0.0  # its load is served by the others
    assert power_w[4] == 500.0
    assert abs(balance_w(plant)) < 1e-9 * 65e3
    hz = plant.states("bus_hz")
    assert hz[0] == hz[1] == hz[2] == hz[3] < 60.0 == hz[4]
    assert np.all(plant.states("backup_w_served") == plant.inputs("load_w"))


def test_all_members_return_together_through_the_masters_delay() -> None:
    plant = village(SUPPORT, SERVED)
    plant.set_input("load_w", [20e3, 1000.0, 2000.0])
    out(plant, 20)
    plant.set_input("grid_good", 1.0)
    plant.advance(299 * TICKS_PER_S)
    assert statuses(plant) == ["member"] * 3
    plant.advance(2 * TICKS_PER_S)
    assert statuses(plant) == ["on_grid"] * 3
    assert np.all(plant.states("backup_short_j") <= 0.2 * plant.inputs("load_w") + 1e-6)  # the transfer only


def test_a_return_is_judged_by_the_grid_and_not_by_the_islands_own_frequency() -> None:
    plant = village(SUPPORT, SERVED, droop_frac=0.04)
    plant.set_input("load_w", [40e3, 1000.0, 2000.0])
    plant.set_input("voltage_pu", 0.0)  # a dead grid, as a scene shows it
    out(plant, 20)
    assert np.all(plant.states("bus_hz") < 59.0)  # far below what may enter service
    assert np.all(plant.inputs("voltage_pu") == 0.0)
    plant.set_input("voltage_pu", 1.0)
    plant.set_input("grid_good", 1.0)
    plant.advance(301 * TICKS_PER_S)
    assert statuses(plant) == ["on_grid"] * 3
    for _ in range(600):
        plant.advance(TICKS_PER_S)
        assert statuses(plant) == ["on_grid"] * 3
    assert np.all(plant.states("bus_pu") == 1.0)


def test_a_return_without_a_delay_waits_for_the_first_good_grid_only() -> None:
    plant = village(SUPPORT, master=home(inverter={**MASTER.inverter.model_dump(), "enter_delay_s": 0.0}))
    plant.set_input("load_w", [20e3, 1000.0])
    out(plant, 20)
    assert statuses(plant) == ["member"] * 2
    plant.set_input("grid_good", 1.0)
    plant.advance(2 * TICKS_PER_S)
    assert statuses(plant) == ["on_grid"] * 2


def test_members_shed_their_tiers_and_the_rest_is_still_shared_to_the_watt() -> None:
    tiers = [{"frac": 0.5, "soc_frac": 0.795}, {"frac": 0.3, "soc_frac": 0.78}]
    shedding = home(island={"shed": tiers})
    plant = village(SUPPORT, SERVED, SUPPORT, homes=shedding)
    plant.set_input("load_w", [40e3, 4000.0, 2000.0, 1000.0])
    out(plant, 20)
    seen = set()
    for _ in range(900):
        plant.advance(TICKS_PER_S)
        assert statuses(plant) == ["member"] * 4
        assert abs(balance_w(plant)) <= 1e-9 * 75e3
        seen.add(float(plant.states("shed_tiers")[1]))
    assert seen == {0.0, 1.0, 2.0}
    assert plant.states("backup_w_served")[1] == pytest.approx(4000.0 * 0.2)


def test_a_collapse_leaves_every_home_in_an_island_of_its_own() -> None:
    plant = village(SUPPORT, SERVED)
    plant.set_input("load_w", [20e3, 1000.0, 2000.0])
    out(plant, 20)
    plant.set_input("load_w", [90e3, 1000.0, 2000.0])
    plant.advance(2 * TICKS_PER_S)
    assert statuses(plant) == ["overload", "island", "island"]
    assert plant.states("power_w")[1:].tolist() == [1000.0, 2000.0]
    short_j = plant.states("backup_short_j")[1:]
    assert np.all(short_j > 0.0)  # it went dark for its transfer, and no longer
    assert np.all(short_j <= 2.0 * 0.2 * plant.inputs("load_w")[1:] + 1e-6)


def test_a_home_leaves_at_its_reserve_and_keeps_it() -> None:
    plant = village(SUPPORT, SUPPORT, soc=0.5)
    plant.set_control("reserve_frac", [0.0, 0.499, 0.1])
    plant.set_input("load_w", [50e3, 200.0, 200.0])
    out(plant, 600)
    reserve_j = 0.499 * plant.params("capacity_j")[1]
    assert statuses(plant) == ["member", "island", "member"]
    # Its own panel is served from the reserve, which is for that; nothing of it went to the others.
    own_j = (200.0 + 97.0 + 113.0 + 27.0 + 15.0) * 600.0
    assert reserve_j - own_j < plant.states("energy_j")[1] < plant.params("capacity_j")[1] * 0.5


def test_the_checks_of_this_file_see_a_member_that_gives_too_little() -> None:
    plant = village(SUPPORT)
    plant.set_input("load_w", [20e3, 1000.0])
    out(plant, 20)
    plant.state[0, STATE.index("import_w"), 1] += 1e-3
    assert abs(balance_w(plant)) > 1e-9 * 65e3


@given(
    loads=st.lists(st.floats(0.0, 4500.0), min_size=3, max_size=3),
    suns=st.lists(st.floats(0.0, 6000.0), min_size=3, max_size=3),
    master_w=st.floats(0.0, 50e3),
    contracts=st.lists(st.sampled_from([SUPPORT, SERVED, OWN]), min_size=3, max_size=3),
    isochronous=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_powers_of_members_sum_to_their_loads_at_one_frequency(
    loads: list[float], suns: list[float], master_w: float, contracts: list[str], isochronous: bool
) -> None:
    plant = village(*contracts, isochronous=isochronous)
    plant.set_input("load_w", [master_w, *loads])
    plant.set_input("pv_w_available", [0.0, *suns])
    plant.set_input("grid_good", 0.0)
    for _ in range(12):
        plant.advance(TICKS_PER_S)
        members = plant.states("status") == STATUS.index("member")
        assert abs(balance_w(plant)) <= 1e-9 * 75e3
        assert len(set(plant.states("bus_hz")[members].tolist())) <= 1
        assert len(set(plant.states("bus_pu")[members].tolist())) <= 1
        assert np.all(plant.states("power_w") <= plant.params("power_w_surge"))
        assert np.all(plant.states("pv_w") <= plant.inputs("pv_w_available"))


def street(volt_var: bool) -> tuple[Plant, FeederSolver]:
    """Five homes that export 5 kW through a weak transformer."""
    feeder = FeederSolver(single_bus(30e3, 5))
    plant = Plant([home() for _ in range(5)], feeder=feeder, advance=reference.advance)
    for d in range(5):
        old = plant.settings(d)
        plant.set_settings(d, replace(old, volt_var=replace(old.volt_var, enabled=volt_var)))
    assert plant.coupling is not None
    plant.coupling.slack_pu = 1.04  # the upstream network is high already
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 5000.0)
    plant.advance(60 * TICKS_PER_S)
    return plant, feeder


def test_export_raises_the_voltage_and_volt_var_holds_it_down() -> None:
    plain, feeder = street(False)
    held, _ = street(True)
    raised: Floats = plain.inputs("voltage_pu")
    assert np.all(raised > 1.05)
    assert np.all(held.inputs("voltage_pu") < raised - 0.003)
    assert np.all(held.states("reactive_var") < -800.0)
    assert feeder.transformer_frac == pytest.approx(25e3 / 30e3)
    assert feeder.heat_frac > 0.0


def test_a_feeder_for_another_number_of_homes_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2 devices on a feeder of 3 homes"):
        Plant([home(), home()], feeder=FeederSolver(single_bus(1e4, 3)))
