"""What any correct step of the plant must keep, as checkers that read columns and name the rules they break.

Rule of this file: the checkers repeat no equation of the step; they state what must hold whatever the
equations are.  For every rule a test in `test_physics.py` shows it objecting to a column tampered with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ridethrough.emulator.fields import CONTROL, INPUT, PARAM, SLOW_TICKS, STATE, STATUS, TICKS_PER_S
from ridethrough.emulator.model.ops import Columns as ModelColumns
from ridethrough.emulator.model.step import slow, step
from ridethrough.emulator.plant import Floats, Plant
from ridethrough.emulator.reference import load, store

from tests.strategies import Fleet

Mask = NDArray[np.bool_]
Columns = dict[str, Floats]
ON_GRID, ENTER, TRANSFER, ISLAND, OVERLOAD, EMPTY, REJOIN, MEMBER = (float(k) for k in range(len(STATUS)))
CESSATION = 2.0
METERS = tuple(name for name in STATE if name.endswith("_j") and name not in ("energy_j", "heat_j"))
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


def columns(plant: Plant) -> tuple[Columns, Columns, Columns, Columns]:
    """Return copies of parameters, settings, inputs and state."""
    p, c, u, s = (
        dict(zip(names, array.transpose(1, 0, 2).reshape(len(names), -1)[:, : plant.n].copy(), strict=True))
        for names, array in (
            (PARAM, plant.param),
            (CONTROL, plant.control),
            (INPUT, plant.input),
            (STATE, plant.state),
        )
    )
    return p, c, u, s


def moment(plant: Plant) -> Moment:
    """Make one step of 20 ms and return it."""
    p, c, u, before = columns(plant)
    plant.advance(1)
    return Moment(p, u, c, before, columns(plant)[3], 1.0 / TICKS_PER_S)


def coarse_moment(plant: Plant) -> Moment:
    """Make one step of 1 s in the oracle, also where the plant itself would take fifty of 20 ms."""
    p, c, u, before = columns(plant)
    rows = np.arange(plant.n)
    mp, mc, mu, ms = load((plant.param, plant.control, plant.input, plant.state), rows)
    if np.any(np.mod(ms.elapsed_ticks, SLOW_TICKS) == 0.0):
        slow(mp, mc, mu, ms, float(SLOW_TICKS))
    step(mp, mc, mu, ms, float(TICKS_PER_S), coarse=True)
    _store(plant, mc, ms)
    return Moment(p, u, c, before, columns(plant)[3], 1.0)


def _store(plant: Plant, control: ModelColumns, state: ModelColumns) -> None:
    rows = np.arange(plant.n)
    store(plant.control, CONTROL, rows, control)
    store(plant.state, STATE, rows, state)
    plant.touch()


def moments(fleet: Fleet, step_ticks: int) -> Iterator[Moment]:
    """Live through the fleet's lives: 20 ms steps of the plant, or 1 s steps in the oracle."""
    plant = fleet.plant()
    for k, ticks in enumerate(fleet.ticks):
        fleet.enter(plant, k)
        for _ in range(-(-ticks // step_ticks)):
            fleet.share(plant, k, step_ticks)
            yield moment(plant) if step_ticks == 1 else coarse_moment(plant)


def rules(m: Moment) -> dict[str, Mask]:
    """Every rule of one step, and in which devices it holds."""
    return _balances(m) | _powers(m) | _service(m)


def broken(m: Moment) -> set[str]:
    """Return the names of the rules one step breaks."""
    return {name for name, holds in rules(m).items() if not bool(np.all(holds))}


def _balances(m: Moment) -> dict[str, Mask]:
    p, a, b = m.p, m.after, m.before
    small_w = BALANCE * p["power_w_discharge_max"]
    ulp_j = 4.0 * np.spacing(p["capacity_j"])
    wired = np.isin(a["status"], [ON_GRID, ENTER, MEMBER])
    leaked_j = a["self_j"] - b["self_j"]
    ac_w = a["import_w"] + a["power_w"] + a["pv_w"] - a["load_w_served"]
    load_var = a["load_w_served"] * p["load_var_per_w"]
    ac_var = a["import_var"] + np.where(wired, a["reactive_var"] - load_var, 0.0)
    dc_w = a["battery_w"] - a["power_w"] - a["standby_w_ac"] - a["standby_w_dc"] - a["loss_w"]
    cell_j = b["energy_j"] - a["energy_j"] - (a["battery_w"] + a["ohm_w"]) * m.dt_s - leaked_j
    losses = ("loss_w", "ohm_w", "standby_w_dc", "standby_w_ac")
    return {
        "ac balance": np.abs(ac_w) <= small_w,
        "reactive balance": np.abs(ac_var) <= small_w,
        "dc balance": np.abs(dc_w) <= small_w,
        "cell balance": np.abs(cell_j) <= small_w * m.dt_s,
        # Leakage alone may empty a battery below its floor.
        "energy window": (a["energy_j"] + leaked_j >= np.minimum(p["energy_j_min"], b["energy_j"]) - ulp_j)
        & (a["energy_j"] <= p["energy_j_max"] + ulp_j),
        "losses": np.all([a[name] >= 0.0 for name in losses], axis=0),
        "meters": np.all([a[name] >= b[name] for name in METERS], axis=0),
        "numbers": np.all(
            [np.isfinite(a[name]) for name in STATE if not name.startswith("power_w_")], axis=0
        ),
    }


def _powers(m: Moment) -> dict[str, Mask]:
    p, c, u, a, b, convert_w = m.p, m.c, m.u, m.after, m.before, m.convert_w
    small_w = BALANCE * p["power_w_discharge_max"]
    ulp_j = 4.0 * np.spacing(p["capacity_j"])
    on_grid, member = a["status"] == ON_GRID, a["status"] == MEMBER
    apart = (a["status"] == ISLAND) | member
    high_w = np.where(on_grid, p["power_w_discharge_max"], np.where(apart, p["power_w_surge"], 0.0))
    low_w = np.where(on_grid | apart | (a["status"] == EMPTY), -p["power_w_charge_max"], 0.0)
    both = (a["charge_j"] > b["charge_j"]) & (a["discharge_j"] > b["discharge_j"])
    var = a["reactive_var"]
    apparent_va = np.hypot(np.where(on_grid, convert_w, np.maximum(convert_w, 0.0)), var)
    va_max = np.where(on_grid, p["apparent_va_max"], p["power_w_surge"])
    beyond = (u["voltage_pu"] < c["cease_low_pu"]) | (u["voltage_pu"] > c["cease_high_pu"])
    limited = (c["limit_ena"] != 0.0) & (a["droop_on"] == 0.0) & (a["droop_w"] == 0.0)
    limit_w = np.where(limited, c["limit_frac"] * p["power_w_discharge_max"], np.inf)
    reserve_j = np.where(p["has_reserve"] != 0.0, c["reserve_frac"] * p["capacity_j"], 0.0)
    # An estimate far too low is no reserve that was spent: nothing shows less than an empty battery.
    seen_j = np.maximum(a["energy_j"] + a["soc_error_frac"] * p["capacity_j"], 0.0)
    cell_w = np.where(on_grid, convert_w, 0.0)
    return {
        "ratings": (convert_w <= high_w + small_w) & (convert_w >= low_w - small_w),
        "one direction": ~both & ((convert_w >= 0.0) | (-convert_w >= a["loss_w"]) | member),
        "apparent": apparent_va <= va_max + small_w,
        "reactive rating": ~on_grid
        | ((var <= p["var_max_inject"] + small_w) & (var >= -p["var_max_absorb"] - small_w)),
        "reactive off": np.isin(a["status"], [ON_GRID, ISLAND, MEMBER]) | (var == 0.0),
        "cessation": ~(on_grid & beyond) | ((convert_w == 0.0) & (var == 0.0)),
        "warmth": (cell_w <= a["discharge_w_limit"] + small_w) & (-cell_w <= a["charge_w_limit"] + small_w),
        "contactors": (c["bms_open"] == 0.0) | (a["battery_w"] == 0.0),
        "permit": ~on_grid | (convert_w == 0.0) | (c["permit"] != 0.0),
        "limit": ~on_grid | (convert_w <= limit_w + small_w),
        "reserve": ~on_grid | (convert_w <= 0.0) | (seen_j >= reserve_j - ulp_j),
    }


def _service(m: Moment) -> dict[str, Mask]:
    p, u, a, b = m.p, m.u, m.after, m.before
    status = a["status"]
    small_w = BALANCE * p["power_w_discharge_max"]
    closed, member = (status == ON_GRID) | (status == ENTER), status == MEMBER
    energised = (u["grid_good"] != 0.0) | (u["grid_held"] != 0.0)
    demand_w = u["load_w"] * p["backup_frac"]
    shed = np.zeros_like(demand_w)
    for tier in (1.0, 2.0, 3.0):
        shed = shed + np.where(b["shed_tiers"] >= tier, p[f"shed_frac_{tier:.0f}"], 0.0)
    kept_w = np.where(status == ISLAND, demand_w * (1.0 - shed), np.where(member, u["share_load_w"], 0.0))
    short_w = (a["backup_short_j"] - b["backup_short_j"]) / m.dt_s
    steps = [(int(x), int(y)) for x, y in zip(b["status"], status, strict=True)]
    grows_w = BALANCE * p["power_w_discharge_max"] + 4.0 * np.spacing(a["backup_short_j"]) / m.dt_s
    missing_w = np.where(closed, 0.0, demand_w - a["backup_w_served"])
    return {
        "dead meter": (energised & closed) | member | ((a["import_w"] == 0.0) & (a["import_var"] == 0.0)),
        "open switch": energised | ~closed,
        "community": ~member | ((u["community"] > 0.0) & (p["can_island"] != 0.0)),
        "capable": (p["can_island"] != 0.0) | np.isin(status, [ON_GRID, ENTER, TRANSFER]),
        "pv": (a["pv_w"] >= 0.0) & (a["pv_w"] <= u["pv_w_available"] + small_w),
        "shifted pv": ~((status == ISLAND) & (b["shifting"] != 0.0)) | (a["pv_w"] == 0.0),
        "service": (a["load_w_served"] == np.where(closed, u["load_w"], kept_w))
        & (a["backup_w_served"] == np.where(closed, demand_w, kept_w)),
        "short": np.abs(short_w - missing_w) <= grows_w,
        "bus": np.where(
            status == ISLAND,
            a["bus_hz"] > 0.0,
            (a["bus_hz"] == np.where(member, u["share_hz"], np.where(closed, u["frequency_hz"], 0.0)))
            & (a["bus_pu"] == np.where(member, u["share_pu"], np.where(closed, u["voltage_pu"], 0.0))),
        ),
        "transitions": np.array([pair in ALLOWED for pair in steps]),
    }


_DARK = ("island", "overload", "empty")
ALLOWED = frozenset(
    (STATUS.index(before), STATUS.index(after))
    for before, afters in {
        "on_grid": ("on_grid", "transfer", "enter"),
        "enter": ("enter", "on_grid", "transfer"),
        # An island that cannot carry the panel in its first step is over in that step.
        "transfer": ("transfer", "enter", "member", *_DARK),
        "island": ("on_grid", "enter", "rejoin", "member", *_DARK),
        "overload": ("enter", "member", *_DARK),
        "empty": ("enter", "member", *_DARK),
        "rejoin": ("rejoin", "on_grid", "enter", "transfer"),
        "member": ("member", "on_grid", "enter", "transfer", *_DARK),
    }.items()
    for after in afters
)
