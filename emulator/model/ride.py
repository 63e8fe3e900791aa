"""Protection: trips, ride-through, momentary cessation, loss of the grid (IEEE 1547-2018, 6.4, 6.5, 8.1)."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..fields import TICKS_PER_S
from .names import CESSATION, CONTINUOUS, ENTER, ON_GRID, RIDE_THROUGH
from .ops import Columns, Flow, Mask, assume, least, most, size

CONTINUOUS_PU: Final = (0.88, 1.10)
"""Continuous operation (IEEE 1547-2018, tables 14 to 16); beyond it a disturbance is ridden through."""
CONTINUOUS_HZ: Final = (0.98, 1.02)
"""The same for frequency, of the nominal one: 58.8 Hz to 61.2 Hz (table 19)."""


def ride(k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, ticks: float) -> None:
    """Watch voltage and frequency where the switch is closed; sets lost, tripped, ceased and in_range."""
    v, f, good, held = u.voltage_pu, u.frequency_hz, u.grid_good != 0.0, u.grid_held != 0.0
    closed = (s.status == ON_GRID) | (s.status == ENTER)
    inside = assume(
        (v >= c.calm_low_pu) & (v <= c.calm_high_pu) & (f >= c.calm_low_hz) & (f <= c.calm_high_hz)
    )
    watched = closed & (good | held) & ~inside
    k.tripped = (
        _overstayed(c, s, "over_v1", watched & (v > c.over_v1_pu), ticks)
        | _overstayed(c, s, "over_v2", watched & (v > c.over_v2_pu), ticks)
        | _overstayed(c, s, "under_v1", watched & (v < c.under_v1_pu), ticks)
        | _overstayed(c, s, "under_v2", watched & (v < c.under_v2_pu), ticks)
        | _overstayed(c, s, "over_f1", watched & (f > c.over_f1_hz), ticks)
        | _overstayed(c, s, "over_f2", watched & (f > c.over_f2_hz), ticks)
        | _overstayed(c, s, "under_f1", watched & (f < c.under_f1_hz), ticks)
        | _overstayed(c, s, "under_f2", watched & (f < c.under_f2_hz), ticks)
    )
    disturbed = watched & (
        (v < CONTINUOUS_PU[0])
        | (v > CONTINUOUS_PU[1])
        | (f < CONTINUOUS_HZ[0] * p.hz_nominal)
        | (f > CONTINUOUS_HZ[1] * p.hz_nominal)
    )
    k.tripped = k.tripped | _too_fast(p, u, s, closed & (good | held), ticks)
    k.tripped = k.tripped | _too_often(p, s, disturbed, ticks)
    _cease(k, p, c, u, s, watched, disturbed, ticks)

    k.lost = ~good & (~held | (s.held_ticks >= p.detect_ticks))
    s.held_ticks = np.where(closed & ~good & held, s.held_ticks + ticks, 0.0)
    k.in_range = (
        good & (v >= c.enter_low_pu) & (v <= c.enter_high_pu) & (f >= c.enter_low_hz) & (f <= c.enter_high_hz)
    )


def _overstayed(c: Columns, s: Columns, name: str, beyond: Mask, ticks: float) -> Mask:
    """Count the stay beyond one trip limit; true once it has lasted its time."""
    used = getattr(s, f"{name}_ticks_used")
    setattr(s, f"{name}_ticks_used", np.where(beyond, used + ticks, 0.0))
    trip: Mask = beyond & (used >= getattr(c, f"{name}_ticks"))
    return trip


def _too_fast(p: Columns, u: Columns, s: Columns, live: Mask, ticks: float) -> Mask:
    """Rate of change of frequency, over a second at least, beyond what the device stands (6.5.2.5)."""
    window = s.rocof_ticks
    due = window >= TICKS_PER_S
    change_hz = size(u.frequency_hz - s.frequency_hz_before)
    gentle = assume(~due | (change_hz * TICKS_PER_S <= p.rocof_hz_per_s_max * window))
    s.frequency_hz_before = np.where(due, u.frequency_hz, s.frequency_hz_before)
    s.rocof_ticks = np.where(due, ticks, window + ticks)
    return live & ~gentle


def _too_often(p: Columns, s: Columns, disturbed: Mask, ticks: float) -> Mask:
    """One disturbance more than the device stands in a row (6.4.2.5)."""
    begins = disturbed & (s.ride == CONTINUOUS)
    in_row = np.where(s.event_ticks >= p.events_ticks, 0.0, s.event_count)
    s.event_count = np.where(begins, in_row + 1.0, in_row)
    s.event_ticks = np.where(disturbed, 0.0, least(s.event_ticks + ticks, p.events_ticks))
    trip: Mask = begins & (s.event_count > p.events_max)
    return trip


def _cease(
    k: Flow, p: Columns, c: Columns, u: Columns, s: Columns, watched: Mask, disturbed: Mask, ticks: float
) -> None:
    """Momentary cessation: no current beyond its limits and for the restore time after (6.4.2.7)."""
    beyond = watched & ((u.voltage_pu < c.cease_low_pu) | (u.voltage_pu > c.cease_high_pu))
    left = s.restore_ticks_left
    k.was_ceased = s.ride == CESSATION
    begins = beyond & ~k.was_ceased
    s.power_w_before = np.where(begins, s.power_w + s.standby_w_ac, s.power_w_before)
    k.ceased = beyond | (left > 0.0)
    counted = np.where(left > 0.0, most(left - ticks, 0.0), 0.0)
    s.restore_ticks_left = np.where(beyond, p.restore_ticks, counted)
    # Restoring is part of it: the power from before comes back as one step, within 0.4 s (6.4.2.7).
    s.ride = np.where(k.ceased, CESSATION, np.where(disturbed, RIDE_THROUGH, CONTINUOUS))
