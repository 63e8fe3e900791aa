"""Active power on the grid: from the command in force to what the converter gives.

The order is that of IEEE 1547-2018, 4.7: limits, volt-watt and frequency droop act together, the lowest wins;
droop outranks the active power limit.
"""

from __future__ import annotations

import numpy as np

from .battery import drain, floor_j, loss
from .names import ON_GRID, RECHARGE, SELF_CONSUMPTION
from .ops import Columns, Flow, Mask, Value, clamp, least, most, size


def target(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns) -> Value:
    """Return the remote command, else what the device does on its own, within the windows in force [W]."""
    band_j = p.recharge_band_frac * p.capacity_j
    error_j = s.soc_error_frac * p.capacity_j
    seen_j = s.energy_j + error_j  # the device knows its estimate, not the truth
    on_j = least(c.reserve_frac * p.capacity_j, p.energy_j_max - (band_j + band_j))
    s.recharging = np.where(seen_j < on_j, 1.0, np.where(seen_j >= on_j + band_j, 0.0, s.recharging))
    recharge_w = np.where(s.recharging != 0.0, -p.power_w_recharge, 0.0)
    local_w = np.where(
        p.revert_mode == SELF_CONSUMPTION,
        u.load_w - k.pv_w_possible,
        np.where(p.revert_mode == RECHARGE, recharge_w, 0.0),
    )
    low_w = np.where(c.window_in_ena != 0.0, -c.window_in_frac * p.power_w_charge_max, -p.power_w_charge_max)
    high_w = np.where(
        c.window_out_ena != 0.0, c.window_out_frac * p.power_w_charge_max, p.power_w_discharge_max
    )
    wanted_w = np.where(c.set_ena != 0.0, c.set_w, local_w)
    return least(most(wanted_w, low_w), high_w)


def supported(
    k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, wanted_w: Value, coarse: bool
) -> Value:
    """Return the wanted power after the power limit, volt-watt and frequency droop [W]."""
    on_grid = k.status == ON_GRID
    limit_w = np.where(c.limit_ena != 0.0, c.limit_frac * p.power_w_discharge_max, p.power_w_discharge_max)
    volt_w = _volt_watt(k, p, c, u, s, on_grid, coarse)
    free_w = least(wanted_w, limit_w)
    base_w, droop_on = _droop(k, p, c, u, s, free_w, on_grid, coarse)
    drooped_w = least(base_w + s.droop_w, p.power_w_discharge_max)
    return least(np.where(droop_on, drooped_w, free_w), volt_w)


def _volt_watt(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, on_grid: Mask, coarse: bool) -> Value:
    """Limit of active power by voltage, after its lag (5.4.2)."""
    over_pu = clamp(u.voltage_pu - c.volt_watt_v1_pu, 0.0, c.volt_watt_d_pu)
    asked_w = np.where(
        c.volt_watt_ena != 0.0, c.volt_watt_p1_w - c.volt_watt_s * over_pu, p.power_w_discharge_max
    )
    gain = c.volt_watt_gain if coarse else c.volt_watt_gain_fine
    lagged_w = s.volt_watt_w + gain * (asked_w - s.volt_watt_w)
    s.volt_watt_w = np.where(on_grid, lagged_w, p.power_w_discharge_max)
    return s.volt_watt_w


def _droop(
    k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, wanted_w: Value, on_grid: Mask, coarse: bool
) -> tuple[Value, Mask]:
    """Adjustment of active power by frequency, after its lag (6.5.2.7); returns (base, in force)."""
    over_hz = most(u.frequency_hz - c.droop_over_hz, 0.0)
    under_hz = most(c.droop_under_hz - u.frequency_hz, 0.0)
    enabled = (c.droop_ena != 0.0) & on_grid
    outside = enabled & ((over_hz > 0.0) | (under_hz > 0.0))
    held_w = np.where(s.droop_on != 0.0, s.droop_base_w, _last(k, s))
    s.droop_base_w = np.where(outside, held_w, wanted_w)
    s.droop_on = np.where(outside, 1.0, 0.0)
    lowest_w = least(c.droop_low_w - s.droop_base_w, 0.0)
    highest_w = most(p.power_w_discharge_max - s.droop_base_w, 0.0)
    moved_w = under_hz * c.droop_under_w_per_hz - over_hz * c.droop_over_w_per_hz
    asked_w = clamp(moved_w, lowest_w, highest_w)  # the formulas of table 23 end so, before their lag
    gain = c.droop_gain if coarse else c.droop_gain_fine
    lagged_w = s.droop_w + gain * (np.where(outside, asked_w, 0.0) - s.droop_w)
    # A remainder below a milliwatt is gone: the function is either in force or it is not.
    rests = ~outside & (size(lagged_w) < 1e-3)
    s.droop_w = np.where(enabled & ~rests, lagged_w, 0.0)
    return s.droop_base_w, outside | (s.droop_w != 0.0)


