"""Reactive power on the grid (IEEE 1547-2018, 5.2, 5.3), and what it leaves of the active power."""

from __future__ import annotations

from typing import Final

import numpy as np

from .battery import loss
from .names import ON_GRID
from .ops import Columns, Flow, Mask, Value, assume, clamp, most, size

CURRENT_PU: Final = 1.2
"""Most current, of the rated one: a lower voltage than its reciprocal takes from the apparent power."""
ARRIVED_VAR: Final = 1e-6
"""A lag this close to its end has arrived [var]."""


def react(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, coarse: bool) -> None:
    """Set the reactive power, and hold the active power within what it leaves of the rating.

    One function acts at a time: volt-var before watt-var before constant reactive power before constant power
    factor; settings that would enable two are refused where they are written.
    """
    on_grid = k.status == ON_GRID
    volt_var = _volt_var(c, u, s, on_grid, coarse)
    out_w, in_w = most(k.convert_w, 0.0), most(-k.convert_w, 0.0)
    factor_var = np.where(c.pf_ena != 0.0, out_w * c.pf_var_per_w, 0.0) + np.where(
        c.pf_abs_ena != 0.0, in_w * c.pf_abs_var_per_w, 0.0
    )
    asked_var = np.where(
        c.volt_var_ena != 0.0,
        volt_var,
        np.where(
            c.watt_var_ena != 0.0,
            _watt_var(k, c),
            np.where(c.var_ena != 0.0, c.var_var, factor_var),
        ),
    )
    # 5.2 asks for nothing below 5 % of rating, for all of table 7 from 20 %, in proportion to power between:
    # a quarter at 5 %.
    above_w = size(k.convert_w) - p.var_power_w_none
    share = np.where(above_w < 0.0, 0.0, clamp(0.25 + 0.75 * (above_w * p.var_per_w), 0.0, 1.0))
    given_var = clamp(asked_var, -p.var_max_absorb * share, p.var_max_inject * share)
    whole = assume(u.voltage_pu * CURRENT_PU >= 1.0)
    reach_va = np.where(whole, p.apparent_va_max, p.apparent_va_max * (u.voltage_pu * CURRENT_PU))
    given_var = np.where(whole, given_var, clamp(given_var, -reach_va, reach_va))
    runs = on_grid & ~k.ceased
    k.convert_var = np.where(runs, given_var, 0.0)
    # Reactive power goes first (4.7); active power takes what the circle leaves.
    left_va2 = reach_va * reach_va - k.convert_var * k.convert_var
    left_w = np.sqrt(most(left_va2, 0.0))
    held_w = clamp(k.convert_w, -left_w, left_w)
    held_w = np.where((held_w < 0.0) & (size(held_w) <= loss(p, size(held_w))), 0.0, held_w)
    k.slew_w_per_s = np.where(held_w == k.convert_w, k.slew_w_per_s, 0.0)
    k.convert_w = held_w


def _volt_var(c: Columns, u: Columns, s: Columns, on_grid: Mask, coarse: bool) -> Value:
    """Reactive power by voltage, after its lag (5.3.3); the reference may follow the voltage slowly."""
    v = u.voltage_pu
    auto = c.volt_var_auto != 0.0
    slow_gain = c.volt_var_auto_gain if coarse else c.volt_var_auto_gain_fine
    moved_pu = s.volt_var_ref_pu_now + slow_gain * (v - s.volt_var_ref_pu_now)
    s.volt_var_ref_pu_now = np.where(auto & on_grid, clamp(moved_pu, 0.95, 1.05), c.volt_var_ref_pu)
    x = v - (s.volt_var_ref_pu_now - c.volt_var_ref_pu)
    asked_var = (
        c.volt_var_q1_var
        + c.volt_var_s1 * clamp(x - c.volt_var_v1_pu, 0.0, c.volt_var_d1_pu)
        + c.volt_var_s2 * clamp(x - c.volt_var_v2_pu, 0.0, c.volt_var_d2_pu)
        + c.volt_var_s3 * clamp(x - c.volt_var_v3_pu, 0.0, c.volt_var_d3_pu)
    )
    gain = c.volt_var_gain if coarse else c.volt_var_gain_fine
    left_var = asked_var - s.volt_var_var
    # The last of the way is gone at once: a value that halves for ever ends in denormal numbers, and those
    # are slow on some processors.
    lagged_var = np.where(size(left_var) < ARRIVED_VAR, asked_var, s.volt_var_var + gain * left_var)
    s.volt_var_var = np.where(on_grid & (c.volt_var_ena != 0.0), lagged_var, 0.0)
    return s.volt_var_var


def _watt_var(k: Flow, c: Columns) -> Value:
    """Reactive power by active power (5.3.4)."""
    w = size(k.convert_w)
    inject_var = (
        c.watt_var_q1_var
        + c.watt_var_s1 * clamp(w - c.watt_var_p1_w, 0.0, c.watt_var_d1_w)
        + c.watt_var_s2 * clamp(w - c.watt_var_p2_w, 0.0, c.watt_var_d2_w)
    )
    absorb_var = (
        c.watt_var_abs_q1_var
        + c.watt_var_abs_s1 * clamp(w - c.watt_var_abs_p1_w, 0.0, c.watt_var_abs_d1_w)
        + c.watt_var_abs_s2 * clamp(w - c.watt_var_abs_p2_w, 0.0, c.watt_var_abs_d2_w)
    )
    return np.where(k.convert_w < 0.0, absorb_var, inject_var)
