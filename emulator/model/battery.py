"""Converter and cells: losses, what they can take and give, and the slow stage of once a minute."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..cells import CHARGE_LIMIT_C, DISCHARGE_LIMIT_C, Pieces
from ..cells import LFP as LFP_CELLS
from ..cells import NMC as NMC_CELLS
from ..fields import TICKS_PER_S
from .names import NMC
from .ops import Columns, Flow, Number, Value, clamp, least, most

FULL_FRAC: Final = 0.001
"""A battery this close to its ceiling, of its capacity, is full, and its estimate is reset."""


def loss(p: Columns, power_w: Value) -> Value:
    """Return the converter's loss at an AC power of this size [W]."""
    return (p.loss_a_per_w * power_w + p.loss_b_frac) * power_w + p.loss_c_w


def drain(p: Columns, s: Columns, power_w: Value, own_w: Value) -> Value:
    """Return what giving an AC power of this size costs beside itself: loss, own consumption, heat [W]."""
    beside_w = loss(p, power_w) + own_w
    battery_w = power_w + beside_w
    return beside_w + s.ohm_per_w_now * battery_w * battery_w


def limits(k: Flow, p: Columns, c: Columns, s: Columns) -> None:
    """Set what cells and converter can take and give now, energy apart."""
    sound = c.bms_open == 0.0
    taper = most(1.0 - p.taper_per_j * most(s.energy_j - p.taper_j, 0.0), p.taper_frac_min)
    charge_w = least(p.power_w_charge_max * taper, s.charge_w_limit)
    k.charge_w_max = np.where(sound, charge_w, 0.0)
    k.discharge_w_max = np.where(sound, least(p.power_w_discharge_max, s.discharge_w_limit), 0.0)


def floor_j(p: Columns) -> Value:
    """Return the energy at which the weakest cell is empty [J]."""
    return p.energy_j_min + p.imbalance_frac * p.capacity_j


def slow(p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> None:
    """Move on what changes within minutes: temperature, leakage, the estimate, and what hangs on them."""
    period_s = ticks / TICKS_PER_S
    rise_k = s.heat_j / period_s * p.thermal_k_per_w
    s.temp_c = s.temp_c + p.thermal_gain * (u.ambient_c + rise_k - s.temp_c)
    s.heat_j = s.heat_j * 0.0
    leaked_j = p.self_discharge_per_s * period_s * most(s.energy_j, 0.0)
    s.energy_j = s.energy_j - leaked_j
    s.self_j = s.self_j + leaked_j
    s.energy_j_low = least(s.energy_j, s.energy_j_low)
    full = s.energy_j >= p.energy_j_max - FULL_FRAC * p.capacity_j
    error_frac = s.soc_error_frac + p.soc_drift_per_s * period_s
    s.soc_error_frac = np.where(full, 0.0, clamp(error_frac, -p.soc_error_frac_max, p.soc_error_frac_max))
    settle(p, s)


def settle(p: Columns, s: Columns) -> None:
    """Set what follows from temperature and state of charge alone: limits, voltage, resistance."""
    limited = p.c_rate_limited != 0.0
    charge_w = _along(CHARGE_LIMIT_C, s.temp_c) * p.charge_w_per_c_rate
    discharge_w = _along(DISCHARGE_LIMIT_C, s.temp_c) * p.charge_w_per_c_rate
    s.charge_w_limit = np.where(limited, charge_w, p.power_w_charge_max)
    s.discharge_w_limit = np.where(limited, discharge_w, p.power_w_surge)
    soc_frac = clamp(s.energy_j / p.capacity_j, 0.0, 1.0)
    lfp_frac, nmc_frac = (
        _along(kind.ocv_compact, soc_frac) / kind.ocv_v_mean for kind in (LFP_CELLS, NMC_CELLS)
    )
    s.ocv_frac = np.where(p.chemistry == NMC, nmc_frac, lfp_frac)
    s.ohm_per_w_now = p.ohm_per_w / (s.ocv_frac * s.ocv_frac)


def _along(pieces: Pieces, x: Value) -> Value:
    """Return a curve of clamped lines at `x`, the lines added in order."""
    result: Number = pieces.start
    for knot, width, slope in zip(pieces.knots, pieces.widths, pieces.slopes, strict=True):
        result = result + slope * clamp(x - knot, 0.0, width)
    return most(result, 0.0)
