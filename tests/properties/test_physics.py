"""Random device types, worlds and commands keep every rule of `physics` and `history`.

Other properties: meters and step lengths in `test_physics_time.py`, functions of the grid in
`test_physics_grid.py`, islands in `test_physics_island.py`, cells in `test_physics_cells.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from ridethrough.emulator.fields import RIDE, STATE, STATUS
from ridethrough.emulator.plant import Plant

from tests.properties.history import History
from tests.properties.physics import (
    ENTER,
    ISLAND,
    ON_GRID,
    OVERLOAD,
    REJOIN,
    TRANSFER,
    Moment,
    broken,
    moment,
    moments,
    rules,
)
from tests.strategies import Fleet, fleets, home

lively = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A life has many parts to draw; drawing it may take longer than living it."""


@given(fleet=fleets(), step_ticks=st.sampled_from([1, 50]))
@lively
def test_every_step_keeps_every_rule(fleet: Fleet, step_ticks: int) -> None:
    for m in moments(fleet, step_ticks):
        assert broken(m) == set()


@given(fleet=fleets())
@lively
def test_delays_ramps_dark_times_and_trips_hold(fleet: Fleet) -> None:
    history = History(len(fleet.lives))
    for m in moments(fleet, 1):
        assert history.broken(m) == set()


@pytest.mark.parametrize("step_ticks", [1, 50])
def test_random_lives_reach_every_status_with_both_steps(step_ticks: int) -> None:
    missing = {("status", float(k)) for k in range(len(STATUS))} | {
        ("ride", float(k)) for k in range(len(RIDE))
    }

    def was_the_last(fleet: Fleet) -> bool:
        for m in moments(fleet, step_ticks):
            for name in ("status", "ride"):
                missing.difference_update((name, float(x)) for x in m.after[name])
        return not missing

    generate = settings(max_examples=1000, deadline=None, database=None, phases=(Phase.generate,))
    find(fleets(), was_the_last, settings=generate, random=Random(1))
    assert missing == set()


def steady(status: str) -> Moment:
    """One honest step of the plain home in the given status."""
    plant = Plant(
        [home(inverter={"enter_delay_s": 1.0}, island={"break_s": 2.0, "restart_s": 60.0})],
        soc_frac=0.5,
        load_var_per_w=0.2,
    )
    plant.set_input("load_w", 1000.0)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 2000.0)
    plant.set_input("grid_good", float(status in ("on_grid", "enter")))
    if status == "enter":
        plant.set_control("permit", 0.0)
    if status == "overload":
        plant.set_input("load_w", 9000.0)
    if status == "empty":
        plant.state[0, STATE.index("energy_j"), 0] = plant.params("energy_j_min")[0]
    if status == "member":
        plant.set_input("community", 1.0)
        plant.set_input("share_w", 800.0)
        plant.set_input("share_load_w", plant.inputs("load_w"))
    plant.advance(5 if status in ("enter", "transfer") else 100)
    if status == "rejoin":
        plant.set_input("grid_good", 1.0)
        plant.advance(55)
    m = moment(plant)
    assert m.after["status"] == STATUS.index(status)
    return m


def shaken() -> Moment:
    """One honest step on the grid in momentary cessation, with a limit and reactive power."""
    plant = Plant([home()], soc_frac=0.5)
    for name, value in (("set_ena", 1.0), ("set_w", 2000.0), ("var_ena", 1.0), ("var_var", 500.0)):
        plant.set_control(name, value)
    plant.advance(100)
    plant.set_input("voltage_pu", 0.4)
    plant.advance(5)
    m = moment(plant)
    assert m.after["status"] == ON_GRID
    return m


@pytest.mark.parametrize("status", STATUS)
def test_an_honest_step_breaks_nothing(status: str) -> None:
    assert broken(steady(status)) == set()
    assert broken(shaken()) == set()


