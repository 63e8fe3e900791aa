"""Books of a step: powers, energy, meters, extremes; and the clocks of settings."""

from __future__ import annotations

import numpy as np

from .battery import loss
from .names import ENTER, ISLAND, MEMBER, ON_GRID, OVERLOAD, REJOIN, TRANSFER
from .ops import Columns, Flow, Value, least, most, size

REVERTING = (("set", "w"), ("limit", "frac"))
"""Functions with a revert timer, and the value that goes back with them."""


def book(k: Flow, p: Columns, u: Columns, s: Columns) -> None:
    """Close the balances of the step and add them to the meters."""
    st, dt = k.status, k.dt_s
    closed, member = (st == ON_GRID) | (st == ENTER), st == MEMBER
    loss_w = np.where(k.convert_w == 0.0, 0.0, loss(p, size(k.convert_w)))
    battery_w = k.convert_w + loss_w + k.standby_w_dc
    ohm_w = s.ohm_per_w_now * battery_w * battery_w
    power_w = k.convert_w - k.standby_w_ac
    backup_w = np.where(closed, k.demand_w, k.served_w)
    load_w = np.where(closed, u.load_w, k.served_w)
    import_w = np.where(closed | member, load_w - k.pv_w - power_w, 0.0)
    dead_w = np.where((u.grid_good == 0.0) & ~member, size(import_w), 0.0)

    s.status = st
    s.energy_j = s.energy_j - (battery_w + ohm_w) * dt
    s.power_w = power_w
    s.reactive_var = k.convert_var
    s.battery_w = battery_w
    s.loss_w = loss_w
    s.ohm_w = ohm_w
    s.heat_j = s.heat_j + ohm_w * dt
    s.standby_w_dc = k.standby_w_dc
    s.standby_w_ac = k.standby_w_ac
    s.import_w = import_w
    s.import_var = np.where(closed | member, load_w * p.load_var_per_w - k.convert_var, 0.0)
    s.load_w_served = load_w
    s.backup_w_served = backup_w
    s.pv_w = k.pv_w
    metered: tuple[tuple[str, Value], ...] = (
        ("import_j", most(import_w, 0.0)),
        ("export_j", most(-import_w, 0.0)),
        ("discharge_j", most(power_w, 0.0)),
        ("charge_j", most(-power_w, 0.0)),
        ("pv_j", k.pv_w),
        ("curtailed_j", most(u.pv_w_available - k.pv_w, 0.0)),
        ("loss_j", loss_w),
        ("ohm_j", ohm_w),
        ("standby_j", k.standby_w_dc + k.standby_w_ac),
        ("served_j", load_w),
        ("backup_served_j", backup_w),
        ("backup_short_j", most(k.demand_w - backup_w, 0.0)),
    )
    for name, flow_w in metered:
        setattr(s, name, getattr(s, name) + flow_w * dt)
    s.energy_j_low = least(s.energy_j, s.energy_j_low)
    s.energy_j_high = most(s.energy_j, s.energy_j_high)
    s.power_w_low = least(power_w, s.power_w_low)
    s.power_w_high = most(power_w, s.power_w_high)
    s.slew_w_per_s_high = most(k.slew_w_per_s, s.slew_w_per_s_high)
    s.dead_import_w_high = most(dead_w, s.dead_import_w_high)


def tick(k: Flow, p: Columns, c: Columns, s: Columns, ticks: float) -> None:
    """Move the timers on, and let settings whose time has run out revert."""
    st = s.status
    waiting = (st == ENTER) & (c.permit != 0.0) & k.in_range
    counting = (st == TRANSFER) | (st == OVERLOAD) | (st == REJOIN) | waiting
    s.timer_ticks = np.where(counting, s.timer_ticks + ticks, 0.0)
    syncing = ((st == ISLAND) | (st == MEMBER)) & k.in_range
    s.good_ticks = np.where(syncing, s.good_ticks + ticks, 0.0)
    s.ramp_ticks = np.where(st == ON_GRID, least(s.ramp_ticks + ticks, c.enter_ramp_ticks), 0.0)
    s.elapsed_ticks = s.elapsed_ticks + ticks
    _revert(c, "permit_rvrt_ticks", {"permit": 1.0}, ticks)
    for name, value in REVERTING:
        back = {
            f"{name}_ena": getattr(c, f"{name}_rvrt_ena"),
            f"{name}_{value}": getattr(c, f"{name}_rvrt_{value}"),
        }
        _revert(c, f"{name}_rvrt_ticks", back, ticks)
    window: dict[str, Value | float] = {
        "window_in_ena": 0.0,
        "window_out_ena": 0.0,
        "window_in_frac": 1.0,
        "window_out_frac": 1.0,
    }
    _revert(c, "window_rvrt_ticks", window, ticks)


def _revert(c: Columns, timer: str, back: dict[str, Value | float], ticks: float) -> None:
    """Count one timer down; where it runs out, take the settings it goes back to."""
    left = getattr(c, timer)
    out = (left > 0.0) & (left <= ticks)
    for name, value in back.items():
        setattr(c, name, np.where(out, value, getattr(c, name)))
    setattr(c, timer, np.where(left > 0.0, most(left - ticks, 0.0), 0.0))


__all__ = ["book", "tick"]
