"""Islands: what they shed and when it comes back, how they curtail PV, how often they restart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.plant import Floats, Plant

from tests.strategies import home

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HOUR = 3600 * TICKS_PER_S


def apart(soc_frac: float, load_w: float, pv_w: float = 0.0, **changes: dict[str, Any]) -> Plant:
    """Return a home that has been without the grid for a second."""
    plant = Plant([home(**changes)], soc_frac=soc_frac)
    plant.set_input("load_w", load_w)
    plant.set_input("pv_w_available", pv_w)
    plant.set_input("grid_good", 0.0)
    plant.advance(TICKS_PER_S)
    return plant


def value(plant: Plant, name: str) -> float:
    return float(plant.states(name)[0])


def set_energy(plant: Plant, soc_frac: float) -> None:
    plant.state[0, STATE.index("energy_j"), 0] = soc_frac * plant.params("capacity_j")[0]


def course(plant: Plant, ticks: int, *names: str) -> list[tuple[float, ...]]:
    """Step 20 ms at a time; return what some columns were."""
    seen = []
    for _ in range(ticks):
        plant.advance(1)
        seen.append(tuple(value(plant, name) for name in names))
    return seen


def runs(values: list[float]) -> list[tuple[float, int]]:
    """Return each value with how long it lasted."""
    return [(key, len(list(group))) for key, group in itertools.groupby(values)]


TIERS: list[dict[str, float]] = [
    {"frac": 0.3, "soc_frac": 0.6},
    {"frac": 0.2, "soc_frac": 0.4},
    {"frac": 0.1, "soc_frac": 0.2},
]


def stairs(served: Floats, allowed: Floats, wait: int) -> set[str]:
    """Return the rules that a course of served load, one value a tick, breaks.

    Served load is one of the `allowed` stairs, goes up one at a time, and stays `wait` ticks before that.
    """
    place = np.argmin(np.abs(served[:, None] - allowed[None, :]), axis=1)
    broken = set() if np.allclose(served, allowed[place], atol=1e-6) else {"between stairs"}
    steps = [(int(key), len(list(group))) for key, group in itertools.groupby(place.tolist())]
    for (a, lasted), (b, _) in itertools.pairwise(steps):
        if b < a - 1:
            broken.add("two stairs at once")
        if b < a and lasted < wait:
            broken.add("too early")
    return broken


def test_the_check_of_stairs_objects() -> None:
    allowed = np.array([1.0, 0.7, 0.5])

    def check(*parts: tuple[float, int]) -> set[str]:
        return stairs(np.concatenate([np.full(n, x) for x, n in parts]), allowed, 10)

    assert check((1.0, 5), (0.5, 10), (0.7, 10), (1.0, 1)) == set()
    assert check((1.0, 5), (0.6, 10)) == {"between stairs"}
    assert check((0.5, 10), (1.0, 10)) == {"two stairs at once"}
    assert check((0.5, 10), (0.7, 9), (1.0, 10)) == {"too early"}


@given(
    parts=st.lists(st.tuples(st.floats(0.05, 0.33), st.floats(0.1, 0.9)), min_size=1, max_size=3),
    restore_s=st.floats(0.1, 3.0),
    places=st.lists(st.floats(0.06, 1.0), min_size=1, max_size=8),
    load_w=st.floats(100.0, 4900.0),
)
@few
def test_tiers_go_in_order_and_come_back_one_by_one_after_the_wait(
    parts: list[tuple[float, float]], restore_s: float, places: list[float], load_w: float
) -> None:
    socs = sorted((soc for _, soc in parts), reverse=True)
    tiers = [{"frac": frac, "soc_frac": soc} for (frac, _), soc in zip(parts, socs, strict=True)]
    plant = apart(1.0, load_w, island={"shed": tiers, "restore_s": restore_s})
    allowed = load_w * (1.0 - np.cumsum([0.0, *(frac for frac, _ in parts)]))
    served: list[tuple[float, ...]] = []
    for soc_frac in places:  # as if the battery had been charged or emptied meanwhile
        set_energy(plant, soc_frac)
        served += course(plant, 200, "backup_w_served")
        shed = sum(soc_frac < soc for soc in socs)
        assert value(plant, "shed_tiers") >= shed
    assert stairs(np.array(served)[:, 0], allowed, round(restore_s * TICKS_PER_S)) == set()


def test_tiers_go_at_their_energies_and_come_back_five_hundredths_above() -> None:
    plant = apart(0.65, 2000.0, island={"shed": TIERS, "restore_s": 22.0, "pv_return_s": 1.0})
    goes, last = [], 2000.0
    for _ in range(6 * 3600):
        plant.advance(TICKS_PER_S)
        served = value(plant, "backup_w_served")
        if served != last and STATUS[int(value(plant, "status"))] == "island":
            goes.append((round(served), value(plant, "energy_j") / plant.params("capacity_j")[0]))
            last = served
    assert [w for w, _ in goes] == [1400, 1000, 800]
    assert [soc for _, soc in goes] == pytest.approx([0.6, 0.4, 0.2], abs=0.001)
    plant.set_input("pv_w_available", 6000.0)
    comes = []
    for _ in range(5 * 3600):
        plant.advance(TICKS_PER_S)
        served = value(plant, "backup_w_served")
        if served != last:
            comes.append((round(served), value(plant, "energy_j") / plant.params("capacity_j")[0]))
            last = served
    if comes[0][0] == 0:
        comes = comes[2:]
    assert comes[-3:] == [
        (1000, pytest.approx(0.25, abs=0.002)),
        (1400, pytest.approx(0.45, abs=0.002)),
        (2000, pytest.approx(0.65, abs=0.002)),
    ]


def test_an_overload_sheds_before_it_trips() -> None:
    plant = apart(0.9, 6000.0, island={"shed": TIERS, "shed_overload_s": 5.0, "restore_s": 22.0})
    seen = course(plant, 40 * TICKS_PER_S, "backup_w_served", "status")
    assert {STATUS[int(status)] for _, status in seen} == {"island"}
    lasted = runs([round(w) for w, _ in seen])
    # A second went by in `apart`, 0.2 s of it dark; then 4200 W for the wait, 6000 W for the overload time.
    assert lasted[0] == (6000, 5 * TICKS_PER_S - 40)
    assert lasted[1] == (4200, 22 * TICKS_PER_S + 1)
    assert lasted[2] == (6000, 5 * TICKS_PER_S)


@pytest.mark.parametrize(
    ("restart_s", "growth", "most_s", "waits"),
    [
        (10.0, 2.0, 120.0, [10, 20, 40, 80, 120, 120]),
        (60.0, 1.0, 7200.0, [60, 60, 60]),
        (5.0, 3.0, 20.0, [5, 15, 20, 20]),
    ],
)
def test_restarts_wait_longer_each_time(
    restart_s: float, growth: float, most_s: float, waits: list[int]
) -> None:
    island = {"restart_s": restart_s, "restart_growth": growth, "restart_s_max": most_s}
    plant = apart(0.9, 6000.0, island=island, inverter={"surge_s": 1.0})
    seen = course(plant, (sum(waits) + len(waits)) * TICKS_PER_S, "status")
    lasted = [n for status, n in runs([s for (s,) in seen]) if STATUS[int(status)] == "overload"]
    assert lasted[: len(waits) - 1] == [wait * TICKS_PER_S for wait in waits[:-1]]
    plant.set_input("grid_good", 1.0)
    plant.advance(301 * TICKS_PER_S)
    assert STATUS[int(value(plant, "status"))] == "on_grid"
    plant.set_input("grid_good", 0.0)
    seen = course(plant, round((restart_s + 2.0) * TICKS_PER_S), "status")
    lasted = [n for status, n in runs([s for (s,) in seen]) if STATUS[int(status)] == "overload"]
    assert lasted == [round(restart_s * TICKS_PER_S)]  # the row begins again


SHIFT = {"pv": "trips", "pv_trip_hz_above": 1.0, "shift_hz_above": 2.0, "pv_return_s": 5.0}


def test_pv_that_can_only_trip_is_off_for_its_own_delay_after_a_shift() -> None:
    plant = apart(0.9, 500.0, 4000.0, island=SHIFT | {"shift_soc_frac_on": 0.97, "shift_soc_frac_off": 0.96})
    plant.advance(6 * TICKS_PER_S)
    assert value(plant, "pv_w") == 4000.0
    set_energy(plant, 0.98)
    seen = course(plant, 3 * TICKS_PER_S, "bus_hz", "pv_w")
    assert seen[0] == (62.0, 4000.0)  # it trips on the frequency it sees
    assert set(seen[1:]) == {(62.0, 0.0)}
    set_energy(plant, 0.955)
    hz, pv = zip(*course(plant, 6 * TICKS_PER_S, "bus_hz", "pv_w"), strict=True)
    assert set(hz) == {60.0}
    # The frequency is back from the first tick on; the PV inverter counts from the tick after.
    assert runs(list(pv)) == [(0.0, 5 * TICKS_PER_S + 1), (4000.0, TICKS_PER_S - 1)]


def test_pv_that_knows_droop_gives_what_the_frequency_asks() -> None:
    plant = apart(0.9, 500.0, 4000.0, island=SHIFT | {"pv": "droop", "pv_trip_hz_above": 2.0})
    plant.advance(6 * TICKS_PER_S)
    assert value(plant, "bus_hz") == 60.0
    plant.set_input("load_w", 3000.0)
    set_energy(plant, 1.0)  # full: nothing to charge but what standby and loss take
    plant.advance(TICKS_PER_S)
    pv_w, hz = value(plant, "pv_w"), value(plant, "bus_hz")
    assert pv_w == pytest.approx(3000.0, abs=60.0)
    # IEEE 1547, 6.5.2.7: from 60.036 Hz on by 5 % of 60 Hz for all of it.
    assert hz == pytest.approx(60.036 + 3.0 * (1.0 - pv_w / 4000.0), abs=1e-9)
    plant.set_input("load_w", 300.0)  # too little load: droop would ask for more than the trip limit
    plant.advance(2 * TICKS_PER_S)
    assert (value(plant, "bus_hz"), value(plant, "pv_w")) == (62.0, 0.0)


@pytest.mark.parametrize("kind", ["commanded", "droop", "trips"])
def test_a_full_island_never_takes_more_pv_than_it_can_use(kind: str) -> None:
    plant = apart(0.99, 800.0, 5000.0, island=SHIFT | {"pv": kind})
    most_j = 0.0
    for _ in range(7200):
        plant.advance(TICKS_PER_S)
        most_j = max(most_j, value(plant, "energy_j"))
        assert value(plant, "backup_w_served") == 800.0
        assert value(plant, "power_w") + value(plant, "pv_w") == pytest.approx(800.0, abs=1e-9)
    assert most_j <= plant.params("energy_j_max")[0]
    assert value(plant, "pv_j") > 0.0


@given(loads=st.lists(st.floats(0.0, 4900.0), min_size=2, max_size=8), droop=st.floats(0.0, 0.05))
@few
def test_the_frequency_of_an_island_falls_with_its_power(loads: list[float], droop: float) -> None:
    plant = apart(0.9, 100.0, island={"droop_frac": droop})
    found = []
    for load_w in sorted(loads):
        plant.set_input("load_w", load_w)
        plant.advance(5)
        found.append(value(plant, "bus_hz"))
        assert found[-1] == pytest.approx(60.0 - droop * 60.0 * load_w / 5000.0, abs=1e-9)
    assert found == sorted(found, reverse=True)


def test_reactive_load_lowers_the_voltage_and_counts_in_the_rating() -> None:
    plant = Plant([home(island={"voltage_droop_frac": 0.05})], soc_frac=0.5, load_var_per_w=0.75)
    plant.set_input("load_w", 3600.0)  # 4500 VA
    plant.set_input("grid_good", 0.0)
    plant.advance(TICKS_PER_S)
    assert value(plant, "reactive_var") == pytest.approx(2700.0)
    assert value(plant, "bus_pu") == pytest.approx(1.0 - 0.05 * 2700.0 / 5000.0)
    plant.advance(60 * TICKS_PER_S)
    assert STATUS[int(value(plant, "status"))] == "island"
    plant.set_input("load_w", 4400.0)  # 5500 VA, though less than 5000 W: for the surge time only
    plant.advance(10 * TICKS_PER_S)
    assert STATUS[int(value(plant, "status"))] == "island"
    plant.advance(1)
    assert STATUS[int(value(plant, "status"))] == "overload"