TAMPERED = [
    ("ac balance", "on_grid", "import_w", 1e-4),
    ("ac balance", "island", "power_w", 1e-4),
    ("ac balance", "member", "import_w", 1e-4),
    ("ac balance", "on_grid", "pv_w", 1e-4),
    ("reactive balance", "on_grid", "import_var", 1e-4),
    ("reactive balance", "member", "reactive_var", 1e-4),
    ("dc balance", "on_grid", "loss_w", 1e-4),
    ("dc balance", "overload", "standby_w_dc", 1e-4),
    ("cell balance", "on_grid", "energy_j", 1e-3),
    ("cell balance", "on_grid", "ohm_w", 1e-4),
    ("cell balance", "on_grid", "self_j", 1e-3),
    ("cell balance", "empty", "battery_w", 1e-4),
    ("energy window", "on_grid", "energy_j", 1e9),
    ("energy window", "empty", "energy_j", -1e-3),
    ("ratings", "on_grid", "power_w", 3001.0),
    ("ratings", "island", "power_w", -6001.0),
    ("ratings", "member", "power_w", 6201.0),
    ("ratings", "enter", "power_w", 1e-3),
    ("ratings", "transfer", "power_w", 1e-3),
    ("ratings", "rejoin", "power_w", 1e-3),
    ("ratings", "overload", "power_w", -1e-3),
    ("ratings", "empty", "power_w", 1e-3),
    ("apparent", "on_grid", "reactive_var", 4583.0),
    ("apparent", "island", "reactive_var", 6900.0),
    ("reactive rating", "on_grid", "reactive_var", 2201.0),
    ("reactive rating", "on_grid", "reactive_var", -2201.0),
    ("reactive off", "enter", "reactive_var", 1e-9),
    ("reactive off", "rejoin", "reactive_var", 1e-9),
    ("losses", "on_grid", "loss_w", -1000.0),
    ("losses", "on_grid", "ohm_w", -1.0),
    ("losses", "on_grid", "standby_w_dc", -16.0),
    ("one direction", "on_grid", "charge_j", 1.0),
    ("one direction", "on_grid", "power_w", -2010.0),
    ("meters", "on_grid", "loss_j", -1e5),
    ("meters", "on_grid", "ohm_j", -1.0),
    ("meters", "island", "backup_served_j", -1e5),
    ("numbers", "on_grid", "temp_c", np.nan),
    ("numbers", "on_grid", "restart_ticks_now", np.inf),
    ("warmth", "on_grid", "discharge_w_limit", -5001.0),
    ("dead meter", "island", "import_w", 1e-12),
    ("dead meter", "transfer", "import_w", -1e-12),
    ("dead meter", "rejoin", "import_var", 1e-12),
    ("open switch", "island", "status", ON_GRID - ISLAND),
    ("community", "island", "status", 7.0 - ISLAND),
    ("pv", "on_grid", "pv_w", 1e-4),
    ("service", "transfer", "backup_w_served", 1000.0),
    ("service", "island", "load_w_served", -1.0),
    ("short", "transfer", "backup_short_j", 1.0),
    ("short", "island", "backup_short_j", 1e-3),
    ("bus", "on_grid", "bus_hz", 0.1),
    ("bus", "member", "bus_hz", 0.1),
    ("bus", "transfer", "bus_pu", 1.0),
    ("bus", "island", "bus_hz", -60.0),
    ("transitions", "enter", "status", ISLAND - ENTER),
    ("transitions", "overload", "status", ON_GRID - OVERLOAD),
    ("transitions", "rejoin", "status", ISLAND - REJOIN),
]


@pytest.mark.parametrize(("rule", "status", "column", "change"), TAMPERED)
def test_each_rule_objects_to_a_tampered_state(rule: str, status: str, column: str, change: float) -> None:
    m = steady(status)
    after = dict(m.after)
    after[column] = after[column] + change
    assert rule in broken(replace(m, after=after))


SETTINGS = [
    ("permit", "permit", 0.0),
    ("reserve", "reserve_frac", 0.6),
    ("contactors", "bms_open", 1.0),
    ("limit", "limit_frac", 0.3),
]


@pytest.mark.parametrize(("rule", "column", "value"), SETTINGS)
def test_each_rule_objects_to_a_setting_that_was_not_obeyed(rule: str, column: str, value: float) -> None:
    m = steady("on_grid")
    assert rule in broken(replace(m, c=m.c | {"limit_ena": np.array([1.0]), column: np.array([value])}))


