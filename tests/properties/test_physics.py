"""Properties of the plant's physics, over random device types, worlds and commands.

Rule of this file: every property is a checker that reads columns and names the rules they break, and for
every rule a test shows the checker objecting to a column that was tampered with.  The checkers repeat no
equation of the step; they state what any correct step must keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ridethrough.emulator import reference
from ridethrough.emulator.fields import CONTROL, INPUT, PARAM, STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.plant import Floats, Plant
from ridethrough.emulator.profile import DeviceProfile

from tests.strategies import Fleet, fleets, home, profiles, randomize

Mask = NDArray[np.bool_]
Columns = dict[str, Floats]
ON_GRID, ENTER, TRANSFER, ISLAND, OVERLOAD, EMPTY = (float(k) for k in range(6))
METERS = tuple(name for name in STATE if name.endswith("_j") and name != "energy_j")
BALANCE = 1e-9
"""Allowed residual, of rating times step; absolute 1e-9 W is out of reach of float64 (inverter.md, 5.4)."""


@dataclass(frozen=True)
class Moment:
    """One step: parameters, inputs and settings during it, state before and after it."""

    p: Columns
    u: Columns
    c: Columns
    before: Columns
    after: Columns
    dt_s: float

    @property
    def convert_w(self) -> Floats:
        """Converter power: at the terminals, without the standby taken there."""
        return self.after["power_w"] + self.after["standby_w_ac"]


def moments(fleet: Fleet, step_ticks: int) -> Iterator[Moment]:
    """Live through the fleet's lives: 20 ms steps in the compiled kernel, 1 s steps in the oracle."""
    plant = fleet.plant()
    p = {name: plant.params(name) for name in PARAM}
    s = {name: plant.states(name) for name in STATE}
    for k, ticks in enumerate(fleet.ticks):
        fleet.enter(plant, k)
        u = {name: plant.inputs(name) for name in INPUT}
        for _ in range(-(-ticks // step_ticks)):
            c = {name: plant.controls(name) for name in CONTROL}
            after = dict(s)
            if step_ticks == 1:
                plant.advance(1)
                after = {name: plant.states(name) for name in STATE}
            else:
                changed = dict(c)
                reference.step(p, changed, u, after, float(step_ticks))
                for name in CONTROL:
                    plant.set_control(name, changed[name])
            yield Moment(p, u, c, s, after, step_ticks / TICKS_PER_S)
            s = after


def rules(m: Moment) -> dict[str, Mask]:
    """Every rule of one step, and in which devices it holds."""
    p, u, a, b, convert_w = m.p, m.u, m.after, m.before, m.convert_w
    small_w = BALANCE * p["power_w_discharge_max"]
    ulp_j = 4.0 * np.spacing(p["capacity_j"])
    st_ = a["status"]
    closed, island, empty = (st_ == ON_GRID) | (st_ == ENTER), st_ == ISLAND, st_ == EMPTY
    high_w = np.where(st_ == ON_GRID, p["power_w_discharge_max"], np.where(island, p["power_w_surge"], 0.0))
    low_w = np.where((st_ == ON_GRID) | island | empty, -p["power_w_charge_max"], 0.0)
    reserve_j = np.where(p["has_reserve"] != 0.0, m.c["reserve_frac"] * p["capacity_j"], 0.0)
    ac_w = a["import_w"] + a["power_w"] + a["pv_w"] - a["load_w_served"]
    dc_w = a["battery_w"] - a["power_w"] - a["standby_w_ac"] - a["standby_w_dc"] - a["loss_w"]
    cell_j = b["energy_j"] - a["energy_j"] - a["battery_w"] * m.dt_s
    demand_w = u["load_w"] * p["backup_frac"]
    both = (a["charge_j"] > b["charge_j"]) & (a["discharge_j"] > b["discharge_j"])
    steps = np.array([int(x) * 6 + int(y) for x, y in zip(b["status"], st_, strict=True)])
    whole = np.where(closed, u["load_w"], np.where(island, demand_w, 0.0))
    return {
        "ac balance": np.abs(ac_w) <= small_w,
        "dc balance": np.abs(dc_w) <= small_w,
        "cell balance": np.abs(cell_j) <= small_w * m.dt_s,
        "energy window": (a["energy_j"] >= p["energy_j_min"] - ulp_j)
        & (a["energy_j"] <= p["energy_j_max"] + ulp_j),
        "ratings": (convert_w <= high_w + small_w) & (convert_w >= low_w - small_w),
        "losses": (a["loss_w"] >= 0.0) & (a["standby_w_dc"] >= 0.0) & (a["standby_w_ac"] >= 0.0),
        "one direction": ~both & ((convert_w >= 0.0) | (-convert_w >= a["loss_w"])),
        "meters": np.all([a[name] >= b[name] for name in METERS], axis=0),
        "dead meter": ((u["grid_good"] != 0.0) & closed) | (a["import_w"] == 0.0),
        "open switch": (u["grid_good"] != 0.0) | ~closed,
        "pv": (a["pv_w"] >= 0.0) & (a["pv_w"] <= u["pv_w_available"] + small_w),
        "service": (a["load_w_served"] == whole)
        & (a["backup_w_served"] == np.where(closed | island, demand_w, 0.0)),
        "permit": (st_ != ON_GRID) | (convert_w == 0.0) | (m.c["permit"] != 0.0),
        "reserve": (st_ != ON_GRID) | (convert_w <= 0.0) | (a["energy_j"] >= reserve_j - ulp_j),
        "transitions": np.isin(steps, [from_ * 6 + to for from_, to in ALLOWED]),
    }


ALLOWED = frozenset(
    (STATUS.index(before), STATUS.index(after))
    for before, afters in {
        "on_grid": ("on_grid", "transfer", "enter"),
        "enter": ("enter", "on_grid", "transfer"),
        # An island that cannot carry the panel in its first step is over in that step.
        "transfer": ("transfer", "enter", "island", "overload", "empty"),
        "island": ("island", "on_grid", "enter", "overload", "empty"),
        "overload": ("overload", "enter", "island", "empty"),
        "empty": ("empty", "enter", "island", "overload"),
    }.items()
    for after in afters
)


def broken(m: Moment) -> set[str]:
    return {name for name, holds in rules(m).items() if not bool(np.all(holds))}


@given(fleet=fleets(), step_ticks=st.sampled_from([1, 50]))
@settings(max_examples=100, deadline=None)
def test_every_step_keeps_every_rule(fleet: Fleet, step_ticks: int) -> None:
    for m in moments(fleet, step_ticks):
        assert broken(m) == set()


@pytest.mark.parametrize("step_ticks", [1, 50])
def test_random_lives_reach_every_status_with_both_steps(step_ticks: int) -> None:
    seen: set[float] = set()

    @given(fleet=fleets())
    @settings(max_examples=80, deadline=None, derandomize=True, phases=(Phase.generate,))
    def explore(fleet: Fleet) -> None:
        for m in moments(fleet, step_ticks):
            seen.update(m.after["status"].tolist())

    explore()
    assert seen == {ON_GRID, ENTER, TRANSFER, ISLAND, OVERLOAD, EMPTY}


def steady(status: str) -> Moment:
    """One honest step of the plain home in the given status."""
    plant = Plant([home(inverter={"enter_delay_s": 1.0})], soc_frac=0.5)
    plant.set_input("load_w", 1000.0)
    plant.set_control("set_ena", 1.0)
    plant.set_control("set_w", 2000.0)
    ticks = {"on_grid": 100, "enter": 5, "transfer": 5, "island": 100, "overload": 100, "empty": 100}[status]
    plant.set_input("grid_good", float(status in ("on_grid", "enter")))
    if status == "enter":
        plant.set_control("permit", 0.0)
    if status == "overload":
        plant.set_input("load_w", 9000.0)
    if status == "empty":
        plant.state[0, STATE.index("energy_j"), 0] = plant.params("energy_j_min")[0]
    plant.advance(ticks)
    p, u = {k: plant.params(k) for k in PARAM}, {k: plant.inputs(k) for k in INPUT}
    c, before = {k: plant.controls(k) for k in CONTROL}, {k: plant.states(k) for k in STATE}
    plant.advance(1)
    m = Moment(p, u, c, before, {k: plant.states(k) for k in STATE}, 0.02)
    assert m.after["status"] == STATUS.index(status)
    return m


@pytest.mark.parametrize("status", STATUS)
def test_an_honest_step_breaks_nothing(status: str) -> None:
    assert broken(steady(status)) == set()


@pytest.mark.parametrize(
    ("rule", "status", "column", "change"),
    [
        ("ac balance", "on_grid", "import_w", 1e-4),
        ("ac balance", "island", "power_w", 1e-4),
        ("ac balance", "on_grid", "pv_w", 1e-4),
        ("dc balance", "on_grid", "loss_w", 1e-4),
        ("dc balance", "overload", "standby_w_dc", 1e-4),
        ("cell balance", "on_grid", "energy_j", 1e-3),
        ("cell balance", "empty", "battery_w", 1e-4),
        ("energy window", "on_grid", "energy_j", 1e9),
        ("energy window", "empty", "energy_j", -1e-3),
        ("ratings", "on_grid", "power_w", 3001.0),
        ("ratings", "island", "power_w", -6001.0),
        ("ratings", "enter", "power_w", 1e-3),
        ("ratings", "transfer", "power_w", 1e-3),
        ("ratings", "overload", "power_w", -1e-3),
        ("ratings", "empty", "power_w", 1e-3),
        ("losses", "on_grid", "loss_w", -1000.0),
        ("losses", "on_grid", "standby_w_dc", -16.0),
        ("one direction", "on_grid", "charge_j", 1.0),
        ("one direction", "on_grid", "power_w", -2010.0),
        ("meters", "on_grid", "loss_j", -1e5),
        ("meters", "island", "backup_served_j", -1e5),
        ("dead meter", "island", "import_w", 1e-12),
        ("dead meter", "transfer", "import_w", -1e-12),
        ("open switch", "island", "status", ON_GRID - ISLAND),
        ("pv", "on_grid", "pv_w", 1e-4),
        ("service", "transfer", "backup_w_served", 1000.0),
        ("service", "island", "load_w_served", -1.0),
        ("transitions", "enter", "status", ISLAND - ENTER),
        ("transitions", "overload", "status", ON_GRID - OVERLOAD),
    ],
)
def test_each_rule_objects_to_a_tampered_state(rule: str, status: str, column: str, change: float) -> None:
    m = steady(status)
    after = dict(m.after)
    after[column] = after[column] + change
    assert rule in broken(replace(m, after=after))


@pytest.mark.parametrize(
    ("rule", "column", "value"), [("permit", "permit", 0.0), ("reserve", "reserve_frac", 0.6)]
)
def test_each_rule_objects_to_a_setting_that_was_not_obeyed(rule: str, column: str, value: float) -> None:
    m = steady("on_grid")
    assert rule in broken(replace(m, c=m.c | {column: np.array([value])}))


class History:
    """Rules that reach over many steps; each device's own counters, kept apart from the plant's."""

    def __init__(self, n: int) -> None:
        self.good = np.full(n, np.inf)  # ticks of good grid before this step; the devices start in service
        self.ramp = np.full(n, np.inf)  # ticks on grid before this step
        self.live = np.full(n, np.inf)  # ticks of a live bus before this step
        self.dark = np.zeros(n)  # ticks in transfer before this step
        self.tripped = np.zeros(n)  # ticks in overload before this step

    def broken(self, m: Moment, ticks: float = 1.0) -> set[str]:
        """Take one more step; names of the rules it breaks."""
        p, before, after, convert_w = m.p, m.before["status"], m.after["status"], m.convert_w
        rating, small_w = p["power_w_discharge_max"], BALANCE * p["power_w_discharge_max"]
        present, on_grid = m.u["grid_good"] != 0.0, after == ON_GRID
        was_w = np.where(before == ON_GRID, m.before["power_w"] + m.before["standby_w_ac"], 0.0)
        reach_w = p["ramp_w_per_s"] * m.dt_s + small_w
        share = np.minimum(self.ramp / np.maximum(p["enter_ramp_ticks"], 1e-9), 1.0)
        share = np.where(p["enter_ramp_ticks"] == 0.0, 1.0, share)
        within = (convert_w <= rating * share + small_w) & (
            convert_w >= -p["power_w_charge_max"] * share - small_w
        )
        # Charging starts above the converter's own loss; 3 % of the rating covers the losses that are drawn.
        start_w = np.where((was_w < reach_w) & (was_w > -0.03 * rating), 0.03 * rating, 0.0)
        low_w, high_w = np.minimum(was_w - reach_w, 0.0) - start_w, np.maximum(was_w + reach_w, 0.0)
        gentle = (convert_w <= high_w) & (convert_w >= low_w)
        formed = (before == TRANSFER) & np.isin(after, [ISLAND, OVERLOAD, EMPTY])
        restarted = (before == OVERLOAD) & np.isin(after, [ISLAND, EMPTY])
        result = {
            "enter delay": ~on_grid | (convert_w == 0.0) | (self.good >= p["enter_delay_ticks"]),
            "enter ramp": ~on_grid | within,
            "slew": ~on_grid | gentle,
            "dark time": ~formed | (self.dark == p["transfer_ticks"]),
            "restart": ~restarted | (self.tripped >= p["restart_ticks"]),
            "pv return": (m.after["pv_w"] == 0.0) | (self.live >= p["pv_return_ticks"]),
        }
        woken = (after == EMPTY) & (before == EMPTY) & (m.u["pv_w_available"] > p["standby_w"])
        self.good = np.where(present, self.good + ticks, 0.0)
        self.ramp = np.where(on_grid, self.ramp + ticks, 0.0)
        self.live = np.where(np.isin(after, [ON_GRID, ENTER, ISLAND]) | woken, self.live + ticks, 0.0)
        self.dark = np.where(after == TRANSFER, self.dark + ticks, 0.0)
        self.tripped = np.where(after == OVERLOAD, self.tripped + ticks, 0.0)
        return {name for name, holds in result.items() if not bool(np.all(holds))}


@given(fleet=fleets())
@settings(max_examples=100, deadline=None)
def test_delays_ramps_and_dark_times_hold(fleet: Fleet) -> None:
    history = History(len(fleet.lives))
    for m in moments(fleet, 1):
        assert history.broken(m) == set()


@pytest.mark.parametrize(
    ("rule", "status", "tamper"),
    [
        ("enter delay", "on_grid", lambda h: setattr(h, "good", np.array([49.0]))),
        ("enter ramp", "on_grid", lambda h: setattr(h, "ramp", np.array([1.0]))),
        ("slew", "on_grid", None),
        ("dark time", "transfer", lambda h: setattr(h, "dark", np.array([9.0]))),
        ("dark time", "transfer", lambda h: setattr(h, "dark", np.array([11.0]))),
        ("restart", "overload", lambda h: setattr(h, "tripped", np.array([2999.0]))),
        ("pv return", "on_grid", lambda h: setattr(h, "live", np.array([14_999.0]))),
    ],
)
def test_each_rule_of_history_objects(
    rule: str, status: str, tamper: Callable[[History], None] | None
) -> None:
    m, history = steady(status), History(1)
    if tamper:
        tamper(history)
    after = dict(m.after)
    if rule in ("dark time", "restart"):
        after["status"] = np.array([ISLAND])
    elif rule == "pv return":
        after["pv_w"] = np.array([1.0])
    elif rule == "slew":
        after["power_w"] = after["power_w"] + 101.0  # 5000 W/s for 20 ms is 100 W
    assert history.broken(replace(m, after=after)) == {rule}


def hour(seed: int, *, fine: bool, seconds: int = 3600) -> tuple[Plant, Floats]:
    """Live one hour with 48 homes, in steps of 1 s or of 20 ms; returns the plant and its first energies."""
    rng = np.random.default_rng(seed)
    types = [
        home(
            inverter={
                "ramp_w_per_s": float(rng.uniform(100.0, 5000.0)),
                "enter_delay_s": 60.0,
                "enter_ramp_s": 60.0,
            },
            island={"transfer": str(rng.choice(["ups", "fast", "slow", "dark"]))},
            control={"revert_state": revert, "has_reserve": bool(rng.integers(2)) or revert == "recharge"},
        )
        for revert in ("idle", "self_consumption", "recharge")
        for _ in range(16)
    ]
    plant = Plant(types, soc_frac=rng.uniform(0.05, 1.0, 48), backup_frac=rng.uniform(0.2, 1.0, 48))
    energy_j = plant.states("energy_j")
    span = 600 * TICKS_PER_S
    for _ in range(seconds * TICKS_PER_S // span):
        randomize(plant, rng)
        plant.set_input("load_w", np.minimum(plant.inputs("load_w"), 4500.0))
        if not fine:
            plant.advance(span)
            continue
        for _ in range(span // 48):  # calls of less than a second step 20 ms
            plant.advance(48)
    return plant, energy_j


def meter_residuals_w(plant: Plant, energy_j: Floats) -> tuple[Floats, Floats]:
    """AC and battery balance of the meters since the start, as mean power [W]."""
    flow_j = {name: plant.states(name) for name in METERS}
    out_j = flow_j["discharge_j"] - flow_j["charge_j"]
    ac_j = flow_j["import_j"] - flow_j["export_j"] + flow_j["pv_j"] + out_j - flow_j["served_j"]
    dc_j = energy_j - plant.states("energy_j") - out_j - flow_j["loss_j"] - flow_j["standby_j"]
    seconds = plant.states("elapsed_ticks") / TICKS_PER_S
    return ac_j / seconds, dc_j / seconds


@pytest.mark.parametrize("fine", [False, True], ids=["1s", "20ms"])
@pytest.mark.parametrize("seed", [3, 4])
def test_meters_of_an_hour_balance(seed: int, fine: bool) -> None:
    plant, energy_j = hour(seed, fine=fine)
    for residual_w in meter_residuals_w(plant, energy_j):
        assert np.all(np.abs(residual_w) <= BALANCE * plant.params("power_w_discharge_max"))
    assert np.all(plant.states("elapsed_ticks") == 3600 * TICKS_PER_S)
    assert np.all(plant.states("dead_import_w_high") == 0.0)


@pytest.mark.parametrize(
    "meter", ["import_j", "export_j", "pv_j", "served_j", "loss_j", "standby_j", "charge_j"]
)
def test_the_hourly_balance_sees_a_meter_that_is_off_by_a_joule(meter: str) -> None:
    plant, energy_j = hour(3, fine=False)
    plant.state[0, STATE.index(meter), 0] += 1.0
    worst = max(float(np.max(np.abs(r))) for r in meter_residuals_w(plant, energy_j))
    assert worst > BALANCE * 5000.0


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_hourly_energies_barely_depend_on_the_step(seed: int) -> None:
    coarse, fine = (hour(seed, fine=fine)[0] for fine in (False, True))
    scale_j = coarse.params("power_w_discharge_max") * 3600.0
    apart = {
        name: float(np.max(np.abs(coarse.states(name) - fine.states(name)) / scale_j)) for name in METERS
    }
    assert max(apart.values()) < 1e-3, apart
    assert max(apart.values()) > 0.0  # the two paths are two paths


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
    profile=profiles(hours_max=4.0),
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