def follow(k: Flow, p: Columns, s: Columns, c: Columns, asked_w: Value) -> None:
    """Set the power while following the grid: ramp, enter-service ramp, cells."""
    on_grid, running = k.status == ON_GRID, k.before == ON_GRID
    was_w = _last(k, s)
    reach_w = p.ramp_w_per_s * k.dt_s
    bound = _bound(p, s, was_w)
    high_w = np.where(bound & (was_w > 0.0), most(was_w, asked_w), was_w)
    low_w = np.where(bound & (was_w < 0.0), least(was_w, asked_w), was_w)
    from_w = _ramp_from(p, asked_w, low_w, reach_w)
    ramped_w = most(least(asked_w, high_w + reach_w), from_w - reach_w)
    ramped = s.ramp_ticks >= c.enter_ramp_ticks  # also when there is no ramp
    share = np.where(ramped, 1.0, s.ramp_ticks * c.enter_ramp_per_tick)
    power_w = most(least(ramped_w, k.discharge_w_max * share), -k.charge_w_max * share)
    power_w = within_cells(k, p, c, s, power_w)
    power_w = np.where(on_grid & ~k.ceased, power_w, 0.0)
    step_w = size(power_w - from_w)
    counts = on_grid & running & (power_w == ramped_w) & ~k.was_ceased & ~bound
    k.convert_w = power_w
    k.slew_w_per_s = np.where(counts, step_w * k.per_s, 0.0)


def _bound(p: Columns, s: Columns, was_w: Value) -> Mask:
    """Whether reactive power held the active power back in the step before.

    Then the ramp does not bind.  If it did, power would start below the circle again in each step, and as
    reactive power may follow from active power, how much of either comes out would hang on the step's length.
    """
    least_va2 = (1.0 - 1e-9) * p.apparent_va_max * p.apparent_va_max
    mask: Mask = was_w * was_w + s.reactive_var * s.reactive_var >= least_va2
    return mask


def _last(k: Flow, s: Columns) -> Value:
    """Power to go on from: of the step before, or from before a momentary cessation; none after a return."""
    last_w = np.where(k.was_ceased, s.power_w_before, s.power_w + s.standby_w_ac)
    return np.where(k.before == ON_GRID, last_w, 0.0)


def _ramp_from(p: Columns, asked_w: Value, was_w: Value, reach_w: Value) -> Value:
    """Where the ramp goes on from: the power so far, or beyond the band where charging gains nothing.

    The loss is convex, so a charging power above `charge_w_start` exceeds its loss; a ramp that had to pass
    the band in steps smaller than the band would never get through.
    """
    next_w = was_w - reach_w
    starts = (asked_w < -p.charge_w_start) & (next_w < 0.0) & (next_w > -p.charge_w_start)
    return np.where(starts, most(was_w, 0.0) - p.charge_w_start, was_w)


def within_cells(k: Flow, p: Columns, c: Columns, s: Columns, power_w: Value) -> Value:
    """Return a power the cells can give or take for the whole step: no more than fills or empties them."""
    reserve_j = np.where(p.has_reserve != 0.0, (c.reserve_frac - s.soc_error_frac) * p.capacity_j, 0.0)
    above_w = most((s.energy_j - most(floor_j(p), reserve_j)) * k.per_s, 0.0)
    room_w = most((p.energy_j_max - s.energy_j) * k.per_s, 0.0)
    beside_w = drain(p, s, size(power_w), k.standby_w_dc)
    out_w = most(above_w - beside_w, 0.0)  # what it costs only falls with power
    held_w = most(least(power_w, out_w), -(room_w + k.standby_w_dc))
    gains = size(held_w) > loss(p, size(held_w))
    return np.where((held_w < 0.0) & ~gains, 0.0, held_w)  # would not reach the cells