def test_each_rule_objects_to_a_world_that_was_not_minded() -> None:
    m = shaken()
    for column in ("power_w", "reactive_var"):
        assert "cessation" in broken(replace(m, after=m.after | {column: np.array([1e-6])}))
    m = steady("island")
    unable = m.p | {"can_island": np.array([0.0])}
    assert broken(replace(m, p=unable)) == {"capable"}
    shifted = m.before | {"shifting": np.array([1.0])}
    given = m.after | {"pv_w": np.array([1.0]), "power_w": m.after["power_w"] - 1.0}
    assert "shifted pv" in broken(replace(m, before=shifted, after=given))
    shed = m.before | {"shed_tiers": np.array([1.0])}
    assert broken(replace(m, before=shed, p=m.p | {"shed_frac_1": np.array([0.5])})) == {"service"}


def test_every_rule_is_tampered_with() -> None:
    elsewhere = {"cessation", "capable", "shifted pv"}
    tampered = {rule for rule, *_ in TAMPERED} | {rule for rule, *_ in SETTINGS} | elsewhere
    assert set(rules(steady("on_grid"))) == tampered


Tamper = Callable[[History, Moment], Moment]


def _entered_just_now(history: History, m: Moment) -> Moment:
    history.ramped[:], history.ramp[:] = False, 1.0
    return m


def _arrives(status: float, **counters: float) -> Tamper:
    """Return a way to let the step end in another status after so many ticks."""

    def tamper(history: History, m: Moment) -> Moment:
        for name, value in counters.items():
            setattr(history, name, np.array([value]))
        return replace(m, after=m.after | {"status": np.array([status])})

    return tamper


def _after(column: str, change: float) -> Tamper:
    def tamper(history: History, m: Moment) -> Moment:
        history.live[:] = 14_999.0
        return replace(m, after=m.after | {column: m.after[column] + change})

    return tamper


def _world(column: str, value: float, **counters: float) -> Tamper:
    """Return a way to let the step have happened in another world."""

    def tamper(history: History, m: Moment) -> Moment:
        for name, ticks in counters.items():
            if name in history.beyond:
                history.beyond[name] = np.array([ticks])
            else:
                setattr(history, name, np.array([ticks]))
        return replace(m, u=m.u | {column: np.array([value])})

    return tamper


@pytest.mark.parametrize(
    ("rule", "status", "tamper"),
    [
        ("enter delay", "enter", _arrives(ON_GRID, good=49.0)),
        ("synchronising", "island", _arrives(ENTER, good=49.0)),
        ("enter ramp", "on_grid", _entered_just_now),
        ("slew", "on_grid", _after("power_w", 101.0)),  # 5000 W/s for 20 ms is 100 W
        ("dark time", "transfer", _arrives(ISLAND, dark=9.0)),
        ("dark time", "transfer", _arrives(ISLAND, dark=11.0)),
        ("restart", "overload", _arrives(ISLAND, overloaded=2999.0, wait=3000.0)),
        ("break", "rejoin", _arrives(ENTER, broken_open=99.0)),
        ("break", "rejoin", _arrives(ENTER, broken_open=101.0)),
        ("pv return", "on_grid", _after("pv_w", 1.0)),
        ("trip", "on_grid", _world("voltage_pu", 0.87, under_v1=1050.0)),
        ("trip", "on_grid", _world("frequency_hz", 62.1, over_f2=8.0)),
        ("trip opens", "enter", _world("voltage_pu", 1.25, over_v2=8.0)),
        ("trip opens", "on_grid", _world("grid_good", 0.0)),
        ("ride-through", "on_grid", _arrives(TRANSFER)),
        ("ride-through", "on_grid", _arrives(ENTER)),
        ("stays closed", "enter", _arrives(TRANSFER)),
    ],
)
def test_each_rule_of_history_objects(rule: str, status: str, tamper: Tamper) -> None:
    m, history = steady(status), History(1)
    history.was_w = m.before["power_w"].copy()
    honest = History(1)
    honest.was_w, honest.dark = history.was_w.copy(), np.array([10.0])
    assert honest.broken(m) == set()
    assert rule in history.broken(tamper(history, m))
